"""All that SQLite and Postgres do differently. No other module names an engine; they ask for a capability.

Both are driven synchronously: writers and readers have an SQLAlchemy engine each, used from threads of the store's own.
"""

from __future__ import annotations

import enum
import sqlite3
import time
from abc import ABC, abstractmethod
from functools import cache
from typing import TYPE_CHECKING, Any

import msgspec
import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.pool import QueuePool

from runtimestore_server.store.tables import UINT64_DIGITS, UInt64

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sqlalchemy.engine import URL, Connection, Engine
    from sqlalchemy.sql.expression import Executable, FromClause

Row = tuple[Any, ...]

BUSY_TIMEOUT_SECONDS = 5.0
"""How long SQLite itself waits for another process' write lock before it says BUSY and the batch is run again."""

LOCK_TIMEOUT_SECONDS = 10
"""How long Postgres waits for a row that another transaction holds before the batch is run again."""

LARGE_BYTES = 8 * 1024 * 1024
"""A connection that carried this much at once keeps buffers of that size: it is closed, and the next one is new."""

POOL_TIMEOUT_SECONDS = 30.0
CONNECT_TIMEOUT_SECONDS = 5


class Fault(enum.Enum):
    """What an engine's error means for the store."""

    TRANSIENT = "run the transaction again"
    UNAVAILABLE = "the engine cannot be reached"
    FULL = "the medium is full"
    READ_ONLY = "the engine takes no writes"
    CORRUPT = "the engine's own file is damaged"
    OTHER = "a defect, or a value that the engine refuses"


class CommitState(enum.Enum):
    """What became of a transaction whose COMMIT was not answered."""

    COMMITTED = enum.auto()
    NOT_COMMITTED = enum.auto()
    IN_PROGRESS = enum.auto()
    RECORD_DECIDES = enum.auto()
    """It is over and the engine has forgotten it: it was committed if, and only if, what it wrote is there."""
    UNKNOWN = enum.auto()


class Database(ABC):
    """A database and its capabilities."""

    name: str
    """What GetServerInfo calls the engine."""
    ephemeral = False
    """Whether everything is forgotten when the process ends."""
    creates_itself = False
    """Whether a missing database is created at start."""
    concurrent_writers: bool
    """Whether several transactions write at a time, so that rows need locks."""
    writers: Engine
    readers: Engine

    @property
    def durable(self) -> bool:
        """Whether an acknowledged write survives the process."""
        return not self.ephemeral

    @abstractmethod
    def given(self, *columns: sa.Column[Any]) -> FromClause:
        """The keys of a statement as a relation with the names of `columns`; bound by `keys`."""

    @abstractmethod
    def keys(self, columns: Sequence[sa.Column[Any]], rows: Sequence[Row]) -> dict[str, Any]:
        """The parameters that bind `given(*columns)` to `rows`."""

    @abstractmethod
    def upsert(self, tx: Connection, table: sa.Table, rows: Sequence[Row]) -> None:
        """Insert rows of all columns, or replace what is there under the same primary key, in one statement."""

    @abstractmethod
    def insert_new(self, tx: Connection, table: sa.Table, rows: Sequence[Row]) -> int:
        """Insert rows whose primary key is free, in one statement; how many were."""

    @abstractmethod
    def classify(self, error: Exception) -> Fault:
        """What an error means, told by the driver's code, never by its text."""

    def transaction_token(self, tx: Connection) -> str | None:
        """What identifies the transaction to `commit_state` after the connection was lost."""
        del tx
        return None

    def commit_is_ambiguous(self, error: Exception) -> bool:
        """Whether an error of COMMIT leaves open if the transaction is committed."""
        del error
        return False

    def commit_state(self, tx: Connection, token: str | None) -> CommitState:
        """What became of the transaction `token`; asked on a new connection."""
        del tx, token
        return CommitState.UNKNOWN

    def discard(self, connection: Connection) -> None:
        """Close a connection, with whatever state it is in, instead of giving it back to the pool."""
        connection.invalidate()

    def release_buffers(self, connection: Connection, carried_bytes: int) -> None:
        """Let go of what a connection keeps of a large document: drivers never shrink their buffers."""
        if carried_bytes >= LARGE_BYTES:
            self.discard(connection)

    @abstractmethod
    def migration_lock(self, connection: Connection) -> None:
        """Wait until no other process migrates; held until the transaction ends."""

    def dispose(self) -> None:
        """Close every connection."""
        self.writers.dispose()
        self.readers.dispose()


