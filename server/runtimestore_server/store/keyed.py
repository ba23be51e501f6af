"""The rows of many keys at once: one statement for any number of them."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy.engine import Connection

    from runtimestore_server.store.engines import Database


@cache
def select_by_key(
    database: Database, key_columns: tuple[sa.Column[Any], ...], columns: tuple[sa.Column[Any], ...]
) -> sa.Select[Any]:
    """`columns` of the rows of one table whose `key_columns` are among the given keys."""
    given = database.given(*key_columns)
    same = sa.and_(*(column == given.c[column.name] for column in key_columns))
    return sa.select(*columns).join_from(given, key_columns[0].table, same)


def held_by_others(
    database: Database,
    tx: Connection,
    columns: tuple[sa.Column[Any], ...],
    keys: Sequence[tuple[str, ...]],
    *,
    read: bool = False,
) -> set[tuple[str, ...]]:
    """The keys, in these columns of a table, whose rows another session holds now; asked without waiting for any.

    With `read` only those count that may not even be read until then.
    """
    if not keys:
        return set()
    every = select_by_key(database, columns, columns)
    there = {tuple(row) for row in tx.execute(every, database.keys(columns, keys))}
    free = every.with_for_update(of=columns[0].table, read=read, skip_locked=True)
    return there - {tuple(row) for row in tx.execute(free, database.keys(columns, keys))}
