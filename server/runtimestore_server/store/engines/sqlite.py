"""SQLite, in a file or in memory."""

from __future__ import annotations

import contextlib
import hashlib
import os
import sqlite3
import time
from functools import cache
from typing import TYPE_CHECKING, Any

import msgspec
import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError, MultipleResultsFound
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.pool import QueuePool

from runtimestore_server.store.engines.checkpoints import WRITE_BYTES, Checkpoints
from runtimestore_server.store.engines.database import LARGE_BYTES, Database, Fault, Row
from runtimestore_server.store.engines.file_identity import FileIdentity, FileReplaced
from runtimestore_server.store.engines.files import is_full, read_only_problem
from runtimestore_server.store.engines.rows import largest_bytes, replacing, with_digits
from runtimestore_server.store.tables import store_identity
from runtimestore_server.store.timeouts import BUSY_TIMEOUT_SECONDS, POOL_TIMEOUT_SECONDS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from sqlalchemy.engine import URL, Connection, Engine
    from sqlalchemy.sql.expression import FromClause

PIECE_BYTES = 1024 * 1024


class SqliteDatabase(Database):
    """An SQLite file in WAL mode: one writer at a time, readers beside it."""

    name = "sqlite"
    creates_itself = True
    concurrent_writers = False

    def __init__(self, url: URL, *, reader_threads: int) -> None:
        url = url.set(drivername="sqlite+pysqlite")
        self._file = url.database or ""
        _create_private(self._file)
        # Two connections: the committer's, and one for maintenance beside it.
        self.writers = self._engine(url, pool_size=2)
        event.listen(self.writers, "begin", _begin_immediate)
        self._reopen_when_read_only(self.writers)
        # One more than the threads for loads: the health check.
        self.readers = self._engine(url, pool_size=reader_threads + 1)
        self._identity = FileIdentity(self._file)
        self._identity.watch(self.writers)
        self._identity.watch(self.readers)
        self._checkpoints = Checkpoints()

    @staticmethod
    def _engine(
        url: URL, *, pool_size: int, configure: Callable[[sqlite3.Connection, object], None] | None = None
    ) -> Engine:
        engine = sa.create_engine(
            url,
            poolclass=QueuePool,
            pool_size=pool_size,
            max_overflow=0,
            pool_timeout=POOL_TIMEOUT_SECONDS,
            hide_parameters=True,  # the text of an error must not quote documents and secrets
            connect_args={"check_same_thread": False, "timeout": BUSY_TIMEOUT_SECONDS},
        )
        event.listen(engine, "connect", configure or _configure)
        return engine

    def given(self, *columns: sa.Column[Any]) -> FromClause:
        """One JSON parameter: no limit on the number of keys, and one text of the statement for any number."""
        value = sa.func.json_each(sa.bindparam("keys", type_=sa.Text)).table_valued("value").c.value
        return sa.select(
            *(
                sa.func.json_extract(value, f"$[{position}]", type_=column.type).label(column.name)
                for position, column in enumerate(columns)
            )
        ).subquery("given")

    def keys(self, columns: Sequence[sa.Column[Any]], rows: Sequence[Row]) -> dict[str, Any]:
        """The keys as one JSON array of arrays."""
        return {"keys": msgspec.json.encode(with_digits(columns, rows)).decode()}

    def upsert(self, tx: Connection, table: sa.Table, rows: Sequence[Row]) -> None:
        """One statement, run for each row within the driver; a large row alone and in pieces."""
        small = [row for row in rows if largest_bytes(row) < LARGE_BYTES]
        if small:
            tx.exec_driver_sql(_upsert(table), with_digits(tuple(table.columns), small))
        for row in rows:
            if largest_bytes(row) >= LARGE_BYTES:
                _upsert_in_pieces(tx, table, row)

    def insert_new(self, tx: Connection, table: sa.Table, rows: Sequence[Row]) -> int:
        """A plain insert: the one writer has looked before."""
        if rows:
            tx.exec_driver_sql(_insert(table), with_digits(tuple(table.columns), rows))
        return len(rows)

    def classify(self, error: Exception) -> Fault:
        """By SQLite's primary result code."""
        if isinstance(error, PoolTimeoutError):
            return Fault.UNAVAILABLE
        if isinstance(error, MultipleResultsFound):
            return Fault.CORRUPT  # of a primary key
        if isinstance(error, FileReplaced):
            return Fault.REPLACED
        cause = error.orig if isinstance(error, DBAPIError) else error
        code = getattr(cause, "sqlite_errorcode", None)
        if not isinstance(cause, sqlite3.Error) or code is None:
            return Fault.OTHER
        if is_full(code, self._file):
            return Fault.FULL
        return _FAULTS.get(code & 0xFF, Fault.OTHER)

    def sha256_of(self, column: sa.Column[Any]) -> sa.ColumnElement[Any]:
        """SQLite keeps values of any type, and text that is no UTF-8 would end the statement."""
        return sa.case((sa.func.typeof(column) == "blob", sa.func.sha256(column)), else_=sa.null())

    def commit_is_ambiguous(self, error: Exception) -> bool:
        """A failed write or sync of the log: the commit record may yet be found there after a crash."""
        cause = error.orig if isinstance(error, DBAPIError) else error
        code = getattr(cause, "sqlite_errorcode", None)
        if code == sqlite3.SQLITE_IOERR_WRITE and is_full(code, self._file):
            return False  # as little as of SQLITE_FULL: the record, which comes last, was not written whole
        return code is None or code & 0xFF == sqlite3.SQLITE_IOERR

    @contextlib.contextmanager
    def snapshot(self) -> Iterator[Connection]:
        """One read transaction on a connection that hands out text even where it is damaged."""
        with self.readers.connect() as connection:
            driver: Any = connection.connection.driver_connection
            driver.text_factory = lambda text: text.decode(errors="surrogateescape")
            try:
                connection.exec_driver_sql("BEGIN")
                yield connection
            finally:
                self.discard(connection)

    def integrity_problems(self, tx: Connection) -> Iterator[str]:
        """Up to a hundred lines of SQLite's own check of pages and indexes."""
        for (line,) in tx.exec_driver_sql("PRAGMA integrity_check(100)"):
            if line != "ok":
                yield " ".join(line.split())

    def lacks_table(self, error: Exception) -> bool:
        """SQLite has one code for all that it cannot make sense of, and statements that are sound lack nothing else."""
        code = getattr(getattr(error, "orig", None), "sqlite_errorcode", None)
        return code == sqlite3.SQLITE_ERROR

    def check_identity(self) -> None:
        """See that the file that is open is where its path leads."""
        self._identity.check()

    def problem_of_writes(self) -> str | None:
        """Whether the file may only be read."""
        return read_only_problem(self._file)

    def dispose(self) -> None:
        """Close every connection, and let go of the file."""
        super().dispose()
        self._identity.close()

    def after_commit(self, connection: Connection, *, writes: int, carried_bytes: int) -> None:
        """Bring the log into the file from time to time."""
        driver: Any = connection.connection.driver_connection
        self._checkpoints.after_commit(driver, writes * WRITE_BYTES + carried_bytes)

    def migration_lock(self, connection: Connection) -> None:
        """Nothing to do: BEGIN IMMEDIATE is the lock."""