def open_database(url: str, *, committer_threads: int, reader_threads: int) -> Database:
    """The database behind a URL: `sqlite:///FILE`, `postgresql://…` or `memory:`. Connects to nothing yet.

    Raises:
        ValueError: the URL is none of these.
    """
    if url == "memory:":
        return MemoryDatabase()
    parsed = parse_url(url)
    if parsed.get_backend_name() == "sqlite":
        return SqliteDatabase(parsed, reader_threads=reader_threads)
    return PostgresDatabase(parsed, committer_threads=committer_threads, reader_threads=reader_threads)


def parse_url(url: str) -> URL:
    """The parts of a database URL other than `memory:`.

    Raises:
        ValueError: it is none; the message quotes no part of it, for any part may be a misplaced password.
    """
    try:
        parsed = make_url(url)
    except (sa.exc.ArgumentError, ValueError):
        raise ValueError("must be sqlite:///FILE, postgresql://USER:PASSWORD@HOST/DATABASE or memory:") from None
    backend = parsed.get_backend_name()
    if backend == "sqlite" and parsed.database in (None, "", ":memory:"):
        raise ValueError("sqlite:///FILE needs a file; for a store without one say memory:")
    if backend not in ("sqlite", "postgresql", "postgres"):
        raise ValueError("must begin with sqlite:///, postgresql:// or be memory:")
    return parsed


class SqliteDatabase(Database):
    """An SQLite file in WAL mode: one writer at a time, readers beside it."""

    name = "sqlite"
    creates_itself = True
    concurrent_writers = False

    def __init__(self, url: URL, *, reader_threads: int) -> None:
        url = url.set(drivername="sqlite+pysqlite")
        # Two connections: the committer's, and one for maintenance beside it.
        self.writers = self._engine(url, pool_size=2)
        event.listen(self.writers, "begin", _begin_immediate)
        self.readers = self._engine(url, pool_size=reader_threads)

    @staticmethod
    def _engine(url: URL, *, pool_size: int) -> Engine:
        engine = sa.create_engine(
            url,
            poolclass=QueuePool,
            pool_size=pool_size,
            max_overflow=0,
            pool_timeout=POOL_TIMEOUT_SECONDS,
            hide_parameters=True,  # the text of an error must not quote documents and secrets
            connect_args={"check_same_thread": False, "timeout": BUSY_TIMEOUT_SECONDS},
        )
        event.listen(engine, "connect", _configure_sqlite)
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
        return {"keys": msgspec.json.encode(_with_digits(columns, rows)).decode()}

    def upsert(self, tx: Connection, table: sa.Table, rows: Sequence[Row]) -> None:
        """One statement, run for each row within the driver."""
        if rows:
            tx.exec_driver_sql(_sqlite_upsert(table), _with_digits(tuple(table.columns), rows))

    def insert_new(self, tx: Connection, table: sa.Table, rows: Sequence[Row]) -> int:
        """A plain insert: the one writer has looked before."""
        if rows:
            tx.exec_driver_sql(_sqlite_insert(table), _with_digits(tuple(table.columns), rows))
        return len(rows)

    def classify(self, error: Exception) -> Fault:
        """By SQLite's primary result code."""
        if isinstance(error, PoolTimeoutError):
            return Fault.UNAVAILABLE
        cause = error.orig if isinstance(error, DBAPIError) else error
        code = getattr(cause, "sqlite_errorcode", None)
        if not isinstance(cause, sqlite3.Error) or code is None:
            return Fault.OTHER
        return _SQLITE_FAULTS.get(code & 0xFF, Fault.OTHER)

    def commit_is_ambiguous(self, error: Exception) -> bool:
        """A failed write or sync of the log: the commit record may yet be found there after a crash."""
        cause = error.orig if isinstance(error, DBAPIError) else error
        code = getattr(cause, "sqlite_errorcode", None)
        return code is None or code & 0xFF == sqlite3.SQLITE_IOERR

    def migration_lock(self, connection: Connection) -> None:
        """Nothing to do: BEGIN IMMEDIATE is the lock."""


