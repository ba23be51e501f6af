"""A whole store in a Postgres database: copied into a file, and replaced by one."""

from __future__ import annotations

import contextlib
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from runtimestore_server.store.engines import store_file
from runtimestore_server.store.engines.private_files import make_private
from runtimestore_server.store.engines.whole_store import NotWhole, WholeStore

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sqlalchemy.engine import Connection

    from runtimestore_server.store.engines.answers import Progress
    from runtimestore_server.store.engines.postgres import PostgresDatabase
    from runtimestore_server.store.engines.store_file import TableShape
    from runtimestore_server.store.engines.whole_store import Rows

ROWS_AT_ONCE = 100
"""How many rows of Postgres are in memory at once; each may be as large as a message."""

LEAVING_SECONDS = 2.0
"""How long the sessions of a server that was just stopped are waited for: Postgres ends them a moment after it."""


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
        """Tell whether the database has any table."""
        with self._database.readers.connect() as connection:
            return bool(sa.inspect(connection).get_table_names())

    @contextlib.contextmanager
    def stage(self) -> Iterator[Path]:
        """Make a temporary file."""
        with tempfile.TemporaryDirectory(prefix="runtimestore-restore-") as folder:
            path = Path(folder) / "store.db"
            make_private(path)
            yield path

    def replace_by(self, file: Path, see: Callable[[Rows], None], *, replace: bool) -> str | None:
        """Fill the tables anew in one transaction, which has them alone."""
        self._database.readers.dispose()  # else one of our own would count as a server
        with contextlib.closing(store_file.open_file(file)) as source, self._database.writers.begin() as tx:
            self._database.migration_lock(tx)
            self._refuse_servers(tx)
            there = sa.inspect(tx).get_table_names()
            if there and not replace:
                raise NotWhole("a store was made in the database meanwhile; say --replace to take its place")
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
        deadline = time.monotonic() + LEAVING_SECONDS
        while True:
            tx.exec_driver_sql("SELECT pg_stat_clear_snapshot()")  # else each look would show what the first one saw
            if not self.users(tx):
                return
            if time.monotonic() > deadline:
                raise NotWhole("a server is connected to the database: stop it first")
            time.sleep(0.05)

    @staticmethod
    def users(tx: Connection) -> int:
        """Tell how many other sessions of servers there are in this database."""
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
    """Yield the rows of a table in the order of its key, a few at a time."""
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
