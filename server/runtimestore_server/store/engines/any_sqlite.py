"""What every SQLite database has in common: in a file that a server has, in one that is only read, in memory."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import QueuePool

from runtimestore_server.store.engines import direct, sqlite_statements
from runtimestore_server.store.engines.answers import Fault, Sizes
from runtimestore_server.store.engines.database import Database
from runtimestore_server.store.engines.direct import Answer, Row
from runtimestore_server.store.engines.files import is_refused_write
from runtimestore_server.store.engines.rows import columns_of, split_off_large, with_digits
from runtimestore_server.store.engines.sqlite_connections import configure, spill_late
from runtimestore_server.store.engines.sqlite_driver import VERSION, sqlite3
from runtimestore_server.store.engines.sqlite_faults import fault_of
from runtimestore_server.store.timeouts import BUSY_TIMEOUT_SECONDS, POOL_TIMEOUT_SECONDS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from sqlalchemy.engine import URL, Connection, Engine
    from sqlalchemy.sql.expression import FromClause

FEW_KEYS = 3
"""So many keys are looked up by a statement each."""


class AnySqlite(Database):
    """An SQLite database: its statements, its errors, its size."""

    name = "sqlite"
    concurrent_writers = False
    _file = ""
    """Its path; empty where it is in memory."""

    @property
    def file(self) -> Path:
        """Where it is."""
        return Path(self._file).absolute()

    @staticmethod
    def _engine(
        url: URL, *, pool_size: int, prepare: Callable[[sqlite3.Connection, object], None] = configure
    ) -> Engine:
        engine = sa.create_engine(
            url,
            module=sqlite3,
            poolclass=QueuePool,
            pool_size=pool_size,
            max_overflow=0,
            pool_use_lifo=True,
            pool_timeout=POOL_TIMEOUT_SECONDS,
            hide_parameters=True,  # the text of an error must not quote documents and secrets
            connect_args={"check_same_thread": False, "timeout": BUSY_TIMEOUT_SECONDS},
        )
        event.listen(engine, "connect", prepare)
        return engine

    def given(self, *columns: sa.Column[Any]) -> FromClause:
        """Return one JSON parameter: no limit on the number of keys, and one text of the statement for any number."""
        value = sa.func.json_each(sa.bindparam("keys", type_=sa.Text)).table_valued("value").c.value
        return sa.select(
            *(
                sa.func.json_extract(value, f"$[{position}]", type_=column.type).label(column.name)
                for position, column in enumerate(columns)
            )
        ).subquery("given")

    def ask(
        self, tx: Connection, statement: sa.Executable, columns: tuple[sa.Column[Any], ...], keys: Sequence[Row]
    ) -> Answer[list[Any]]:
        """Bind the keys as one JSON array of arrays; a few are asked for one by one: to read JSON would take longer."""
        given = with_digits(columns, keys)
        if len(keys) > FEW_KEYS:
            made = direct.compiled_once(statement, tx.dialect)
            return Answer.found(direct.ask(tx, made, {"keys": msgspec.json.encode(given).decode()}))
        made = sqlite_statements.of_one_key(statement, tx.dialect)
        found: list[Any] = []
        for key in given:
            found += direct.ask(tx, made, sqlite_statements.key_parameters(key))
        return Answer.found(found)

    def upsert(self, tx: Connection, table: sa.Table, rows: Sequence[Row]) -> None:
        """Run one statement for each row within the driver; a large row goes alone and in pieces."""
        if not rows:
            return
        small, large = split_off_large(table, rows)
        if small:
            direct.run(tx, sqlite_statements.upsert(table), with_digits(columns_of(table), small))
        if large:
            spill_late(tx, sum(len(row[-1]) for row in large))
        for row in large:
            sqlite_statements.upsert_in_pieces(tx, table, row)

    def insert_missing(self, tx: Connection, table: sa.Table, rows: Sequence[Row]) -> None:
        """Run a plain insert: the one writer has looked before."""
        if rows:
            direct.run(tx, sqlite_statements.insert(table), with_digits(columns_of(table), rows))

    def classify(self, error: Exception) -> Fault:
        """Tell it by its class, and by SQLite's primary result code."""
        return fault_of(error, self._file)

    def sha256_of(self, column: sa.Column[Any]) -> sa.ColumnElement[Any]:
        """Digest bytes alone: SQLite keeps values of any type, and text that is no UTF-8 would end the statement."""
        return sa.case((sa.func.typeof(column) == "blob", sa.func.sha256(column)), else_=sa.null())

    def commit_is_ambiguous(self, error: Exception) -> bool:
        """Tell whether a write or sync of the log failed: the commit record may yet be found there after a crash."""
        cause = error.orig if isinstance(error, DBAPIError) else error
        code = getattr(cause, "sqlite_errorcode", None)
        if code is not None and is_refused_write(code, self._file):
            return False  # as little as of SQLITE_FULL: the record, which comes last, was not written whole
        return code is None or code & 0xFF == sqlite3.SQLITE_IOERR

    @contextlib.contextmanager
    def snapshot(self) -> Iterator[Connection]:
        """Open one read transaction on a connection that hands out text even where it is damaged."""
        with self.readers.connect() as connection:
            driver: Any = connection.connection.driver_connection
            driver.text_factory = lambda text: text.decode(errors="surrogateescape")
            try:
                connection.exec_driver_sql("BEGIN")
                yield connection
            finally:
                self.discard(connection)

    def integrity_problems(self, tx: Connection) -> Iterator[str]:
        """Yield up to a hundred lines of SQLite's own check of pages and indexes."""
        for (line,) in tx.exec_driver_sql("PRAGMA integrity_check(100)"):
            if line != "ok":
                yield " ".join(line.split())

    def lacks_table(self, error: Exception) -> bool:
        """Tell it by SQLite's one code for what makes no sense to it: sound statements lack nothing else."""
        code = getattr(getattr(error, "orig", None), "sqlite_errorcode", None)
        return code == sqlite3.SQLITE_ERROR

    def sizes(self, tx: Connection, tables: Sequence[str]) -> Sizes:
        """Count the pages of the file: what a table holds would take a look at all of it."""
        del tables
        pages, page_bytes = (tx.exec_driver_sql(f"PRAGMA {name}").scalar_one() for name in ("page_count", "page_size"))
        return Sizes(pages * page_bytes, {}, self._free_bytes())

    @property
    def versions(self) -> dict[str, str]:
        """SQLite's."""
        return {"sqlite": VERSION}

    def migration_lock(self, connection: Connection) -> None:
        """Do nothing: BEGIN IMMEDIATE is the lock."""

    def _free_bytes(self) -> int | None:
        with contextlib.suppress(OSError):
            return shutil.disk_usage(Path(self._file).parent).free if self._file else None
        return None
