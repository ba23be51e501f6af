"""Handles on files that SQLite locks: one a file in this process, open as long as anybody here looks at it.

To close any handle on a file drops all locks that the process, and SQLite in it, has on it.
"""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

Numbers = tuple[int, int]
"""A file's device and inode."""


def numbers_of(path: str | Path) -> Numbers:
    """Tell which file a path names.

    Raises:
        OSError: none.
    """
    found = os.stat(path)  # noqa: PTH116  (a tenth of the time of a Path; it is asked at every COMMIT)
    return found.st_dev, found.st_ino


class OtherFile(OSError):
    """The path led to another file when it was opened."""


class SharedHandles:
    """The handles of one kind, by file. For any thread.

    Args:
        flags: how they are opened, as of `os.open`.
    """

    def __init__(self, flags: int) -> None:
        self._flags = flags | os.O_CLOEXEC
        self._lock = threading.Lock()
        self._handles: dict[Numbers, tuple[int, int]] = {}
        """By file: its handle, and how many use it."""

    def take(self, path: str | Path, file: Numbers) -> int:
        """Return the handle on this file, to which the path leads; opened if it is not.

        Raises:
            OtherFile: the path leads to another one by now.
            OSError: it cannot be opened.
        """
        with self._lock:
            handle, users = self._handles.get(file, (-1, 0))
            if not users:
                handle = os.open(path, self._flags)
            status = os.fstat(handle)
            if (status.st_dev, status.st_ino) != file:
                raise OtherFile(
                    "it was replaced while it was opened"
                )  # and stays open: it may be locked by others here
            self._handles[file] = handle, users + 1
            return handle

    def give_back(self, file: Numbers) -> None:
        """Take note that one of those who use it does so no more; the last one closes it."""
        with self._lock:
            handle, users = self._handles[file]
            if users > 1:
                self._handles[file] = handle, users - 1
            else:
                del self._handles[file]
                os.close(handle)
