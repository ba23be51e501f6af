"""Checkpoints of SQLite's log: when the server brings it into the file, and what it does when that fails.

SQLite would do it by itself after a commit, but keeps to itself whether it worked. It also remembers how far an earlier
checkpoint came and copies only the rest on the next try. If a sync of the file fails between the two, the system may
have dropped pages that the earlier one copied; the next sync then succeeds, the log is overwritten, and commits are
gone that were acknowledged long ago. See docs/decisions/0007.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from typing import TYPE_CHECKING

import structlog

if TYPE_CHECKING:
    from pathlib import Path

_log = structlog.get_logger(__name__)

CHECKPOINT_BYTES = 4 * 1024 * 1024
"""About how much is written to the log before a checkpoint; SQLite's own default."""

WRITE_BYTES = 32 * 1024
"""About what a write costs in the log beside its documents: the pages of the tables and indexes that it touches."""

_INDEX_HEADERS_BYTES = 96
"""The two copies of the header with which the log's index begins: SQLite's file format, "The WAL-Index File Format"."""


class Checkpoints:
    """The checkpoints that one writer makes."""

    def __init__(self) -> None:
        self._owed_bytes = 0
        self._failed = False

    def after_commit(self, driver: sqlite3.Connection, written_bytes: int) -> None:
        """Bring the log into the file if it is time. Never raises: what was committed stays committed in the log."""
        self._owed_bytes += written_bytes
        if self._owed_bytes < CHECKPOINT_BYTES:
            return
        try:
            if self._failed:
                forget_progress(driver)  # it may have failed the last time as well
            _, in_log, brought = driver.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
        except (sqlite3.Error, OSError) as error:
            self._fail(driver, error)
            return
        if self._failed:
            _log.info("checkpoints work again")
        self._failed = False
        if in_log == brought:
            self._owed_bytes = 0  # else a reader still needs the rest: try again after the next commit

    def _fail(self, driver: sqlite3.Connection, error: Exception) -> None:
        name = getattr(error, "sqlite_errorname", None) or type(error).__name__
        _log.warning("checkpoint failed; the log keeps everything, and the next one begins anew", error=name)
        self._failed = True
        self._owed_bytes = 0  # not after every commit: each try begins with the whole log
        try:
            forget_progress(driver)
        except (sqlite3.Error, OSError) as raised:
            _log.warning("the next checkpoint will try this again", error=type(raised).__name__)


def forget_progress(driver: sqlite3.Connection) -> None:
    """Let the next checkpoint copy the whole log, every frame of which was synced when it was committed.

    How far checkpoints came stands in the log's index alone. An index without a valid header is what a crash leaves:
    whoever uses it next, in any process, builds it anew from the log, and begins at nothing.
    """
    file = next(row[2] for row in driver.execute("PRAGMA database_list") if row[1] == "main")
    driver.execute("BEGIN IMMEDIATE")  # nobody else writes the header meanwhile
    try:
        os.pwrite(_index_file(f"{file}-shm"), bytes(_INDEX_HEADERS_BYTES), 0)
    finally:
        driver.execute("COMMIT")  # of nothing; ROLLBACK would read the header


_index_files: dict[tuple[int, int], int] = {}
_index_files_lock = threading.Lock()


def _index_file(path: str | Path) -> int:
    """The index opened for writing, for good: to close it would drop the locks that this process holds on it."""
    status = os.stat(path)  # noqa: PTH116  (beside os.open, which no Path has)
    with _index_files_lock:
        key = (status.st_dev, status.st_ino)
        if key not in _index_files:
            _index_files[key] = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        return _index_files[key]
