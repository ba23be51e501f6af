"""A look, and a blow, beneath the server: its tables as SQLAlchemy sees them, on any engine."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from runtimestore_server.store import tables
from support.servers.listening import listening

if TYPE_CHECKING:
    from collections.abc import Iterator

    from runtimestore_server.app import Application


async def rows(app: Application, table: sa.Table, **key: Any) -> list[dict[str, Any]]:
    """The rows of a table whose columns have these values, in the order of the primary key."""

    def read() -> list[dict[str, Any]]:
        statement = sa.select(table).where(_is(table, key)).order_by(*table.primary_key.columns)
        with app.store.database.readers.connect() as connection:
            return [dict(row) for row in connection.execute(statement).mappings()]

    return await asyncio.to_thread(read)


async def change(app: Application, table: sa.Table, values: dict[str, Any], **key: Any) -> None:
    """Write into one row, past the server."""

    def write() -> None:
        with app.store.database.writers.begin() as connection:
            changed = connection.execute(sa.update(table).where(_is_one(table, key)).values(**values))
            assert changed.rowcount == 1

    await asyncio.to_thread(write)


async def insert(app: Application, table: sa.Table, **values: Any) -> None:
    """Write one row, past the server."""

    def write() -> None:
        with app.store.database.writers.begin() as connection:
            connection.execute(sa.insert(table).values(**values))

    await asyncio.to_thread(write)


async def delete(app: Application, table: sa.Table, **key: Any) -> None:
    """Take one row away, past the server."""

    def write() -> None:
        with app.store.database.writers.begin() as connection:
            assert connection.execute(sa.delete(table).where(_is_one(table, key))).rowcount == 1

    await asyncio.to_thread(write)


async def forget(app: Application) -> int:
    """Do what the server does once a minute, now: forget requests past their retention; how many."""

    def run() -> int:
        with app.store.database.writers.begin() as connection:
            return app.store._forget_some(connection, 1000)

    return await asyncio.to_thread(run)


async def execute(app: Application, statement: str) -> None:
    """Run a statement in a transaction of its own, past the server."""

    def run() -> None:
        with app.store.database.writers.begin() as connection:
            connection.exec_driver_sql(statement)

    await asyncio.to_thread(run)


async def flip_a_byte(app: Application, column: sa.Column[Any], **key: Any) -> None:
    """Damage one stored value: a bit in its middle."""
    table = column.table
    assert isinstance(table, sa.Table)
    *others, row = await rows(app, table, **key)
    assert not others or table is tables.session_versions
    value = bytearray(row[column.name])
    value[len(value) // 2] ^= 1
    await change(app, table, {column.name: bytes(value)}, **key)


@contextlib.contextmanager
def statements(app: Application) -> Iterator[list[tuple[str, str]]]:
    """The statements that the write path sends meanwhile, each with its parameters as text."""
    seen: list[tuple[str, str]] = []

    def before(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        seen.append((" ".join(statement.split()), repr(parameters)))

    with listening(app.store.database.writers, before_cursor_execute=before):
        yield seen


@contextlib.contextmanager
def held_commits(app: Application) -> Iterator[threading.Event]:
    """Inside, no write's transaction begins before the event is set, at the latest on leaving."""
    go_on = threading.Event()

    def begun(_connection: Any) -> None:
        go_on.wait(30)

    with listening(app.store.database.writers, begin=begun):
        try:
            yield go_on
        finally:
            go_on.set()


def _is(table: sa.Table, key: dict[str, Any]) -> sa.ColumnElement[bool]:
    return sa.and_(sa.true(), *(table.c[name] == value for name, value in key.items()))


def _is_one(table: sa.Table, key: dict[str, Any]) -> sa.ColumnElement[bool]:
    """The row with this key; of the versions of a session, where none is named, the newest."""
    if table is not tables.session_versions or "revision" in key:
        return _is(table, key)
    its = table.alias("its")
    newest = sa.select(sa.func.max(its.c.revision)).where(*(its.c[name] == value for name, value in key.items()))
    return sa.and_(_is(table, key), table.c.revision == newest.scalar_subquery())
