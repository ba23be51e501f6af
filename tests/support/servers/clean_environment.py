"""Fresh virtual environments into which the built wheel is installed, out of reach of the checkout."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


def outside_the_checkout() -> dict[str, str]:
    """An environment in which nothing of this checkout can be imported and no setting of a shell counts."""
    return {
        name: value
        for name, value in os.environ.items()
        if name not in {"PYTHONPATH", "VIRTUAL_ENV"} and not name.startswith("RUNTIMESTORE_")
    }


@dataclass(frozen=True, slots=True)
class CleanEnvironment:
    """A fresh virtual environment that holds the built wheel and what it asks for, and nothing else."""

    directory: Path

    def command(self, name: str) -> str:
        return str(self.directory / "bin" / name)

    def run(self, name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """The outcome of one of its commands, in a folder of its own; the exit code is the caller's to judge."""
        return self._run(self.command(name), *arguments)

    def _run(self, *command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command,
            cwd=self.directory,
            env=outside_the_checkout(),
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )

    def pip(self, *arguments: str) -> str:
        """What pip prints that installs into this environment, and lies outside of it; it must succeed."""
        done = self._run(sys.executable, "-m", "pip", "--python", self.command("python"), *arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def python(self, program: str, *arguments: str) -> str:
        """What a Python program prints; it must succeed."""
        done = self.run("python", "-c", program, *arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout


def clean_environment_with(requirement: str, directory: Path) -> CleanEnvironment:
    """A fresh environment in `directory` into which `requirement` was installed."""
    command = [sys.executable, "-m", "venv", "--without-pip", str(directory)]
    subprocess.run(command, env=outside_the_checkout(), timeout=300, check=True)
    environment = CleanEnvironment(directory)
    # What is imported there is compiled then; all that is installed is many times as much.
    environment.pip("install", "--quiet", "--no-compile", requirement)
    return environment
