"""Looks into SQLite's log and its index, and keeps what is committed in the log apart from what is not.

Whether somebody made the log shorter than what is committed in it: SQLite tells the index first when it empties the log
itself, in any process. What it does not notice is a file that is cut by others: it goes on behind the gap, and reads,
and after a crash recovers, what is not there.

A commit whose sync failed stays in the log, behind all that is committed, until the next one is written over it. Of its
pages nobody knows whether they are on the disk, and no later sync tells. If the index is built anew meanwhile, it
counts as committed: what is acknowledged from then on stands behind it, and is lost with it. See docs/decisions/0007.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from runtimestore_server.store.engines.answers import EngineRefusal
from runtimestore_server.store.engines.shared_handles import SharedHandles, numbers_of

if TYPE_CHECKING:
    from pathlib import Path

INDEX_HEADERS_BYTES = 96
"""The two copies of the header with which the log's index begins: SQLite's file format, "The WAL-Index File Format"."""

_HEADER_BYTES = 32
_FRAME_HEADER_BYTES = 24
_PIECE_BYTES = 1024 * 1024


class Log:
    """The log that the connections of one process have open.

    Args:
        log: its path; the index is beside it.

    Raises:
        OSError: it cannot be opened.
    """

    def __init__(self, log: str) -> None:
        self._log = os.open(log, os.O_RDONLY | os.O_CLOEXEC)
        try:
            index = f"{log.removesuffix('-wal')}-shm"
            self._file = numbers_of(index)
            self._index = _index_files.take(index, self._file)
        except BaseException:
            os.close(self._log)
            raise
        self._seen_bytes = 0

    def close(self) -> None:
        """Let go of both. SQLite locks the index alone, and while anybody else here looks at that, it stays open."""
        os.close(self._log)
        _index_files.give_back(self._file)

    def was_cut(self) -> bool:
        """Tell whether a part of it is missing that its index names."""
        size_bytes = os.fstat(self._log).st_size
        if size_bytes >= max(self._seen_bytes, 1):
            self._seen_bytes = size_bytes
            return not any(os.pread(self._log, 4, 0))  # SQLite writes its header before all else
        before = os.pread(self._index, INDEX_HEADERS_BYTES, 0)
        size_bytes = os.fstat(self._log).st_size
        cut = size_bytes < _needed_bytes(before) and os.pread(self._index, INDEX_HEADERS_BYTES, 0) == before
        if not cut:
            self._seen_bytes = size_bytes
        return cut


def _needed_bytes(header: bytes) -> int:
    page_bytes = int.from_bytes(header[14:16], sys.byteorder)
    frames = int.from_bytes(header[16:20], sys.byteorder)
    frame_bytes = _FRAME_HEADER_BYTES + (65536 if page_bytes == 1 else page_bytes)  # the longest stands there as 1
    return _HEADER_BYTES + frames * frame_bytes if frames else 0


class LogInDoubt(EngineRefusal):
    """The log cannot be brought onto the disk, so that nothing may be acknowledged behind what is in it."""

    def __init__(self, number: int | None) -> None:
        why = f": {os.strerror(number)}" if number else ""
        super().__init__(f"the log (-wal) cannot be written and synced once more, as an earlier process left it{why}")
        self.number = number
        """Why, as in errno."""


def write_whole(handle: int, data: bytes, start: int) -> None:
    """Write all of `data` at `start`: what is cut off, at a limit or by a signal, is no error of the call that wrote.

    Raises:
        OSError: a part could not be written.
    """
    rest = memoryview(data)
    while rest:
        written = os.pwrite(handle, rest, start)
        rest, start = rest[written:], start + written


def drop_uncommitted(file: str) -> None:
    """Mark the end of the log behind its last commit, so that a rebuilt index cannot go on into what is uncommitted.

    The caller holds SQLite's write lock.

    Raises:
        OSError: the log cannot be written.
    """
    log = os.open(f"{file}-wal", os.O_RDWR | os.O_CLOEXEC)
    try:
        end = max(_HEADER_BYTES, _committed_bytes(file))
        if os.fstat(log).st_size > end:
            write_whole(log, bytes(_FRAME_HEADER_BYTES), end)
    finally:
        os.close(log)


def write_again(file: str) -> None:
    """Rewrite and sync what is committed in the log: an earlier process may have left it in the page cache alone.

    A page that could not be written counts as clean: to sync it, it has to be written once more. The caller holds
    SQLite's write lock.

    Raises:
        LogInDoubt: that failed.
    """
    try:
        if not (end := _committed_bytes(file)):
            return
        log = os.open(f"{file}-wal", os.O_RDWR | os.O_CLOEXEC)
        try:
            for start in range(0, end, _PIECE_BYTES):
                write_whole(log, os.pread(log, min(_PIECE_BYTES, end - start), start), start)
            os.fdatasync(log)
        finally:
            os.close(log)
    except FileNotFoundError:
        return  # another program's file, which has no log
    except OSError as error:
        raise LogInDoubt(error.errno) from error


def _committed_bytes(file: str) -> int:
    return _needed_bytes(os.pread(index_file(f"{file}-shm"), INDEX_HEADERS_BYTES, 0))


_index_files = SharedHandles(os.O_RDWR)


def index_file(path: str | Path) -> int:
    """Return the index opened for writing, for good: to close it would drop the locks that this process holds on it."""
    return _index_files.take(path, numbers_of(path))
