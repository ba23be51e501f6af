"""The hooks of pre-commit work, and check what `make lint` checks."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
TOOLS = Path(sys.executable).parent


def _hooks() -> dict[str, dict[str, Any]]:
    loaded = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    return {hook["id"]: hook for repository in loaded["repos"] for hook in repository["hooks"]}


def _recipe(target: str) -> str:
    """What `make TARGET` would run."""
    environment = Path(sys.prefix)
    stamps = [environment / name for name in (".serve", ".proto", ".test", ".lint")]
    as_they_are = [argument for stamp in stamps for argument in ("-o", str(stamp))]
    command = ["make", "--dry-run", *as_they_are, f"VENV={environment}", target]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_pre_commit_itself_takes_the_configuration() -> None:
    command = TOOLS / "pre-commit"
    if not command.exists():
        pytest.skip(f"pre-commit is not installed beside {sys.executable}")

    done = subprocess.run(
        [str(command), "validate-config", ".pre-commit-config.yaml"], cwd=ROOT, capture_output=True, check=False
    )

    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", sorted(_hooks()))
def test_the_command_of_each_hook_exists(name: str) -> None:
    program, *arguments = _hooks()[name]["entry"].split()

    if program == "make":
        assert _recipe(*arguments)
        return
    tool = TOOLS / Path(program).name
    assert program == f".venv/bin/{tool.name}"
    asked = subprocess.run([str(tool), *arguments, "--help"], capture_output=True, text=True, check=False)
    assert asked.returncode == 0, asked.stderr


def _tools(lines: str) -> set[tuple[str, ...]]:
    """The tools that these commands run, each with its first argument."""
    words = [[word for word in line.split() if not word.startswith("PATH=")] for line in lines.splitlines()]
    return {(Path(program).name, *arguments[:1]) for program, *arguments in words}


def test_the_hooks_run_every_check_of_make_lint() -> None:
    run = set()
    for hook in _hooks().values():
        program, *arguments = hook["entry"].split()
        run |= _tools(_recipe(*arguments) if program == "make" else hook["entry"])

    assert _tools(_recipe("lint")) >= {("ruff", "check"), ("buf", "lint"), ("buf-breaking",)}
    assert _tools(_recipe("lint")) - run == set()


def test_each_hook_that_names_files_names_some_that_are_there() -> None:
    files = [str(file.relative_to(ROOT)) for part in ("proto", "client", "Dockerfile") for file in _files(ROOT / part)]
    patterns = [hook["files"] for hook in _hooks().values() if "files" in hook]

    assert patterns
    assert [pattern for pattern in patterns if not any(re.search(pattern, file) for file in files)] == []


def _files(path: Path) -> list[Path]:
    return [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
