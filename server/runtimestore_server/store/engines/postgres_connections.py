"""Connects to Postgres: what is set on a connection, and how its driver is made to answer."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy import event

from runtimestore_server.store.engines import postgres_arrays
from runtimestore_server.store.engines import postgres_execution as execution
from runtimestore_server.store.engines.answers import EngineRefusal
from runtimestore_server.store.engines.postgres_limits import OVERFLOW
from runtimestore_server.store.engines.postgres_stale import is_stale
from runtimestore_server.store.timeouts import (
    CONNECT_TIMEOUT_SECONDS,
    LOCK_TIMEOUT_SECONDS,
    POOL_TIMEOUT_SECONDS,
    TCP_TIMEOUT_SECONDS,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy.engine import URL, Connection, Engine, ExceptionContext
    from sqlalchemy.pool import ConnectionPoolEntry

_BY_KEY = {
    # What is asked, is asked by key. A plan that was made while a table was small reads all of it, and a prepared one
    # goes on to until the table is analysed: in a new store that is each row of it at each commit, for a minute.
    "enable_seqscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    # It begins where a plan is thought to be dear, as each is that has to do what is switched off here.
    "jit": "off",
}
"""How a server's statements are planned."""

_SESSION = {
    **_BY_KEY,
    # Another server may hold a runtime's row while its host is frozen: better run again than wait for it for ever.
    "lock_timeout": f"{LOCK_TIMEOUT_SECONDS}s",
    # A role may be set to hear of errors alone, and a COMMIT in doubt is told in a warning.
    "client_min_messages": "warning",
}

_POOLED = "runtimestore is behind a pooler"


class CommitInDoubt(EngineRefusal):
    """Postgres answered COMMIT with a warning: it was committed here, but the wait for a standby was cut short."""

    words = "Postgres committed without its synchronous standby, for which the wait was cut short: do it once more"


def connect_lazily(url: URL, *, pool_size: int, prepare_threshold: int | None) -> Engine:
    """Return an engine with a pool of its own, which connects when a connection is asked for.

    `prepare_threshold` is how often a statement is run before it is prepared; None says that there is a pooler.
    """
    engine = sa.create_engine(
        url,
        pool_size=pool_size,
        max_overflow=OVERFLOW,
        pool_use_lifo=True,
        pool_timeout=POOL_TIMEOUT_SECONDS,
        hide_parameters=True,  # the text of an error must not quote documents and secrets
        connect_args={
            "application_name": "runtimestore",
            "connect_timeout": CONNECT_TIMEOUT_SECONDS,
            "client_encoding": "utf8",  # whatever the database is in: SQL_ASCII would come as bytes
            "cursor_factory": _binary_cursor(),
            "prepare_threshold": None,  # until it is known that there is no pooler between
            # A host that vanished is noticed within half a minute, not in two hours.
            "keepalives_idle": 10,
            "keepalives_interval": 5,
            "keepalives_count": 3,
            "tcp_user_timeout": TCP_TIMEOUT_SECONDS * 1000,
        },
    )
    event.listen(engine, "connect", _configured(prepare_threshold))
    event.listen(engine, "handle_error", _disconnect_the_confused)
    event.listen(engine, "handle_error", _disconnect_the_stale)
    _commit_in_pipelines(engine.dialect)
    return engine


def _disconnect_the_confused(context: ExceptionContext) -> None:
    """Close a connection on which the driver has met more answers than questions, as psycopg alone would not.

    A pooler may hand out a connection whose process has just been told to go: its last words come before the answer.
    """
    import psycopg

    error = context.original_exception
    if isinstance(error, psycopg.InternalError) and error.sqlstate is None:
        context.is_disconnect = True


def _disconnect_the_stale(context: ExceptionContext) -> None:
    """Close the connections that were made before a prepared statement went stale: psycopg would run it for ever."""
    if is_stale(context.original_exception):
        context.is_disconnect = True


