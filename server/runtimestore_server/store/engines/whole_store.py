"""A whole store of either engine: copied into one file, and replaced by one."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from abc import ABC, abstractmethod
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from runtimestore_server.store.engines import store_file

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sqlalchemy.engine import Connection

    from runtimestore_server.store.engines.database import Progress
    from runtimestore_server.store.engines.postgres import PostgresDatabase
    from runtimestore_server.store.engines.sqlite import SqliteDatabase
    from runtimestore_server.store.engines.store_file import TableShape

    Rows = Callable[[TableShape], Iterator[tuple[Any, ...]]]
    """The rows of a table in the order of its key, read anew."""

_SHARED_FIRST = 0x40000002
_SHARED_SIZE = 510
"""The bytes of an SQLite file that every open connection holds a lock on: SQLite's os.h, SHARED_FIRST, SHARED_SIZE."""

_WATCH_SECONDS = 0.2

ROWS_AT_ONCE = 100
"""How many rows of Postgres are in memory at once; each may be as large as a message."""


class InUse(Exception):
    """A server has the store open; the message says how that is known."""


class WholeStore(ABC):
    """All of a store, on whatever engine it is."""

    needs_tables: bool
    """Whether `copy_into` fills tables that are in the file already."""

    @abstractmethod
    def copy_into(self, file: Path, progress: Progress) -> None:
        """Make `file` a store with all that this one holds at one moment; servers may go on meanwhile."""

    @abstractmethod
    def occupied(self) -> bool:
        """Whether anything is there that a restore would replace."""

    @abstractmethod
    def replace_by(self, file: Path, see: Callable[[Rows], None]) -> str | None:
        """Make this store what the store in `file` is, all or nothing; says where what was there before is now.

        `see` looks at the rows of what is about to take effect, and raises if they are not right.

        Raises:
            InUse: a server has it open.
        """


class SqliteStore(WholeStore):
    """A store in an SQLite file."""

    needs_tables = False

    def __init__(self, database: SqliteDatabase) -> None:
        self._database = database
        self._file = database.file

    def copy_into(self, file: Path, progress: Progress) -> None:
        """Have SQLite itself write a compact copy, in one read transaction."""
        with self._database.readers.connect() as connection:
            driver: Any = connection.connection.driver_connection
            driver.execute("PRAGMA query_only = OFF")  # the copy is written; nothing else is
            pages, page_bytes = (driver.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "page_size"))
            progress.begin("copying", pages * page_bytes)

            def look() -> int:
                progress.advance(min(file.stat().st_size, pages * page_bytes))
                return 0

            driver.set_progress_handler(look, 1_000_000)  # SQLite's own steps: a few times a second
            try:
                driver.execute("VACUUM INTO ?", (str(file),))
            finally:
                driver.set_progress_handler(None, 0)
                self._database.discard(connection)

    def occupied(self) -> bool:
        """Whether the file holds a byte, or what a server left beside it does."""
        return any(path.exists() and path.stat().st_size for path in (self._file, *self._beside()))

    def replace_by(self, file: Path, see: Callable[[Rows], None]) -> str | None:
        """Put the file into place under its name; what was there keeps its own log, under another name."""
        with contextlib.closing(store_file.open_file(file)) as connection:
            see(lambda shape: store_file.rows_of(connection, shape))
        with self._nobody_else():
            kept = self._set_aside() if self.occupied() else None
            for left in (*self._beside(), Path(f"{self._file}-lock")):
                left.unlink(missing_ok=True)  # the log of a store that is gone would be taken for this one's
            file.replace(self._file)
            sync_folder(self._file.parent)
        return kept

    def _beside(self) -> list[Path]:
        return [Path(f"{self._file}{suffix}") for suffix in ("-wal", "-shm", "-journal")]

    def _set_aside(self) -> str:
        stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
        kept = Path(f"{self._file}.replaced-{stamp}")
        while kept.exists():
            time.sleep(0.1)
            kept = Path(f"{self._file}.replaced-{datetime.now(UTC).strftime('%Y%m%dT%H%M%S.%fZ')}")
        for path in (*self._beside(), self._file):  # the file last: while it is there, its log must be found beside it
            if path.exists() and path.name.removeprefix(self._file.name) != "-shm":
                path.rename(f"{kept}{path.name.removeprefix(self._file.name)}")
        return str(kept)

    @contextlib.contextmanager
    def _nobody_else(self) -> Iterator[None]:
        """Hold the lock that keeps others from using the file.

        Raises:
            InUse: somebody uses it.
        """
        if not self._file.exists():
            yield
            return
        with self._file.open("r+b") as opened:
            try:
                fcntl.lockf(opened, fcntl.LOCK_EX | fcntl.LOCK_NB, _SHARED_SIZE, _SHARED_FIRST)
            except OSError:
                raise InUse(f"a server or another program has {self._file} open: stop it first") from None
            yield