class MemoryDatabase(SqliteDatabase):
    """An SQLite database in memory behind one connection, which readers and the writer take in turns."""

    name = "memory"
    ephemeral = True

    def __init__(self) -> None:
        self._file = ""
        self._identity = FileIdentity(self._file)
        self.writers = self._engine(make_url("sqlite+pysqlite:///:memory:"), pool_size=1)
        event.listen(self.writers, "begin", _begin_immediate)
        self.readers = self.writers

    def check_identity(self) -> None:
        """Nothing: there is no file."""

    def problem_of_writes(self) -> str | None:
        """None: there is no file."""
        return None

    def after_commit(self, connection: Connection, *, writes: int, carried_bytes: int) -> None:
        """Nothing: there is no log."""

    def discard(self, connection: Connection) -> None:
        """End its transaction and no more: the one connection is the store."""
        connection.connection.rollback()


_FAULTS = {
    sqlite3.SQLITE_BUSY: Fault.TRANSIENT,
    sqlite3.SQLITE_LOCKED: Fault.TRANSIENT,
    sqlite3.SQLITE_FULL: Fault.FULL,
    sqlite3.SQLITE_READONLY: Fault.READ_ONLY,
    sqlite3.SQLITE_CANTOPEN: Fault.UNAVAILABLE,
    sqlite3.SQLITE_IOERR: Fault.UNAVAILABLE,
    sqlite3.SQLITE_PERM: Fault.UNAVAILABLE,
    sqlite3.SQLITE_PROTOCOL: Fault.UNAVAILABLE,
    sqlite3.SQLITE_CORRUPT: Fault.CORRUPT,
    sqlite3.SQLITE_NOTADB: Fault.CORRUPT,
}