def _commit_in_pipelines(dialect: sa.Dialect) -> None:
    """Have COMMIT end the pipeline that is open, and be in doubt where it is answered with a warning.

    Whatever cancels a COMMIT ends its wait for a synchronous standby and no more: it is answered as if the standby had
    the transaction.
    """
    commit, rollback = dialect.do_commit, dialect.do_rollback

    def do_commit(connection: Any) -> None:
        pipeline = execution.open_pipeline_of(connection.driver_connection)
        severities = _commit_telling_severities(commit, connection) if pipeline is None else pipeline.commit()
        if "WARNING" in severities:
            raise CommitInDoubt

    def do_rollback(connection: Any) -> None:
        if (pipeline := execution.pipeline_of(connection.driver_connection)) is not None:
            pipeline.rollback()
        rollback(connection)

    # The one place each where they are sent.
    dialect.do_commit = do_commit  # type: ignore[assignment, method-assign]
    dialect.do_rollback = do_rollback  # type: ignore[assignment, method-assign]


def _commit_telling_severities(commit: Callable[[Any], None], connection: Any) -> list[str | None]:
    """Commit, and tell how severe is what Postgres says of it beside."""
    severities: list[str | None] = []

    def noted(diagnostic: Any) -> None:
        severities.append(diagnostic.severity_nonlocalized)

    driver = connection.driver_connection
    driver.add_notice_handler(noted)
    try:
        commit(connection)
    finally:
        driver.remove_notice_handler(noted)
    return severities


def _configured(prepare_threshold: int | None) -> Callable[[Any, ConnectionPoolEntry], None]:
    def configure(connection: Any, record: ConnectionPoolEntry) -> None:
        if prepare_threshold is not None and _is_a_session(connection):
            connection.prepare_threshold = prepare_threshold
        else:
            record.info[_POOLED] = True
        _adapt(connection)

    return configure


def _is_a_session(connection: Any) -> bool:
    """Tell whether the server's process is ours alone; if so, set it up.

    A pooler that gives each transaction whatever connection is free makes keys of its own, by which its clients cancel:
    the process that such a key names is not the one that answers. On one that is shared, what is set for the session
    would be set for others and missing for us, and a prepared statement would be another's of the same name.
    """
    connection.autocommit = True
    set_up = ", ".join(f"set_config('{name}', '{value}', false)" for name, value in _SESSION.items())
    statement = f"SELECT CASE WHEN pg_backend_pid() = {connection.info.backend_pid} THEN concat({set_up}) END"
    (found,) = connection.execute(statement).fetchone()
    connection.autocommit = False
    return found is not None


def is_pooled(connection: Connection) -> bool:
    """Tell whether a pooler may put each transaction of this connection on another one to the server."""
    return bool(connection.info.get(_POOLED))


def set_up_transactions(engine: Engine) -> None:
    """Set up each transaction that goes through a pooler as else the session is: one more round trip."""
    set_up = ", ".join(f"set_config('{name}', '{value}', true)" for name, value in _SESSION.items())

    def begun(connection: Connection) -> None:
        if is_pooled(connection):
            connection.exec_driver_sql(f"SELECT {set_up}")

    event.listen(engine, "begin", begun)


def plan_freely(connection: Connection) -> None:
    """Have this transaction's statements planned as the database is set to: they read a whole store."""
    connection.exec_driver_sql(
        "SELECT set_config(name, reset_val, true) FROM pg_settings WHERE name = ANY (%s)", ([*_BY_KEY],)
    ).all()


def _adapt(connection: Any) -> None:
    from psycopg.types.array import ListBinaryDumper

    # psycopg's default for lists is text, in which each byte of a document would go out as two digits.
    connection.adapters.register_dumper(list, ListBinaryDumper)
    postgres_arrays.register(connection)
    # A disk may leave what is no UTF-8: the row must be found by who reads it, not break the cursor.
    for kind in ("text", "varchar"):
        connection.adapters.register_loader(kind, _text_loader())


def _binary_cursor() -> Callable[..., Any]:
    """Make a psycopg cursor that asks for binary results: as text, each byte of a document would come as two digits."""
    import psycopg
    from psycopg.pq import Format

    class BinaryCursor(psycopg.Cursor[Any]):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self.format = Format.BINARY

    return BinaryCursor


@cache
def _text_loader() -> type[Any]:
    """Return a psycopg loader of text as it is stored, whatever it is; the same as SQLite's."""
    from psycopg.adapt import Loader
    from psycopg.pq import Format

    class TextLoader(Loader):
        format = Format.BINARY

        def load(self, data: Any) -> str:
            return str(data, "utf-8", "surrogateescape")

    return TextLoader
