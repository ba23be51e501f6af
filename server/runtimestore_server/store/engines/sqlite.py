"""An SQLite file that a server has: what looks after it, its log and its lock beside what SQLite does."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import event

from runtimestore_server.store.engines.any_sqlite import AnySqlite
from runtimestore_server.store.engines.checkpoints import WRITE_BYTES, Checkpoints
from runtimestore_server.store.engines.commit_lock import CommitLock
from runtimestore_server.store.engines.file_identity import FileIdentity
from runtimestore_server.store.engines.files import read_only_problem
from runtimestore_server.store.engines.sqlite_connections import (
    begin_immediate,
    configure_writer,
    create_private,
    spill_early,
)
from runtimestore_server.store.engines.sqlite_driver import VERSION, has_reset_defect
from runtimestore_server.store.engines.sqlite_log import write_again
from runtimestore_server.store.timeouts import BUSY_TIMEOUT_SECONDS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sqlalchemy.engine import URL, Connection
    from sqlalchemy.pool import ConnectionPoolEntry


class SqliteDatabase(AnySqlite):
    """An SQLite file in WAL mode: one writer at a time, readers beside it."""

    creates_itself = True

    def __init__(self, url: URL, *, reader_threads: int) -> None:
        url = url.set(drivername="sqlite+pysqlite")
        self._file = url.database or ""
        create_private(self._file)
        # One connection commits and makes checkpoints, but for that of a large commit.
        self.writers = self._engine(url, pool_size=1)
        self._real_file = os.path.realpath(self._file)  # as SQLite itself names what lies beside a file
        self._log_is_on_disk = False
        self._lock = CommitLock(self._real_file)
        # Where SQLite has the defect, one connection commits and makes every checkpoint.
        beside = None if has_reset_defect() else self._bring_log
        self._checkpoints = Checkpoints(Path(f"{self._real_file}-wal"), self._lock, beside)
        event.listen(self.writers, "connect", configure_writer)
        event.listen(self.writers, "begin", self._begin)
        event.listen(self.writers, "checkin", self._end)
        event.listen(self.writers, "close", self._closed)
        self._reopen_when_read_only()
        # Three more than the threads for loads: the health check, new bases of sessions, checkpoints beside commits.
        self.readers = self._engine(url, pool_size=reader_threads + 3)
        self._identity = FileIdentity(self._file)
        self._identity.watch(self.writers, looks_when_used=False)  # who writes looks before COMMIT, and after errors
        self._identity.watch(self.readers, looks_when_used=True)

    def check_identity(self) -> None:
        """See that the file that is open is where its path leads."""
        self._identity.check()

    def problem_of_writes(self) -> str | None:
        """Tell whether the file may only be read, and what is in the way of its lock."""
        return read_only_problem(self._file) or self._lock.problem()

    def dispose(self) -> None:
        """Close every connection, and let go of the file."""
        self._checkpoints.wait(BUSY_TIMEOUT_SECONDS)
        super().dispose()
        self._identity.close()

    def after_commit(self, connection: Connection, *, writes: int, carried_bytes: int) -> None:
        """Bring the log into the file from time to time."""
        driver: Any = connection.connection.driver_connection
        self._checkpoints.after_commit(driver, writes * WRITE_BYTES + carried_bytes)

    def _bring_log(self) -> None:
        """Bring the log into the file as far as it came, and have the system write that: beside the commits."""
        with self.readers.connect() as connection:
            driver: Any = connection.connection.driver_connection
            driver.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
        # SQLite leaves it to the one who brings the last of the log, and every writer would wait for it.
        self._identity.sync()

    @property
    def untidy(self) -> bool:
        """Whether the log is longer than it should be: a reader, or another server's commit, stood in the way."""
        return self._checkpoints.owed

    def tidy(self) -> None:
        """Bring the log into the file, and cut it."""
        self.check_identity()
        with self.writers.connect() as connection:
            driver: Any = connection.connection.driver_connection
            self._checkpoints.make(driver)

    @property
    def log_bytes(self) -> int | None:
        """The size of `-wal`."""
        return self._checkpoints.log_bytes()

    @property
    def checkpoint_counts(self) -> Mapping[str, int]:
        """Those of the one writer."""
        return self._checkpoints.counts

    def defects(self) -> list[str]:
        """Tell of the one that may lose commits."""
        if not has_reset_defect():
            return []
        defect = (
            f"SQLite {VERSION} may lose commits where another program makes a checkpoint of this file while it is "
            "served; RuntimeStore's own servers keep out of each other's way. 3.51.3 has it mended: pysqlite3 brings it"
        )
        return [defect]

    def _begin(self, connection: Connection) -> None:
        """Take SQLite's write lock, then keep the checkpoints of other servers out."""
        begin_immediate(connection)
        try:
            self._lock.share(within_seconds=BUSY_TIMEOUT_SECONDS)
            if not self._log_is_on_disk:  # what the process before this one left
                write_again(self._real_file)
                self._log_is_on_disk = True
        except BaseException:
            connection.connection.rollback()
            raise

    def _end(self, driver: Any, record: ConnectionPoolEntry) -> None:
        """Let others make checkpoints; called once the connection is out of use, whatever became of it."""
        self._lock.release()
        spill_early(driver, record)

    def _closed(self, *_: object) -> None:
        self._lock.close()
