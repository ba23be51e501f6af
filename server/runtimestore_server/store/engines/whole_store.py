"""A whole store of either engine: copied into one file, and replaced by one."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import tempfile
from abc import ABC, abstractmethod
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from runtimestore_server.store.engines import store_file
from runtimestore_server.store.engines.private_files import (
    Taken,
    beside,
    make_private,
    only_here,
    private,
    sync,
    sync_folder,
)
from runtimestore_server.store.engines.sqlite_driver import sqlite3

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sqlalchemy.engine import Connection

    from runtimestore_server.store.engines.answers import Progress
    from runtimestore_server.store.engines.postgres import PostgresDatabase
    from runtimestore_server.store.engines.sqlite import SqliteDatabase
    from runtimestore_server.store.engines.store_file import TableShape

    Rows = Callable[[TableShape], Iterator[tuple[Any, ...]]]
    """The rows of a table in the order of its key, read anew."""

_SHARED_FIRST = 0x40000002
_SHARED_SIZE = 510
"""The bytes of an SQLite file that every open connection holds a lock on: SQLite's os.h, SHARED_FIRST, SHARED_SIZE."""

ROWS_AT_ONCE = 100
"""How many rows of Postgres are in memory at once; each may be as large as a message."""


class Damaged(Exception):
    """The store cannot be read whole; the message says what to do."""


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
    def stage(self) -> contextlib.AbstractContextManager[Path]:
        """An empty file that its owner alone may read, where the store is made that `replace_by` takes; gone after.

        Raises:
            InUse: another restore is under way.
        """

    @abstractmethod
    def occupied(self) -> bool:
        """Whether anything is there that a restore would replace."""

    @abstractmethod
    def replace_by(self, file: Path, see: Callable[[Rows], None], *, replace: bool) -> str | None:
        """Make this store what the store in `file` is, all or nothing; says where what was there before is now.

        `see` looks at the rows of what is about to take effect, and raises if they are not right. Without
        `replace` nothing gives way that came meanwhile.

        Raises:
            InUse: a server has it open, or made it meanwhile.
        """