class PostgresStore(WholeStore):
    """A store in a Postgres database."""

    needs_tables = True

    def __init__(self, database: PostgresDatabase, migrate: Callable[[Connection], object]) -> None:
        self._database = database
        self._migrate = migrate

    def copy_into(self, file: Path, progress: Progress) -> None:
        """Copy every table out of one read-only snapshot; `file` has the tables already."""
        with (
            self._database.snapshot() as tx,
            contextlib.closing(store_file.open_file(file, options="mode=rw")) as target,
        ):
            shapes = store_file.shapes(target)
            total = sum(self._count(tx, shape) for shape in shapes)
            progress.begin("copying", total)
            done = 0

            def counted(rows: Iterator[tuple[Any, ...]]) -> Iterator[tuple[Any, ...]]:
                nonlocal done
                for row in rows:
                    yield row
                    done += 1
                    if done % ROWS_AT_ONCE == 0:
                        progress.advance(done)

            target.execute("PRAGMA synchronous = OFF")  # synced whole at the end
            target.execute("BEGIN")
            for shape in shapes:
                store_file.fill(target, shape, counted(_rows(tx, shape)))
            target.execute("COMMIT")
            progress.advance(total)

    def occupied(self) -> bool:
        """Whether the database has any table."""
        with self._database.readers.connect() as connection:
            return bool(sa.inspect(connection).get_table_names())

    def replace_by(self, file: Path, see: Callable[[Rows], None]) -> str | None:
        """Fill the tables anew in one transaction, which has them alone."""
        self._database.readers.dispose()  # else one of our own would count as a server
        with (
            contextlib.closing(store_file.open_file(file)) as source,
            self._database.writers.begin() as tx,
        ):
            self._database.migration_lock(tx)
            if self.users(tx):
                raise InUse("a server is connected to the database: stop it first")
            self._migrate(tx)
            shapes = store_file.shapes(source)
            for shape in shapes:
                tx.exec_driver_sql(f'LOCK TABLE "{shape.name}" IN ACCESS EXCLUSIVE MODE')
                tx.exec_driver_sql(f'DELETE FROM "{shape.name}"')  # noqa: S608  (a name of our own)
                _copy_in(tx, shape, store_file.rows_of(source, shape))
            see(lambda shape: _rows(tx, shape))
        return None

    @staticmethod
    def users(tx: Connection) -> int:
        """How many other sessions of servers there are in this database."""
        found: int = tx.execute(_USERS).scalar_one()
        return found

    @staticmethod
    def _count(tx: Connection, shape: TableShape) -> int:
        found: int = tx.exec_driver_sql(f'SELECT count(*) FROM "{shape.name}"').scalar_one()  # noqa: S608  (the same)
        return found


_USERS = sa.text(
    "SELECT count(*) FROM pg_stat_activity"
    " WHERE datname = current_database() AND application_name = 'runtimestore' AND pid <> pg_backend_pid()"
)


def _rows(tx: Connection, shape: TableShape) -> Iterator[tuple[Any, ...]]:
    """The rows of a table in the order of its key, a few at a time."""
    driver: Any = tx.connection.driver_connection
    with driver.cursor(name="whole_store") as cursor:  # on the server: a client-side one would hold the table
        cursor.itersize = ROWS_AT_ONCE
        cursor.execute(store_file.select(shape), binary=True)
        yield from cursor


def _copy_in(tx: Connection, shape: TableShape, rows: Iterator[tuple[Any, ...]]) -> None:
    driver: Any = tx.connection.driver_connection
    columns = ", ".join(f'"{name}"' for name in shape.columns)
    with driver.cursor() as cursor:
        types = dict(cursor.execute(_TYPES, (shape.name,)).fetchall())
        with cursor.copy(f'COPY "{shape.name}" ({columns}) FROM STDIN (FORMAT BINARY)') as copy:
            copy.set_types([types[name] for name in shape.columns])
            for row in rows:
                copy.write_row(row)


_TYPES = (
    "SELECT attname, format_type(atttypid, NULL) FROM pg_attribute"
    " WHERE attrelid = to_regclass(%s) AND attnum > 0 AND NOT attisdropped"
)


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


__all__ = ["InUse", "PostgresStore", "SqliteStore", "WholeStore", "make_private", "sync", "sync_folder"]