def _create_private(file: str) -> None:
    """Make a new file readable by its owner only, since OAuth secrets will be in it; one that exists stays as it is."""
    with contextlib.suppress(OSError):  # whatever is wrong with the path, SQLite says it better
        file = os.path.realpath(file)  # O_EXCL takes a link for a file, also one that leads to none
        os.close(os.open(file, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))


def _configure(connection: sqlite3.Connection, record: object) -> None:
    configure_reader(connection, record)
    cursor = connection.cursor()
    _use_write_ahead_log(cursor)  # readers do not wait for the writer
    cursor.execute("PRAGMA synchronous = FULL")  # WAL's default loses acknowledged commits when power fails
    cursor.execute("PRAGMA wal_autocheckpoint = 0")  # it would not tell that it failed: see checkpoints.py
    cursor.close()


def configure_reader(connection: sqlite3.Connection, record: object) -> None:
    """Prepare a connection, whatever it is for; changes nothing in the file."""
    del record
    connection.isolation_level = None  # Python's own BEGINs come too late for BEGIN IMMEDIATE and never for DDL
    connection.text_factory = _text
    # Postgres has this function by itself.
    connection.create_function("sha256", 1, _sha256, deterministic=True)
    connection.execute("PRAGMA cell_size_check = ON")  # a damaged page is an error, not a wrong answer


def _text(stored: bytes) -> str:
    """Text as it is stored, whatever it is: a damaged row must be found by who reads it, not break the cursor."""
    return stored.decode("utf-8", "surrogateescape")


def _sha256(value: object) -> bytes | None:
    return hashlib.sha256(value).digest() if isinstance(value, bytes) else None


def _use_write_ahead_log(cursor: sqlite3.Cursor) -> None:
    """Switch a new file to WAL. When several connections try at once, SQLite says BUSY without waiting: so we wait."""
    deadline = time.monotonic() + BUSY_TIMEOUT_SECONDS
    while cursor.execute("PRAGMA journal_mode").fetchone()[0] == "delete":
        try:
            if _is_foreign(cursor):
                return
            cursor.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.01)


def _is_foreign(cursor: sqlite3.Cursor) -> bool:
    """Whether the file is another program's: it is refused a moment later, and must stay as it is."""
    names = [row[0] for row in cursor.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")]
    return bool(names) and store_identity.name not in names


def _begin_immediate(connection: Connection) -> None:
    # A deferred transaction that reads, then writes, fails at once when another one wrote between.
    connection.exec_driver_sql("BEGIN IMMEDIATE")


# The text of the statement, with a `?` a column in the table order: tuples go straight to the driver, which is cheaper,
# row by row, than dictionaries and bind processors.
@cache
def _insert(table: sa.Table) -> str:
    return str(sa.insert(table).compile(dialect=_dialect()))


@cache
def _upsert(table: sa.Table) -> str:
    from sqlalchemy.dialects.sqlite import insert

    return str(replacing(insert(table), table).compile(dialect=_dialect()))


def _upsert_in_pieces(tx: Connection, table: sa.Table, row: Row) -> None:
    """Make room for the row's last value, then fill it: binding a document whole would hold two more copies of it."""
    from sqlalchemy.dialects.sqlite import insert

    *values, document = zip(table.columns, row, strict=True)
    column, body = document
    room = insert(table).values(
        {**{key.name: value for key, value in values}, column.name: sa.func.zeroblob(len(body))}
    )
    rowid: int = tx.execute(replacing(room, table).returning(sa.literal_column("rowid"))).scalar_one()
    driver: Any = tx.connection.driver_connection
    with driver.blobopen(table.name, column.name, rowid) as blob, memoryview(body) as view:
        for start in range(0, len(view), PIECE_BYTES):
            blob.write(view[start : start + PIECE_BYTES])


def _dialect() -> sa.Dialect:
    from sqlalchemy.dialects.sqlite import dialect

    return dialect(paramstyle="qmark")