class MemoryDatabase(SqliteDatabase):
    """An SQLite database in memory behind one connection, which readers and the writer take in turns."""

    name = "memory"
    ephemeral = True

    def __init__(self) -> None:
        self.writers = self._engine(make_url("sqlite+pysqlite:///:memory:"), pool_size=1)
        event.listen(self.writers, "begin", _begin_immediate)
        self.readers = self.writers

    def discard(self, connection: Connection) -> None:
        """End its transaction and no more: the one connection is the store."""
        connection.connection.rollback()


_SQLITE_FAULTS = {
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


def _configure_sqlite(connection: sqlite3.Connection, record: object) -> None:
    del record
    connection.isolation_level = None  # Python's own BEGINs come too late for BEGIN IMMEDIATE and never for DDL
    cursor = connection.cursor()
    _use_write_ahead_log(cursor)  # readers do not wait for the writer
    cursor.execute("PRAGMA synchronous = FULL")  # WAL's default loses acknowledged commits when power fails
    cursor.execute("PRAGMA cell_size_check = ON")  # a damaged page is an error, not a wrong answer
    cursor.close()


def _use_write_ahead_log(cursor: sqlite3.Cursor) -> None:
    """Switch a new file to WAL. When several connections try at once, SQLite says BUSY without waiting: so we wait."""
    deadline = time.monotonic() + BUSY_TIMEOUT_SECONDS
    while cursor.execute("PRAGMA journal_mode").fetchone()[0] == "delete":
        try:
            cursor.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.01)


def _begin_immediate(connection: Connection) -> None:
    # A deferred transaction that reads, then writes, fails at once when another one wrote between.
    connection.exec_driver_sql("BEGIN IMMEDIATE")


