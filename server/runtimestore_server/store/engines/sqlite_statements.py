"""The statements that write rows into an SQLite file; a large document goes in by pieces."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from runtimestore_server.store.engines.rows import replacing
from runtimestore_server.store.engines.sqlite_driver import open_blob

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

    from runtimestore_server.store.engines.database import Row

PIECE_BYTES = 1024 * 1024


# The text of the statement, with a `?` a column in the table order: tuples go straight to the driver, which is cheaper,
# row by row, than dictionaries and bind processors.
@cache
def insert(table: sa.Table) -> str:
    """The text that inserts a row."""
    return str(sa.insert(table).compile(dialect=_dialect()))


@cache
def upsert(table: sa.Table) -> str:
    """The text that inserts a row, or replaces it."""
    from sqlalchemy.dialects import sqlite

    return str(replacing(sqlite.insert(table), table).compile(dialect=_dialect()))


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
