"""Turns rows of the tables into statements and parameters, as both engines need them."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from runtimestore_server.store.engines.database import LARGE_BYTES
from runtimestore_server.store.tables import UINT64_DIGITS, UInt64

if TYPE_CHECKING:
    from collections.abc import Sequence

    from runtimestore_server.store.engines.direct import Row


@cache
def columns_of(table: sa.Table) -> tuple[sa.Column[Any], ...]:
    """Return the columns of a table: to ask SQLAlchemy for them makes a new list each time."""
    return tuple(table.columns)


def with_digits(columns: tuple[sa.Column[Any], ...], rows: Sequence[Row]) -> Sequence[Row]:
    """Return the rows with uint64 values as they are stored, for parameters that no column's type converts."""
    wide = _wide(columns)
    if not wide:
        return rows
    stored = []
    for row in rows:
        values = list(row)
        for position in wide:
            if values[position] is not None:
                values[position] = f"{values[position]:0{UINT64_DIGITS}d}"
        stored.append(tuple(values))
    return stored


@cache
def _wide(columns: tuple[sa.Column[Any], ...]) -> tuple[int, ...]:
    return tuple(position for position, column in enumerate(columns) if isinstance(column.type, UInt64))


def replacing(insert: Any, table: sa.Table) -> sa.Insert:
    """Return an insert that replaces what is there under the same primary key; NULL leaves what is there."""
    statement: sa.Insert = insert.on_conflict_do_update(
        index_elements=list(table.primary_key.columns),
        set_={
            column.name: sa.func.coalesce(insert.excluded[column.name], column)
            if column.nullable
            else insert.excluded[column.name]
            for column in table.columns
            if column not in set(table.primary_key)
        },
    )
    return statement


def split_off_large(table: sa.Table, rows: Sequence[Row]) -> tuple[Sequence[Row], Sequence[Row]]:
    """Tell rows that go into one statement from those whose document, their last value, takes one of its own."""
    if not _ends_with_document(table) or all(len(row[-1]) < LARGE_BYTES for row in rows):
        return rows, ()
    large = [row for row in rows if len(row[-1]) >= LARGE_BYTES]
    return [row for row in rows if len(row[-1]) < LARGE_BYTES], large


@cache
def _ends_with_document(table: sa.Table) -> bool:
    last = [*table.columns][-1]
    return isinstance(last.type, sa.LargeBinary) and not last.nullable  # a digest may be NULL, a document is not
