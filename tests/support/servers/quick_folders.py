"""Says where the databases lie that every test makes and drops: in memory, where the machine has room for them.

A database of Postgres is some 300 files. To make and to remove them costs a disk ten times the CPU that it costs
memory, and longer still in waiting; and every commit of SQLite waits for the disk. What a process wrote survives its
kill in either place. Tests of disks, of what is synced and of files that are replaced have folders of their own, on
the disk, in `tmp_path`.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from scripts.postgres_server import SHORT_PARENT

if TYPE_CHECKING:
    from collections.abc import Iterator

MEMORY = Path("/dev/shm")  # noqa: S108  (what is made there has a name that nobody else has)

REMOVE_BEHIND_US = 'cat >/dev/null; rm -rf "$1"'
"""A script whose standard input is a pipe from us, and ends with us. What lay in memory would stay there."""

ROOM_BYTES = 4 * 1024**3
"""What must be free: several times what the tests of all workers take there."""


def parent() -> Path:
    """The folder in which such folders are made."""
    return MEMORY if _has_room(MEMORY) else SHORT_PARENT


@contextmanager
def quick_folder() -> Iterator[Path]:
    """A folder whose files are quick to make, to sync and to remove. Whatever ends us, nothing of it is left."""
    folder = tempfile.mkdtemp(prefix="runtimestore-tests-", dir=parent())
    with subprocess.Popen(
        ["/bin/sh", "-c", REMOVE_BEHIND_US, "remover", folder],
        stdin=subprocess.PIPE,
        start_new_session=True,  # Ctrl-C is for us
    ):
        yield Path(folder)  # leaving ends the pipe, and waits


def _has_room(folder: Path) -> bool:
    """Tell whether a folder can hold databases, and the programs of a Postgres that has to be copied beside them."""
    try:
        found = os.statvfs(folder)
    except OSError:
        return False
    free_bytes = min(found.f_bavail * found.f_frsize, psutil.virtual_memory().available)
    return free_bytes >= ROOM_BYTES and not found.f_flag & os.ST_NOEXEC and os.access(folder, os.W_OK | os.X_OK)
