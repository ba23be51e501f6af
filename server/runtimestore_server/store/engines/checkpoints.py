"""Checkpoints of SQLite's log: when the server brings it into the file, and what it does when that fails.

SQLite would do it by itself after a commit, but keeps to itself whether it worked. It also remembers how far an earlier
checkpoint came and copies only the rest on the next try. If a sync of the file fails between the two, the system may
have dropped pages that the earlier one copied; the next sync then succeeds, the log is overwritten, and commits are
gone that were acknowledged long ago. See docs/decisions/0007.
"""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from runtimestore_server.store.engines.checkpoint_beside import CheckpointBeside
from runtimestore_server.store.engines.commit_lock import NoLock
from runtimestore_server.store.engines.sqlite_driver import sqlite3
from runtimestore_server.store.engines.sqlite_log import INDEX_HEADERS_BYTES, drop_uncommitted, index_file, write_whole
from runtimestore_server.store.timeouts import BUSY_TIMEOUT_SECONDS

if TYPE_CHECKING:
    from collections.abc import Callable

    from runtimestore_server.store.engines.commit_lock import CommitLock

_log = structlog.get_logger(__name__)

CHECKPOINT_BYTES = 16 * 1024 * 1024
"""About how much is written to the log before a checkpoint. SQLite's own default is 4 MiB; what is written again before
the next one is brought over once, and a checkpoint holds the writers up for its two syncs."""

LARGE_COMMIT_BYTES = 32 * 1024 * 1024
"""A commit that wrote this much has its checkpoint made beside the next ones, or leaves it to the next one, or to a
moment in which nothing waits: what came behind it has waited for long enough. So has one of more than CHECKPOINT_BYTES
where it can be made beside: a large document is packed, and writes less than it has."""

WRITE_BYTES = 32 * 1024
"""About what a write costs in the log beside its documents: the pages of the tables and indexes that it touches."""

LARGE_LOG_BYTES = 32 * 1024 * 1024
"""A log of this size is cut: SQLite begins it anew in a moment without readers only, and never makes it shorter."""

WARNED_LOG_BYTES = 64 * 1024 * 1024
"""A log file of this size that cannot be cut is told of."""

CUT_PATIENCE_SECONDS = 0.05
"""How long the readers of a long log are waited for; new ones read the file itself by then, and are in nobody's way."""

CUT_PAUSE_SECONDS = 1.0
"""How long a cut that a reader prevented is not tried again."""