class PostgresDatabase(Database):
    """A Postgres database through psycopg 3."""

    name = "postgresql"
    concurrent_writers = True

    def __init__(self, url: URL, *, committer_threads: int, reader_threads: int) -> None:
        url = url.set(drivername="postgresql+psycopg")
        # One more than the committers: maintenance, and the question what became of a COMMIT.
        self.writers = self._engine(url, pool_size=committer_threads + 1)
        # One statement a read is one snapshot; without BEGIN and COMMIT around it, it is one round trip too.
        self.readers = self._engine(url, pool_size=reader_threads).execution_options(isolation_level="AUTOCOMMIT")

    @staticmethod
    def _engine(url: URL, *, pool_size: int) -> Engine:
        engine = sa.create_engine(
            url,
            pool_size=pool_size,
            max_overflow=1,
            pool_timeout=POOL_TIMEOUT_SECONDS,
            hide_parameters=True,  # the text of an error must not quote documents and secrets
            connect_args={
                "application_name": "runtimestore",
                "connect_timeout": CONNECT_TIMEOUT_SECONDS,
                "cursor_factory": _binary_cursor(),
                # A host that vanished is noticed within half a minute, not in two hours.
                "keepalives_idle": 10,
                "keepalives_interval": 5,
                "keepalives_count": 3,
                "tcp_user_timeout": 30_000,
            },
        )
        event.listen(engine, "connect", _configure_postgres)
        return engine

    def given(self, *columns: sa.Column[Any]) -> FromClause:
        """One array parameter a column: no limit on the number of keys."""
        return _unnest(columns)

    def keys(self, columns: Sequence[sa.Column[Any]], rows: Sequence[Row]) -> dict[str, Any]:
        """The keys, a list a column."""
        return _lists(columns, rows)

    def upsert(self, tx: Connection, table: sa.Table, rows: Sequence[Row]) -> None:
        """One statement with an array a column; a large row alone, since an array would be one more copy of it."""
        small = [row for row in rows if _largest(row) < LARGE_BYTES]
        if small:
            tx.execute(_postgres_upsert(table), _lists(tuple(table.columns), small))
        for row in rows:
            if _largest(row) >= LARGE_BYTES:
                tx.execute(_postgres_upsert_row(table), dict(zip(table.columns.keys(), row, strict=True)))

    def insert_new(self, tx: Connection, table: sa.Table, rows: Sequence[Row]) -> int:
        """Rows that another transaction is inserting are waited for, then left alone."""
        if not rows:
            return 0
        return len(tx.execute(_postgres_insert(table), _lists(tuple(table.columns), rows)).all())

    def classify(self, error: Exception) -> Fault:
        """By SQLSTATE; an error without one is the connection's."""
        if isinstance(error, PoolTimeoutError):
            return Fault.UNAVAILABLE
        if not isinstance(error, DBAPIError):
            return Fault.OTHER
        state = getattr(error.orig, "sqlstate", None)
        if state is None:
            # psycopg has no SQLSTATE where the connection broke or could not be made.
            return Fault.UNAVAILABLE if _is_operational(error) else Fault.OTHER
        return _POSTGRES_FAULTS.get(state) or _POSTGRES_FAULT_CLASSES.get(state[:2], Fault.OTHER)

    def transaction_token(self, tx: Connection) -> str | None:
        """The transaction's id and the start of the server: after a restart ids may be given out again."""
        token: str | None = tx.execute(_POSTGRES_TOKEN).scalar_one()
        return token

    def commit_is_ambiguous(self, error: Exception) -> bool:
        """The connection broke, the backend was told to go before it answered, or the driver itself failed."""
        return not isinstance(error, DBAPIError) or self.classify(error) is Fault.UNAVAILABLE

    def commit_state(self, tx: Connection, token: str | None) -> CommitState:
        """What Postgres itself remembers of the transaction. A restart ended it, and may give its id out again."""
        if token is None:
            return CommitState.UNKNOWN
        transaction_id, _, started = token.partition("/")
        status = tx.execute(_POSTGRES_STATUS, {"transaction_id": transaction_id, "started": started}).scalar_one()
        return _POSTGRES_COMMIT_STATES[status]

    def migration_lock(self, connection: Connection) -> None:
        """An advisory lock of the transaction, on a number that no other program is likely to use."""
        connection.execute(sa.text("SELECT pg_advisory_xact_lock(7382946150274619385)"))


_POSTGRES_TOKEN = sa.text(
    "SELECT pg_current_xact_id()::text || '/' || extract(epoch FROM pg_postmaster_start_time())::text"
)
_POSTGRES_STATUS = sa.text(
    "SELECT CASE WHEN extract(epoch FROM pg_postmaster_start_time())::text = :started"
    " THEN pg_xact_status(CAST(CAST(:transaction_id AS text) AS xid8)) END"
)

_POSTGRES_COMMIT_STATES = {
    "committed": CommitState.COMMITTED,
    "aborted": CommitState.NOT_COMMITTED,
    "in progress": CommitState.IN_PROGRESS,
    None: CommitState.RECORD_DECIDES,
}

_POSTGRES_FAULTS = {
    "40001": Fault.TRANSIENT,  # serialization_failure
    "40P01": Fault.TRANSIENT,  # deadlock_detected
    "55P03": Fault.TRANSIENT,  # lock_not_available
    "53100": Fault.FULL,  # disk_full
    "25006": Fault.READ_ONLY,  # read_only_sql_transaction: a standby, or default_transaction_read_only
    "XX001": Fault.CORRUPT,  # data_corrupted
    "XX002": Fault.CORRUPT,  # index_corrupted
}
_POSTGRES_FAULT_CLASSES = {
    "08": Fault.UNAVAILABLE,  # connection exceptions
    "28": Fault.UNAVAILABLE,  # invalid authorization: the operator's mistake, not the caller's
    "3D": Fault.UNAVAILABLE,  # the database is gone
    "53": Fault.UNAVAILABLE,  # insufficient resources
    "57": Fault.UNAVAILABLE,  # operator intervention: shutdown, crash, recovery
    "58": Fault.UNAVAILABLE,  # system errors: I/O
}


def _is_operational(error: DBAPIError) -> bool:
    return isinstance(error, (sa.exc.OperationalError, sa.exc.InterfaceError)) or error.connection_invalidated


