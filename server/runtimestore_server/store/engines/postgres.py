"""Postgres, through psycopg 3."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from runtimestore_server.store.engines import direct
from runtimestore_server.store.engines import postgres_execution as execution
from runtimestore_server.store.engines import postgres_statements as statements
from runtimestore_server.store.engines.answers import Began, CommitState, Fault, KeyNotFree, Lacking, Sizes, TableSize
from runtimestore_server.store.engines.database import LARGE_BYTES, Database
from runtimestore_server.store.engines.direct import Answer, Row
from runtimestore_server.store.engines.postgres_arrays import encoded
from runtimestore_server.store.engines.postgres_connections import (
    connect_lazily,
    is_pooled,
    plan_freely,
    set_up_transactions,
)
from runtimestore_server.store.engines.postgres_faults import fault_of
from runtimestore_server.store.engines.postgres_limits import connection_warnings
from runtimestore_server.store.engines.postgres_rights import missing_rights
from runtimestore_server.store.engines.postgres_url import connectable
from runtimestore_server.store.engines.rows import columns_of, split_off_large
from runtimestore_server.store.timeouts import LOCK_TIMEOUT_SECONDS, MIGRATION_LOCK_SECONDS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from sqlalchemy.engine import URL, Connection
    from sqlalchemy.sql.expression import FromClause


class PostgresDatabase(Database):
    """A Postgres database through psycopg 3."""

    name = "postgresql"
    concurrent_writers = True
    begins_reading = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"

    def __init__(self, url: URL, *, committer_threads: int, reader_threads: int) -> None:
        url, prepare_threshold = connectable(url)
        # One more than the committers: maintenance and large writes, and the question what became of a COMMIT.
        self._texts: dict[Any, str] = {}
        self.writers = connect_lazily(url, pool_size=committer_threads + 1, prepare_threshold=prepare_threshold)
        set_up_transactions(self.writers)
        self._reopen_when_read_only()
        # One statement a read is one snapshot; without BEGIN and COMMIT around it, it is one round trip too.
        # One more than the threads for loads: the health check; beyond the size, new bases of sessions.
        readers = connect_lazily(url, pool_size=reader_threads + 1, prepare_threshold=prepare_threshold)
        self.readers = readers.execution_options(isolation_level="AUTOCOMMIT")

    def given(self, *columns: sa.Column[Any]) -> FromClause:
        """Return one array parameter a column: no limit on the number of keys."""
        return statements.unnest(columns)

    def ask(
        self, tx: Connection, statement: sa.Executable, columns: tuple[sa.Column[Any], ...], keys: Sequence[Row]
    ) -> Answer[list[Any]]:
        """Ask in the pipeline, where there is one."""
        made = direct.compiled_once(statement, tx.dialect)
        rows = execution.fetch(tx, made.text, {**made.constants, **encoded(columns, keys)})
        return Answer(lambda: direct.as_rows(made, rows()))

    def upsert(self, tx: Connection, table: sa.Table, rows: Sequence[Row]) -> None:
        """Run one statement with an array a column; a large row goes alone, as an array would be one more copy of it.

        In a pipeline it goes with the others: edits may be larger than all that they come to, by which it was opened.
        """
        small, large = (rows, ()) if execution.in_pipeline(tx) else split_off_large(table, rows)
        if small:
            execution.run(tx, self._text(statements.upsert(table)), encoded(columns_of(table), small))
        for row in large:
            tx.execute(statements.upsert_row(table), dict(zip(table.columns.keys(), row, strict=True)))

    def insert_missing(self, tx: Connection, table: sa.Table, rows: Sequence[Row]) -> None:
        """Wait for rows that another transaction is inserting, then leave them alone."""
        if rows:
            text = self._text(statements.insert_missing(table))
            execution.fetch(tx, text, encoded(columns_of(table), rows))

    def insert_new(self, tx: Connection, table: sa.Table, rows: Sequence[Row], *, taken: KeyNotFree) -> Answer[None]:
        """Do the same; in a pipeline the statement fails if one was left alone, since COMMIT is behind it already."""
        if not rows:
            return Answer.found(None)
        values = encoded(columns_of(table), rows)
        if execution.in_pipeline(tx):
            execution.fetch(tx, self._text(statements.insert_new(table)), values, taken=taken)
            return Answer.found(None)
        inserted = execution.fetch(tx, self._text(statements.insert_missing(table)), values)

        def confirmed() -> None:
            if len(inserted()) != len(rows):
                raise taken

        return Answer(confirmed)

    @contextlib.contextmanager
    def pipelined(self, tx: Connection, carried_bytes: int) -> Iterator[None]:
        """Open a pipeline of libpq, which COMMIT ends: what was sent is waited for where what it found is needed."""
        import psycopg

        # A pipeline holds one more copy of what it sends. Who listens to statements sees each begin and end.
        if carried_bytes >= LARGE_BYTES or direct.observed(tx) or not psycopg.Pipeline.is_supported():
            yield
            return
        with execution.pipeline(tx):
            yield

    def _text(self, statement: Any) -> str:
        """Return the text of a statement that is made once, without constants in it."""
        if (text := self._texts.get(statement)) is None:
            text = self._texts[statement] = str(statement.compile(dialect=self.writers.dialect))
        return text

    def classify(self, error: Exception) -> Fault:
        """Tell it by SQLSTATE; an error without one is the connection's."""
        return fault_of(error)

    def began(self, tx: Connection) -> Answer[Began]:
        """Ask for the transaction's id, the server's start and its own: after a crash ids may be given out again."""
        rows = execution.fetch(tx, self._text(_BEGAN), {})

        def began() -> Began:
            ((token, now_ms),) = rows()
            return Began(token, now_ms)

        return Answer(began)

    def now_ms(self, tx: Connection) -> int:
        """Tell when the transaction began, by the server's clock."""
        now_ms: int = tx.execute(_NOW).scalar_one()
        return now_ms

    def clocks_differ_ms(self, now_ms: int) -> int:
        """Hold the server's clock against the host's."""
        return now_ms - time.time_ns() // 1_000_000

    def commit_is_ambiguous(self, error: Exception) -> bool:
        """Tell whether the connection broke, the backend was told to go before it answered, or the driver failed."""
        return not isinstance(error, DBAPIError) or self.classify(error) is Fault.UNAVAILABLE

    def release_after_failed_commit(self, connection: Connection, error: Exception) -> None:
        """Keep it where Postgres told why nothing is committed: its transaction is over, and connecting anew dear."""
        if self.commit_is_ambiguous(error) or not execution.is_idle(connection):
            super().release_after_failed_commit(connection, error)

    def commit_state(self, tx: Connection, token: str | None) -> CommitState:
        """Ask what Postgres itself remembers of the transaction. A crash ended it, and may give its id out again."""
        if token is None:
            return CommitState.UNKNOWN
        transaction_id, started, begun = token.split("/")
        asked = {"transaction_id": transaction_id, "started": started, "begun": begun}
        return _COMMIT_STATES[tx.execute(_STATUS, asked).scalar_one()]

    def settle(self, tx: Connection) -> None:
        """Commit a mark in the log: its COMMIT is answered when all before it is on disk and on synchronous standbys.

        A transaction whose wait for a standby was cut short is visible as committed all the same.
        """
        tx.execute(_MARK)
        tx.commit()

    def problem(self, connection: Connection) -> str | None:
        """See that the database is encoded in UTF8: ids are any Unicode text."""
        driver: Any = connection.connection.driver_connection
        encoding = driver.info.parameter_status("server_encoding")
        if encoding == "UTF8":
            return None
        return f"the database is encoded in {encoding}, not in UTF8: make one with ENCODING 'UTF8' TEMPLATE template0"

    def missing_rights(self, connection: Connection, needed: Mapping[str, Sequence[str]]) -> list[Lacking]:
        """Ask Postgres' own functions, as the role that is connected."""
        return missing_rights(connection, needed)

    def sizes(self, tx: Connection, tables: Sequence[str]) -> Sizes:
        """Ask the catalogue: its rows are estimates of the last ANALYZE or VACUUM, none before the first."""
        found = {
            name: TableSize(max(0, int(rows)), size) for name, rows, size in tx.execute(_SIZES, {"tables": [*tables]})
        }
        return Sizes(sum(table.bytes for table in found.values()), found)

    def pooler_warnings(self, connection: Connection) -> list[str]:
        """Look for a lock_timeout: loads are no transactions, so that nothing can be set for them alone."""
        if not is_pooled(connection) or connection.execute(_LOCK_TIMEOUT).scalar_one() != "0":
            return []
        problem = "lock_timeout = 0: through a pooler loads wait without limit for a table that somebody changes"
        return [f"{problem}; ALTER ROLE ... SET lock_timeout = '{LOCK_TIMEOUT_SECONDS}s' and reconnect it"]

    def connection_warnings(self, connection: Connection) -> list[str]:
        """Look where no pooler is: what that may open to Postgres is its to say."""
        return [] if is_pooled(connection) else connection_warnings(connection, self.writers, self.readers)

    def limit_lock_wait(self, tx: Connection, seconds: float) -> None:
        """Set it for the transaction."""
        tx.execute(_LOCK_WAIT, {"milliseconds": str(int(seconds * 1000))})

    def durability_warnings(self, tx: Connection) -> list[str]:
        """Find which of the settings that decide what a crash or a failover may cost are off for this connection."""
        settings = {row.name: row.setting for row in tx.execute(_SETTINGS)}
        risky = _RISKY if settings["synchronous_standby_names"] else _RISKY_ALONE
        return [
            f"{name} = {settings[name]}: {meaning}"
            for (name, value), meaning in risky.items()
            if settings[name] == value
        ]

    @contextlib.contextmanager
    def snapshot(self) -> Iterator[Connection]:
        """Open one read-only transaction at REPEATABLE READ; a standby will do as well."""
        with self.writers.connect() as connection:
            options = {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}
            plan_freely(connection.execution_options(**options))
            yield connection

    def lacks_table(self, error: Exception) -> bool:
        """Tell it by SQLSTATE: undefined_table, undefined_column."""
        return getattr(getattr(error, "orig", None), "sqlstate", None) in ("42P01", "42703")

    def migration_lock(self, connection: Connection) -> None:
        """Take an advisory lock of the transaction, on a number that no other program is likely to use."""
        self.limit_lock_wait(connection, 0)  # without limit: whoever migrates may take long
        connection.execute(sa.text("SELECT pg_advisory_xact_lock(7382946150274619385)"))
        # Whoever waits to change a table keeps everybody else from it.
        self.limit_lock_wait(connection, MIGRATION_LOCK_SECONDS)


