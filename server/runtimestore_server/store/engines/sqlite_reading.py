"""An SQLite file that is only looked at: nothing in it or beside it is changed, whatever it is and whoever uses it."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import event
from sqlalchemy.exc import DBAPIError

from runtimestore_server.store.engines.answers import ChangedMeanwhile
from runtimestore_server.store.engines.any_sqlite import AnySqlite
from runtimestore_server.store.engines.commit_lock import SUFFIX
from runtimestore_server.store.engines.sqlite_connections import configure_reader
from runtimestore_server.store.engines.sqlite_driver import HEADER_BYTES, MAGIC, sqlite3

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy.engine import URL, Connection


class SqliteFileToRead(AnySqlite):
    """An SQLite file that is opened for reading. A server may serve it meanwhile."""

    def __init__(self, url: URL) -> None:
        url = url.set(drivername="sqlite+pysqlite")
        self._file = str(Path(url.database or "").absolute())
        self._before = self._state()
        options = _options(self.file)
        self._immutable = "immutable" in options
        self.readers = self._engine(
            url.set(database=self.file.as_uri(), query={**options, "uri": "true"}),
            pool_size=1,
            prepare=configure_reader,
        )
        event.listen(self.readers, "connect", _refuse_writes)
        self.writers = self.readers

    def problem(self, connection: Connection) -> str | None:
        """Tell whether it is an SQLite file at all: what is none was hardly ever a store."""
        try:
            connection.exec_driver_sql("PRAGMA schema_version")
        except DBAPIError as error:
            if getattr(error.orig, "sqlite_errorcode", None) != sqlite3.SQLITE_NOTADB:
                raise
            return (
                "the file is no SQLite database, or its first page is destroyed: see --database-url, or restore a "
                "backup if it was a store"
            )
        return None

    @contextlib.contextmanager
    def snapshot(self) -> Iterator[Connection]:
        """Open one read transaction.

        Raises:
            ChangedMeanwhile: the file could be read without locks only, and somebody wrote into it.
        """
        try:
            with super().snapshot() as connection:
                yield connection
        except Exception:
            self._see_unchanged()  # else what was found damaged may be what somebody was writing
            raise
        self._see_unchanged()

    def _see_unchanged(self) -> None:
        if self._immutable and self._state() != self._before:
            raise ChangedMeanwhile("the file was written to while it was read without a lock: run it again")

    def _state(self) -> tuple[int, ...] | None:
        with contextlib.suppress(OSError):
            found = self.file.stat()
            return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns
        return None


def _options(file: Path) -> dict[str, str]:
    """Tell how a file is opened, so that nothing is left behind.

    Whoever reads a file in WAL mode needs its log and the log's index, and SQLite makes them where they are missing. A
    connection with `mode=ro` leaves them behind, as its user's own, and a server that is another user could not write
    any more; one that could write takes them along.
    """
    with contextlib.suppress(OSError):
        if Path(f"{file}-wal").stat().st_size:
            return {"mode": "ro"}  # a server has it open, or ended without closing it
    with contextlib.suppress(OSError):
        if _is_in_wal_mode(file):
            if os.access(file, os.W_OK) and os.access(file.parent, os.W_OK):
                return {"mode": "rw"}
            if not Path(f"{file}-shm").exists():
                # Nothing is in a log, and nobody reads or writes: whether it stays so is asked at the end.
                return {"mode": "ro", "immutable": "1"}
    return {"mode": "ro"}


def belongs_to_a_database(file: Path) -> bool:
    """Tell whether a file is an SQLite database, or has the name of what belongs to one, such as its log."""
    name = str(file)
    named = (name.removesuffix(suffix) for suffix in ("-wal", "-shm", "-journal", SUFFIX))
    with contextlib.suppress(OSError):
        return any(_header(Path(of)).startswith(MAGIC) for of in (name, *named))
    return False


def _is_in_wal_mode(file: Path) -> bool:
    header = _header(file)
    return header.startswith(MAGIC) and header[18:20] == b"\2\2"


def _header(file: Path) -> bytes:
    if not file.is_file():
        return b""
    with file.open("rb") as opened:
        return opened.read(HEADER_BYTES)


def _refuse_writes(connection: sqlite3.Connection, record: object) -> None:
    del record
    connection.execute("PRAGMA query_only = ON")
