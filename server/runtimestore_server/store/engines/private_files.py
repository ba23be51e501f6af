"""Files that a backup or a restore makes: their owner's alone, by one process at a time, and synced."""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_BESIDE = ("-wal", "-shm", "-journal", "-lock")
"""What belongs to an SQLite file and is of no use without it."""


class Taken(Exception):
    """Another process makes the same file just now."""


@contextlib.contextmanager
def only_here(path: Path) -> Iterator[Path]:
    """Make an empty file that no other process makes at the same time, and that its owner alone may read; gone after.

    What a killed process left there is removed, never written over: it may have become a store, or a backup, under
    another name by then.

    Raises:
        Taken: another process has it.
        OSError: it cannot be made.
    """
    with contextlib.ExitStack() as held:
        while True:
            opened = held.enter_context(private(path))
            try:
                fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise Taken from None
            if _is_at(opened, path):
                if not os.fstat(opened).st_size:
                    break
                path.unlink()
            held.pop_all().close()  # what was left, or what another process had: begin anew
        _remove(*beside(path))
        try:
            yield path
        finally:
            if _is_at(opened, path):  # else it has another name, and what is here is another process'
                _remove(path, *beside(path))


def _is_at(opened: int, path: Path) -> bool:
    with contextlib.suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(opened), path.lstat())
    return False


def beside(file: Path) -> list[Path]:
    """Return what may lie beside an SQLite file."""
    return [Path(f"{file}{suffix}") for suffix in _BESIDE]


def _remove(*files: Path) -> None:
    for file in files:
        file.unlink(missing_ok=True)


@contextlib.contextmanager
def private(file: Path) -> Iterator[int]:
    """Open a file, made if there is none, that its owner alone may read."""
    opened = os.open(file, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        yield opened
    finally:
        os.close(opened)


def sync_folder(folder: Path) -> None:
    """Make what was renamed in a folder last."""
    opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def make_private(file: Path) -> None:
    """Make a new, empty file that its owner alone may read: OAuth secrets will be in it.

    Raises:
        OSError: it is there already, or cannot be made.
    """
    os.close(os.open(file, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))


def sync(file: Path) -> None:
    """Make a file's content last."""
    with file.open("r+b") as opened:
        os.fsync(opened.fileno())
