"""The statements that write rows into an SQLite file; a large document goes in by pieces."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy.sql import visitors

from runtimestore_server.store.engines.direct import Compiled, compiled
from runtimestore_server.store.engines.rows import replacing
from runtimestore_server.store.engines.sqlite_driver import open_blob

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

    from runtimestore_server.store.engines.direct import Row

PIECE_BYTES = 1024 * 1024

_PARTS = tuple(f"key_{place}" for place in range(8))
"""Of the parts of one key: no table has more."""


# The text of the statement, with a `?` a column in the table order: tuples go straight to the driver, which is cheaper,
# row by row, than dictionaries and bind processors.
@cache
def insert(table: sa.Table) -> str:
    """Return the text that inserts a row."""
    return str(sa.insert(table).compile(dialect=_dialect()))


@cache
def upsert(table: sa.Table) -> str:
    """Return the text that inserts a row, or replaces it."""
    from sqlalchemy.dialects import sqlite

    return str(replacing(sqlite.insert(table), table).compile(dialect=_dialect()))


@cache
def of_one_key(statement: Any, dialect: sa.Dialect) -> Compiled:
    """Return a select from a table that is joined with the given keys, for one key alone; bound by `key_parameters`."""
    (joined,) = statement.get_final_froms()
    parts: dict[Any, Any] = {column: sa.bindparam(_PARTS[place]) for place, column in enumerate(joined.left.c)}
    alone = sa.select(*statement.selected_columns)
    for condition in (joined.onclause, statement.whereclause):
        if condition is not None:
            alone = alone.where(visitors.replacement_traverse(condition, {}, lambda element, **_: parts.get(element)))
    return compiled(alone, dialect)


def key_parameters(key: Row) -> dict[str, Any]:
    """Return what binds such a select to a key."""
    return dict(zip(_PARTS, key, strict=False))


def upsert_in_pieces(tx: Connection, table: sa.Table, row: Row) -> None:
    """Make room for the row's last value, then fill it: binding a document whole would hold two more copies of it."""
    from sqlalchemy.dialects import sqlite

    *values, document = zip(table.columns, row, strict=True)
    column, body = document
    room = sqlite.insert(table).values(
        {**{key.name: value for key, value in values}, column.name: sa.func.zeroblob(len(body))}
    )
    rowid: int = tx.execute(replacing(room, table).returning(sa.literal_column("rowid"))).scalar_one()
    driver: Any = tx.connection.driver_connection
    with open_blob(driver, table.name, column.name, rowid) as blob, memoryview(body) as view:
        for start in range(0, len(view), PIECE_BYTES):
            blob.write(view[start : start + PIECE_BYTES])


def _dialect() -> sa.Dialect:
    from sqlalchemy.dialects.sqlite import dialect

    return dialect(paramstyle="qmark")