class SqliteStore(WholeStore):
    """A store in an SQLite file."""

    needs_tables = False

    def __init__(self, database: SqliteDatabase) -> None:
        self._database = database
        # As SQLite names what lies beside a file: a link is followed, and stays.
        self._file = Path(os.path.realpath(database.file))

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
            except sqlite3.Error as error:
                raise why_not_written(error) from None
            finally:
                driver.set_progress_handler(None, 0)
                self._database.discard(connection)

    def occupied(self) -> bool:
        """Whether the file holds a byte, or what a server left beside it does."""
        return any(path.exists() and path.stat().st_size for path in (self._file, *self._beside()))

    @contextlib.contextmanager
    def stage(self) -> Iterator[Path]:
        """A file beside the store, where the next one is made; what a killed restore left of it is begun anew."""
        try:
            with only_here(Path(f"{self._file}.restoring")) as path:
                yield path
        except Taken:
            raise InUse(f"another restore of {self._file} is under way") from None

    def replace_by(self, file: Path, see: Callable[[Rows], None], *, replace: bool) -> str | None:
        """Put the file into place under its name, in one step: at every moment a whole store is there, or none was.

        What was there is kept under another name. Its log was brought into it before: a log that is left behind would
        be taken for that of the new file.
        """
        with contextlib.closing(store_file.open_file(file)) as connection:
            see(lambda shape: store_file.rows_of(connection, shape))
        if not self._file.exists():
            for left in self._beside():  # of a file that is gone, and of no use without it
                left.unlink(missing_ok=True)
            try:
                self._file.hardlink_to(file)  # which fails where a server made one meanwhile
            except FileExistsError:
                raise self._made_meanwhile() from None
            sync_folder(self._file.parent)
            return None
        with self._alone():
            filled = self.occupied()
            if filled and not replace:
                raise self._made_meanwhile()
            kept = self._keep() if filled else None
            try:
                file.replace(self._file)
            except OSError:
                if kept is not None:
                    kept.unlink()  # everything is as it was
                raise
            sync_folder(self._file.parent)
        return None if kept is None else str(kept)

    def _made_meanwhile(self) -> InUse:
        return InUse(f"a store was made at {self._file} meanwhile: stop the server that did")

    def _beside(self) -> list[Path]:
        return beside(self._file)

    def _keep(self) -> Path:
        """Give what is there a second name."""
        kept = Path(f"{self._file}.replaced-{datetime.now(UTC).strftime('%Y%m%dT%H%M%S.%fZ')}")
        try:
            kept.hardlink_to(self._file)
        except OSError:  # a file system without such links, or a file that is mounted alone
            with private(kept):
                shutil.copyfile(self._file, kept)
            sync(kept)
        sync_folder(self._file.parent)
        return kept

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Have the file alone, without a log beside it; nobody can open it meanwhile.

        Raises:
            InUse: somebody uses it.
        """
        driver = store_file.open_file(self._file, options="mode=rw")
        try:
            try:
                driver.execute("PRAGMA busy_timeout = 0")
                mode = driver.execute("PRAGMA journal_mode = DELETE").fetchone()[0]
                driver.execute("BEGIN EXCLUSIVE")
            except sqlite3.Error as error:
                if error.sqlite_errorcode & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
                    raise self._in_use() from None
                self._give_up_log()
            else:
                if mode != "delete":
                    raise self._in_use()
            yield
        finally:
            driver.close()

    def _in_use(self) -> InUse:
        return InUse(f"a server or another program has {self._file} open: stop it first")

    def _give_up_log(self) -> None:
        """Take the log of a file away that SQLite cannot make sense of; it is kept under another name."""
        with self._file.open("r+b") as opened:
            try:
                fcntl.lockf(opened, fcntl.LOCK_EX | fcntl.LOCK_NB, _SHARED_SIZE, _SHARED_FIRST)
            except OSError:
                raise self._in_use() from None
            for path in self._beside():
                if path.exists():
                    path.rename(f"{path}.replaced-{datetime.now(UTC).strftime('%Y%m%dT%H%M%S.%fZ')}")


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

    @contextlib.contextmanager
    def stage(self) -> Iterator[Path]:
        """A temporary file."""
        with tempfile.TemporaryDirectory(prefix="runtimestore-restore-") as folder:
            path = Path(folder) / "store.db"
            make_private(path)
            yield path

    def replace_by(self, file: Path, see: Callable[[Rows], None], *, replace: bool) -> str | None:
        """Fill the tables anew in one transaction, which has them alone."""
        self._database.readers.dispose()  # else one of our own would count as a server
        with (
            contextlib.closing(store_file.open_file(file)) as source,
            self._database.writers.begin() as tx,
        ):
            self._database.migration_lock(tx)
            self._refuse_servers(tx)
            there = sa.inspect(tx).get_table_names()
            if there and not replace:
                raise InUse("a store was made in the database meanwhile; say --replace to take its place")
            shapes = store_file.shapes(source)
            names = [*(shape.name for shape in shapes), store_file.REVISION_TABLE]
            if locked := [name for name in names if name in there]:
                # All at once, and the one that a server reads first: whoever starts now waits, and finds what is new.
                quoted = ", ".join(f'"{name}"' for name in locked)
                tx.exec_driver_sql(f"LOCK TABLE {quoted} IN ACCESS EXCLUSIVE MODE")
                self._refuse_servers(tx)
            self._migrate(tx)
            for shape in shapes:
                tx.exec_driver_sql(f'DELETE FROM "{shape.name}"')  # noqa: S608  (a name of our own)
                _copy_in(tx, shape, store_file.rows_of(source, shape))
            see(lambda shape: _rows(tx, shape))
        return None

    def _refuse_servers(self, tx: Connection) -> None:
        tx.exec_driver_sql("SELECT pg_stat_clear_snapshot()")  # else a second look would show what the first one saw
        if self.users(tx):
            raise InUse("a server is connected to the database: stop it first")

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


def why_not_written(error: Any) -> Exception:
    """Whose fault it is that a file was not written: that of what was read, or that of the file itself."""
    match error.sqlite_errorcode & 0xFF:
        case sqlite3.SQLITE_FULL:
            return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        case sqlite3.SQLITE_IOERR:  # no room for a log's index among others, and pysqlite3 has one code for all
            return OSError(errno.EIO, "there is no room, or a disk fails")
        case sqlite3.SQLITE_CORRUPT | sqlite3.SQLITE_NOTADB:
            return Damaged(
                "the store is damaged, and cannot be read whole: `runtimestore verify` lists what is, and "
                "`sqlite3 FILE .recover` saves what can still be read"
            )
    told: Exception = error
    return told


__all__ = [
    "Damaged",
    "InUse",
    "PostgresStore",
    "SqliteStore",
    "WholeStore",
    "why_not_written",
]