_NOW = sa.text("SELECT floor(extract(epoch FROM now()) * 1000)::bigint")
_BEGAN = sa.text(
    "SELECT pg_current_xact_id()::text || '/' || extract(epoch FROM pg_postmaster_start_time())::text"
    " || '/' || extract(epoch FROM now())::text, floor(extract(epoch FROM now()) * 1000)::bigint"
)
_SIZES = sa.text(
    "SELECT relname, reltuples, pg_total_relation_size(oid) FROM pg_class "
    "WHERE relkind IN ('r', 'p') AND relnamespace = current_schema()::regnamespace AND relname = ANY(:tables)"
)
_LOCK_TIMEOUT = sa.text("SELECT current_setting('lock_timeout')")
# A standby that is not promoted yet has not replayed all that it holds. One that was has ids of its own, and another
# start. When a process crashes, Postgres begins anew under the old start time, but resets its statistics.
_STATUS = sa.text(
    "SELECT CASE WHEN pg_is_in_recovery() THEN 'in progress'"
    " WHEN extract(epoch FROM pg_postmaster_start_time())::text = :started"
    " AND extract(epoch FROM pg_stat_get_bgwriter_stat_reset_time()) < CAST(CAST(:begun AS text) AS numeric)"
    " THEN pg_xact_status(CAST(CAST(:transaction_id AS text) AS xid8)) END"
)
_MARK = sa.text("SELECT pg_logical_emit_message(true, 'runtimestore', 'settled')")

_LOCK_WAIT = sa.text("SELECT set_config('lock_timeout', :milliseconds, true)")

_RISKY_ALONE = {
    ("fsync", "off"): "a crash of the machine may destroy the whole database",
    ("full_page_writes", "off"): "a crash of the machine may leave damaged pages",
    ("synchronous_commit", "off"): "a crash of Postgres loses writes that were acknowledged just before",
    ("data_checksums", "off"): "damage by the disk is noticed in documents, not in indexes and other rows",
}
_RISKY = _RISKY_ALONE | {
    ("synchronous_commit", "local"): "a failover loses writes that were acknowledged just before",
    ("synchronous_commit", "remote_write"): "a failover loses writes that were acknowledged just before, if the "
    "standby's machine went down too",
}
_SETTINGS = sa.text("SELECT name, setting FROM pg_settings WHERE name = ANY (:names)").bindparams(
    names=[*{name for name, _ in _RISKY}, "synchronous_standby_names"]
)

_COMMIT_STATES = {
    "committed": CommitState.COMMITTED,
    "aborted": CommitState.NOT_COMMITTED,
    "in progress": CommitState.IN_PROGRESS,
    None: CommitState.RECORD_DECIDES,
}
