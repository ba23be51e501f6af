"""What both engines need to turn rows of the tables into statements and parameters."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from runtimestore_server.store.tables import UINT64_DIGITS, UInt64

if TYPE_CHECKING:
    from collections.abc import Sequence

    from runtimestore_server.store.engines.database import Row


def with_digits(columns: Sequence[sa.Column[Any]], rows: Sequence[Row]) -> list[Row]:
    """The rows with uint64 values as they are stored, for parameters that no column's type converts."""
    wide = [position for position, column in enumerate(columns) if isinstance(column.type, UInt64)]
    if not wide:
        return list(rows)
    return [
        tuple(
            f"{value:0{UINT64_DIGITS}d}" if position in wide and value is not None else value
            for position, value in enumerate(row)
        )
        for row in rows
    ]


def replacing(insert: Any, table: sa.Table) -> sa.Insert:
    """An insert that replaces what is there under the same primary key; NULL leaves what is there."""
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


def largest_bytes(row: Row) -> int:
    """The size of the largest document in a row."""
    return max((len(value) for value in row if isinstance(value, bytes)), default=0)