class Checkpoints:
    """The checkpoints that one writer makes, alone with the file: see commit_lock.py.

    With `bring_beside`, that brings most of a log that a large commit made long into the file, beside the commits.
    """

    def __init__(
        self, log_file: Path, lock: CommitLock | None = None, bring_beside: Callable[[], None] | None = None
    ) -> None:
        self._log_file = log_file
        self._log_path = str(log_file)
        self._lock = lock
        self._beside = CheckpointBeside(bring_beside, lock, self._note_failure) if bring_beside and lock else None
        self._owed_bytes = 0
        self._not_beside_bytes = 0
        """How much was written since the last checkpoint of either kind began."""
        self._failed = False
        self._cut_at = 0.0
        self._warned = False
        self.counts = dict.fromkeys(("made", "incomplete", "cut", "not_cut", "failed"), 0)
        """How they ended. Incomplete: a reader still needed a part; cut, or not: of a log that was too long."""

    @property
    def owed(self) -> bool:
        """Whether a checkpoint is to be made although nothing is committed."""
        return self._owed_bytes >= CHECKPOINT_BYTES or self.log_bytes() > LARGE_LOG_BYTES

    def after_commit(self, driver: sqlite3.Connection, written_bytes: int) -> None:
        """Bring the log into the file if it is time. Never raises: what was committed stays committed in the log."""
        was_due = self._owed_bytes >= CHECKPOINT_BYTES
        self._owed_bytes += written_bytes
        self._not_beside_bytes += written_bytes
        if self._begins_beside(written_bytes):
            return
        if was_due or CHECKPOINT_BYTES <= self._owed_bytes < LARGE_COMMIT_BYTES:
            self.make(driver)

    def _begins_beside(self, written_bytes: int) -> bool:
        """Begin a checkpoint beside the commits, if there is enough for one; whether one is under way."""
        if self._beside is None or self._failed:
            return False
        if self._beside.under_way:
            return True
        enough = written_bytes > CHECKPOINT_BYTES or self._not_beside_bytes >= LARGE_COMMIT_BYTES
        if not enough or not self._beside.begin():
            return False
        self._not_beside_bytes = 0
        return True

    def wait(self, seconds: float) -> None:
        """Wait for a checkpoint beside the commits that is under way."""
        if self._beside is not None:
            self._beside.wait(seconds)

    def make(self, driver: sqlite3.Connection) -> None:
        """Bring the log into the file, unless another server commits just now. Never raises."""
        if self._beside is not None and self._beside.under_way:
            return  # the rest is brought after the next commit, or when nothing waits
        try:
            if self._lock and not self._lock.alone():
                return  # tried again after the next commit
            try:
                self._make(driver)
            except (sqlite3.Error, OSError) as error:
                self._forget_failed(driver, error)
            finally:
                if self._lock:
                    self._lock.release()
        except (NoLock, OSError) as error:
            _log.warning("no checkpoint: the lock beside the file cannot be had", error=type(error).__name__)

    def _make(self, driver: sqlite3.Connection) -> None:
        if self._failed:
            forget_progress(driver)  # it may have failed the last time as well
        _, in_log, brought = driver.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
        if self._failed:
            _log.info("checkpoints work again")
        self._failed = False
        self.counts["made" if in_log == brought else "incomplete"] += 1
        if in_log == brought:
            # Else a reader still needs the rest: it is tried again after the next commit.
            self._owed_bytes = self._not_beside_bytes = 0
        if self.log_bytes() > LARGE_LOG_BYTES and time.monotonic() >= self._cut_at:
            self._cut(driver)

    def _cut(self, driver: sqlite3.Connection) -> None:
        """Wait a moment for the readers that need the log, and make it empty."""
        driver.execute(f"PRAGMA busy_timeout = {int(CUT_PATIENCE_SECONDS * 1000)}")
        try:
            busy, *_ = driver.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        finally:
            driver.execute(f"PRAGMA busy_timeout = {int(BUSY_TIMEOUT_SECONDS * 1000)}")
        self._cut_at = time.monotonic() + CUT_PAUSE_SECONDS
        self.counts["not_cut" if busy else "cut"] += 1
        if not busy:
            self._owed_bytes = 0
            if self._warned:
                _log.info("the log is short again", log=str(self._log_file))
            self._warned = False
        elif self.log_bytes() > WARNED_LOG_BYTES and not self._warned:
            self._warned = True
            _log.warning(
                "a reader keeps the log long: it cannot be cut before that ends",
                log=str(self._log_file),
                bytes=self.log_bytes(),
                processes=", ".join(map(str, _readers_of(f"{_file_of(driver)}-shm"))) or "unknown",
            )

    def log_bytes(self) -> int:
        """Tell how long the log is."""
        try:
            return os.stat(self._log_path).st_size  # noqa: PTH116  (half the time of a Path; asked before every batch)
        except OSError:
            return 0

    def _note_failure(self, error: Exception) -> None:
        """Have the next checkpoint begin anew; called on the thread of the one that failed."""
        name = getattr(error, "sqlite_errorname", None) or type(error).__name__
        _log.warning("checkpoint failed; the log keeps everything, and the next one begins anew", error=name)
        self._failed = True
        self.counts["failed"] += 1

    def _forget_failed(self, driver: sqlite3.Connection, error: Exception) -> None:
        self._note_failure(error)
        self._owed_bytes = 0  # not after every commit: each try begins with the whole log
        try:
            forget_progress(driver)
        except (sqlite3.Error, OSError) as raised:
            _log.warning("the next checkpoint will try this again", error=type(raised).__name__)


def _file_of(driver: sqlite3.Connection) -> str:
    return str(next(row[2] for row in driver.execute("PRAGMA database_list") if row[1] == "main"))


def _readers_of(index_file: str) -> list[int]:
    """Return the processes that hold a read lock in the log's index, where the system tells: /proc/locks."""
    found = set()
    with contextlib.suppress(OSError, ValueError, IndexError):
        inode = Path(index_file).stat().st_ino
        for line in Path("/proc/locks").read_text(encoding="ascii").splitlines():
            words = line.split()
            _, system, _, kind, process, file, first, last = words[:8]
            if (system, kind, file.rpartition(":")[2]) != ("POSIX", "READ", str(inode)):
                continue
            # The bytes that readers lock: SQLite's file format, "WAL Locks".
            if any(int(first) <= byte <= int(last) for byte in range(123, 128)) and int(process) > 0:
                found.add(int(process))
    return sorted(found)


def forget_progress(driver: sqlite3.Connection) -> None:
    """Let the next checkpoint copy the whole log, every frame of which was synced when it was committed.

    How far checkpoints came stands in the log's index alone. An index without a valid header is what a crash leaves:
    whoever uses it next, in any process, builds it anew from the log, and begins at nothing.
    """
    file = _file_of(driver)
    driver.execute("BEGIN IMMEDIATE")  # nobody else writes the header meanwhile
    try:
        drop_uncommitted(file)  # before the log is all that tells what is committed
        write_whole(index_file(f"{file}-shm"), bytes(INDEX_HEADERS_BYTES), 0)
    finally:
        driver.execute("COMMIT")  # of nothing; ROLLBACK would read the header