def _configure_postgres(connection: Any, record: object) -> None:
    del record
    from psycopg.types.array import ListBinaryDumper

    connection.autocommit = True
    # Another server may hold a runtime's row while its host is frozen: better run again than wait for it for ever.
    connection.execute(f"SET lock_timeout = '{LOCK_TIMEOUT_SECONDS}s'")
    connection.autocommit = False

    # psycopg's default for lists is text, in which each byte of a document would go out as two digits.
    connection.adapters.register_dumper(list, ListBinaryDumper)


def _binary_cursor() -> Callable[..., Any]:
    """A psycopg cursor that asks for binary results: as text, each byte of a document would arrive as two digits."""
    import psycopg
    from psycopg.pq import Format

    class BinaryCursor(psycopg.Cursor[Any]):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self.format = Format.BINARY

    return BinaryCursor


def _with_digits(columns: Sequence[sa.Column[Any]], rows: Sequence[Row]) -> list[Row]:
    """The rows with uint64 values as they are stored, for parameters that no column's type converts."""
    wide = [position for position, column in enumerate(columns) if isinstance(column.type, UInt64)]
    if not wide:
        return list(rows)
    return [
        tuple(f"{value:0{UINT64_DIGITS}d}" if position in wide else value for position, value in enumerate(row))
        for row in rows
    ]


def _lists(columns: Sequence[sa.Column[Any]], rows: Sequence[Row]) -> dict[str, Any]:
    values = zip(*_with_digits(columns, rows), strict=True)
    return {column.name: list(of_column) for column, of_column in zip(columns, values, strict=True)}


def _plain(column: sa.Column[Any]) -> sa.types.TypeEngine[Any]:
    """The column's type without its collation, which an array's element must not carry."""
    if isinstance(column.type, sa.LargeBinary):
        return sa.LargeBinary()
    if isinstance(column.type, sa.Integer):
        return sa.BigInteger()
    return sa.Text()


def _unnest(columns: Sequence[sa.Column[Any]]) -> FromClause:
    arrays = (sa.bindparam(column.name, type_=sa.ARRAY(_plain(column))) for column in columns)
    names = [sa.column(column.name, _plain(column)) for column in columns]
    return sa.func.unnest(*arrays).table_valued(*names, name="given").render_derived()


@cache
def _postgres_rows(table: sa.Table) -> Any:
    from sqlalchemy.dialects.postgresql import insert

    given = _unnest(tuple(table.columns))
    return insert(table).from_select(table.columns.keys(), sa.select(*given.columns))


@cache
def _postgres_upsert(table: sa.Table) -> Executable:
    return _replacing(_postgres_rows(table), table)


@cache
def _postgres_upsert_row(table: sa.Table) -> Executable:
    from sqlalchemy.dialects.postgresql import insert

    return _replacing(insert(table), table)


def _largest(row: Row) -> int:
    return max((len(value) for value in row if isinstance(value, bytes)), default=0)


@cache
def _postgres_insert(table: sa.Table) -> Executable:
    statement: Executable = _postgres_rows(table).on_conflict_do_nothing().returning(sa.literal_column("1"))
    return statement


# The text of the statement, with a `?` a column in the table order: tuples go straight to the driver, which is cheaper,
# row by row, than dictionaries and bind processors.
@cache
def _sqlite_insert(table: sa.Table) -> str:
    return str(sa.insert(table).compile(dialect=_sqlite_dialect()))


@cache
def _sqlite_upsert(table: sa.Table) -> str:
    from sqlalchemy.dialects.sqlite import insert

    return str(_replacing(insert(table), table).compile(dialect=_sqlite_dialect()))


def _sqlite_dialect() -> sa.Dialect:
    from sqlalchemy.dialects.sqlite import dialect

    return dialect(paramstyle="qmark")


def _replacing(insert: Any, table: sa.Table) -> sa.Insert:
    statement: sa.Insert = insert.on_conflict_do_update(
        index_elements=list(table.primary_key.columns),
        set_={
            column.name: insert.excluded[column.name]
            for column in table.columns
            if column not in set(table.primary_key)
        },
    )
    return statement
