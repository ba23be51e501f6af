"""Selecting the rows of many keys at once: one statement for any number of them."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

if TYPE_CHECKING:
    from runtimestore_server.store.engines import Database


@cache
def select_by_key(
    database: Database, key_columns: tuple[sa.Column[Any], ...], columns: tuple[sa.Column[Any], ...]
) -> sa.Select[Any]:
    """`columns` of the rows of one table whose `key_columns` are among the given keys."""
    given = database.given(*key_columns)
    same = sa.and_(*(column == given.c[column.name] for column in key_columns))
    return sa.select(*columns).join_from(given, key_columns[0].table, same)
