"""The Makefile, the stubs, the protos and the container files keep what they promise."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from support.servers.server_process import ServerProcess

ROOT = Path(__file__).resolve().parents[2]
STUBS = Path("runtimestore/v1")
COMMITTED = Path("client/python") / STUBS
TOOLS = Path(sys.executable).parent
LONGEST_MODULE_LINES = 300


def _tool(name: str) -> str:
    found = shutil.which(name, path=str(TOOLS))
    assert found, f"{name} is missing beside {sys.executable}"
    return found


def _run(*argv: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)


def _as_it_is(environment: Path) -> list[str]:
    """Make's arguments to work with this environment and install nothing into it."""
    stamps = [environment / name for name in (".serve", ".proto", ".test", ".bench", ".lint")]
    return [*(argument for stamp in stamps for argument in ("-o", str(stamp))), f"VENV={environment}"]


def _make(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Make with the running Python's environment, which it must take as it is."""
    return _run("make", *_as_it_is(Path(sys.prefix)), *arguments)


def test_make_proto_leaves_no_diff(tmp_path: Path) -> None:
    made = _make("proto", f"PROTO_OUT={tmp_path}")
    assert made.returncode == 0, made.stderr

    committed = {file.name: file.read_bytes() for file in (ROOT / COMMITTED).iterdir() if file.name.partition(".")[2]}
    generated = {file.name: file.read_bytes() for file in (tmp_path / STUBS).iterdir()}
    # Hand-written additions, an __init__.py say, would be lost in a folder that is marked as generated.
    assert sorted(committed) == sorted(generated)
    assert [name for name in generated if generated[name] != committed[name]] == []


def test_make_sync_client_leaves_no_diff(tmp_path: Path) -> None:
    made = _make("sync-client", f"SYNC_OUT={tmp_path / 'sync.py'}")
    assert made.returncode == 0, made.stderr

    assert (tmp_path / "sync.py").read_text(encoding="utf-8") == (
        ROOT / "client/python/runtimestore/sync.py"
    ).read_text(encoding="utf-8")


def test_the_protos_pass_buf_lint_and_buf_format() -> None:
    for command in (["lint", "proto"], ["format", "--diff", "--exit-code", "proto"]):
        done = _run(_tool("buf"), *command)
        assert done.returncode == 0, done.stdout + done.stderr


def test_every_room_imports_from_those_below_it_alone() -> None:
    done = _run(_tool("lint-imports"), "--no-cache", "--no-logo")

    assert done.returncode == 0, done.stdout + done.stderr


def test_every_exception_from_the_lint_rules_has_its_reason() -> None:
    for file in [ROOT / "proto/buf.yaml", *(ROOT / "proto").rglob("*.proto")]:
        lines = file.read_text(encoding="utf-8").splitlines()
        for before, line in zip(["", *lines], lines, strict=False):
            if "buf:lint:ignore" in line or re.match(r"\s+- [A-Z_]+_[A-Z_]+$", line):
                assert before.strip().startswith(("#", "//")), f"{file.name}: {line.strip()}"


def test_make_help_lists_every_target_that_people_call() -> None:
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    listed = re.findall(r"^  make (\S+)", _make("help").stdout, re.MULTILINE)

    assert listed == re.findall(r"^([a-z-]+):.*## ", text, re.MULTILINE)
    assert set(listed) >= {
        *("help", "setup", "run", "demo", "test", "test-fast", "lint", "format", "proto", "bench", "build", "clean"),
    }


def test_make_without_a_target_is_make_help() -> None:
    assert _make().stdout == _make("help").stdout


def test_make_run_serves_and_stops_when_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not (TOOLS / "runtimestore").exists():
        pytest.skip(f"the package is not installed beside {sys.executable}")
    for inherited in ("ARGS", "MAKEFLAGS", "MAKEOVERRIDES"):  # of a `make test ARGS=…` that runs this test
        monkeypatch.delenv(inherited, raising=False)
    command = ["make", "-C", str(ROOT), *_as_it_is(Path(sys.prefix)), "run"]

    # Make passes the signal on, waits, and then ends by it, as a shell would.
    with ServerProcess(f"sqlite:///{tmp_path}/store.db", command=command, exit_code=-signal.SIGTERM) as server:
        assert _run(str(TOOLS / "runtimestore"), "health", "--address", server.address).returncode == 0
    assert (tmp_path / "store.db").exists()


@pytest.mark.parametrize(
    ("target", "groups"),
    [("run", []), ("demo", []), ("proto", ["proto"]), ("lint", ["proto", "test", "bench", "lint"])],
)
def test_a_target_installs_what_it_needs_and_no_more(tmp_path: Path, target: str, groups: list[str]) -> None:
    planned = _run("make", "-n", f"VENV={tmp_path}/venv", target).stdout

    installed = re.findall(r"^scripts/setup \S+/venv *(\S*)$", planned, re.MULTILINE)
    assert installed == ["", *groups]


def test_every_target_is_phony_so_that_no_file_of_its_name_can_hide_it() -> None:
    text = (ROOT / "Makefile").read_text(encoding="utf-8")

    assert re.findall(r"^([a-z-]+):", text, re.MULTILINE) == re.findall(r"^\.PHONY: (\S+)$", text, re.MULTILINE)


@pytest.mark.parametrize("script", ["scripts/setup", "scripts/buf-breaking", ".ci/run"])
def test_the_scripts_are_executable_and_parse(script: str) -> None:
    assert os.access(ROOT / script, os.X_OK)
    shell = "bash" if script == ".ci/run" else "sh"
    assert _run(shell, "-n", script).returncode == 0


@pytest.mark.parametrize(
    ("question_it_fails", "expected"),
    [("ensurepip", "apt-get install python3.12-venv"), ("version_info", "Python 3.11 or newer is needed")],
)
def test_setup_names_the_package_that_brings_what_is_missing(
    tmp_path: Path, question_it_fails: str, expected: str
) -> None:
    interpreter = tmp_path / "python3.12"
    interpreter.write_text(f'#!/bin/sh\ncase "$2" in *{question_it_fails}*) exit 1 ;; esac\n', encoding="utf-8")
    interpreter.chmod(0o755)

    done = subprocess.run(
        ["scripts/setup", str(tmp_path / "venv")],
        cwd=ROOT,
        env={**os.environ, "PYTHON": str(interpreter)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert done.returncode == 1
    assert expected in done.stderr
    assert not (tmp_path / "venv").exists()


def test_the_dockerfile_passes_hadolint() -> None:
    done = _run(_tool("hadolint"), "Dockerfile")

    assert done.returncode == 0, done.stdout + done.stderr


def test_the_generated_stubs_are_marked_as_generated() -> None:
    done = _run("git", "check-attr", "linguist-generated", "--", f"{COMMITTED}/runtime_store_pb2.py")
    if done.returncode:
        pytest.skip("not a git checkout")

    assert done.stdout.strip().endswith(": true")


def test_no_module_is_longer_than_300_lines() -> None:
    """But the client's own, each of which is one table or one list of methods, and what is generated."""
    rooms = ("server", "migrations", "tests", "bench", "scripts", "examples")
    modules = [module for room in rooms for module in (ROOT / room).rglob("*.py")]

    long = [module for module in modules if len(module.read_text(encoding="utf-8").splitlines()) > LONGEST_MODULE_LINES]

    assert ROOT / "server/runtimestore_server/app.py" in modules
    assert long == []


def test_the_client_imports_nothing_of_the_server() -> None:
    # One distribution with a thin default works only as long as imports point one way.
    for file in (ROOT / "client/python/runtimestore").rglob("*.py"):
        imports = re.findall(r"^\s*(?:from|import) (\w+)", file.read_text(encoding="utf-8"), re.MULTILINE)
        assert not {name for name in imports if name in {"runtimestore_server", "runtimestore_migrations"}}, file


def test_the_changelog_has_the_version_that_is_built() -> None:
    version = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE)
    assert version

    assert f"## [{version[1]}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
