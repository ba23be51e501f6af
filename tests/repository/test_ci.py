"""`.ci/run` makes what it says, and ends where a tool is missing that CI must have."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def _ci_run(folder: Path, *, ci: str, commands: dict[str, str], user: str = "root") -> tuple[int, str, list[str]]:
    """What `.ci/run` does where nothing is installed but these commands: exit code, complaints, targets made."""
    script, tools, made = folder / ".ci" / "run", folder / "tools", folder / "made"
    script.parent.mkdir()
    tools.mkdir()
    shutil.copy(ROOT / ".ci" / "run", script)
    for name, body in {"make": f'echo "$1" >>{made}', **commands}.items():
        (tools / name).write_text(f"#!/bin/sh\n{body}\n", encoding="utf-8")
        (tools / name).chmod(0o755)
    for name in ("dirname", "mktemp", "rm", "chmod", "mkdir", "env", "bash"):
        (tools / name).symlink_to(shutil.which(name) or "")
    done = subprocess.run(
        [shutil.which("bash") or "bash", str(script)],
        env={"PATH": str(tools), "CI": ci, "CI_USER": user},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.returncode, done.stderr, made.read_text(encoding="utf-8").split()


@pytest.mark.parametrize("commands", [{"go": "exit 1"}, {}], ids=["go fails", "no go"])
def test_ci_ends_where_grpcurl_cannot_be_built(tmp_path: Path, commands: dict[str, str]) -> None:
    code, complaints, made = _ci_run(tmp_path, ci="true", commands=commands)

    assert code == 1
    assert "grpcurl could not be built" in complaints
    assert made == ["setup"]


@pytest.mark.parametrize("commands", [{"go": "exit 1"}, {}], ids=["go fails", "no go"])
def test_a_developer_without_grpcurl_is_warned(tmp_path: Path, commands: dict[str, str]) -> None:
    code, complaints, made = _ci_run(tmp_path, ci="", commands=commands)

    assert code == 0
    assert "grpcurl could not be built" in complaints
    assert made == ["setup", "lint", "test"]


@pytest.mark.parametrize("commands", [{"go": "exit 0"}, {"go": "exit 1", "grpcurl": ""}], ids=["built", "installed"])
def test_nobody_complains_where_grpcurl_is_there(tmp_path: Path, commands: dict[str, str]) -> None:
    assert _ci_run(tmp_path, ci="true", commands=commands) == (0, "", ["setup", "lint", "test"])


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="what root does for an ordinary user")
@pytest.mark.parametrize("rust", [False, True], ids=["no cargo", "cargo"])
def test_root_runs_the_suite_as_an_ordinary_user_and_once_more_what_needs_root(tmp_path: Path, *, rust: bool) -> None:
    made = tmp_path / "made"
    commands = {
        "id": "exit 0",
        "python3": "exit 0",
        "getent": "echo somebody:x:1:1::/home/somebody:/bin/sh",
        "cut": "echo /home/somebody",
        "chown": "exit 0",
        "git": 'eval copy=\\${$#}; mkdir -p "$copy"',
        "runuser": f'case "$*" in *.ci/run*) echo "$2 runs ${{8:-}}" >>{made};; esac',
        "make": f'echo "${{PWD##*/}}: $*" >>{made}',
    }
    if rust:
        # The build ends when the tests of root have been made: what waits for it comes after that.
        until = f"for _ in 1 2 3 4 5; do grep -qs root {made} && break; sleep 1; done"
        commands |= {
            "cargo": "exit 0",
            "chrt": "exit 0",
            "setsid": f'{until}; echo "${{PWD##*/}}: $3" >>{made}; exit 1',
        }
        for name in ("grep", "sleep"):
            commands[name] = f'exec {shutil.which(name)} "$@"'

    code, complaints, _ = _ci_run(tmp_path, ci="true", commands=commands, user="somebody")

    assert (code, complaints) == (0, "")
    told = made.read_text(encoding="utf-8").splitlines()
    assert told[:2] == ["somebody runs ", "checkout: test PARALLEL= ARGS=-m root"]
    if rust:
        assert "scripts/test-rust --no-run" in "".join(told[2:-1])
        assert told[-1] == "checkout: test-rust"
    else:
        assert told[2:] == []
