"""Selects and locks the rows of many keys at once: one statement for any number of them."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

import sqlalchemy as sa

from runtimestore_server.store.engines.direct import Answer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy.engine import Connection

    from runtimestore_server.store.engines import Database

Columns = tuple[sa.Column[Any], ...]


class Locked(NamedTuple):
    """The outcome of locking rows: which are there, and which another session holds."""

    rows: Sequence[Any]
    """The rows, key first."""
    held: set[tuple[str, ...]]
    """The keys of those that another session holds and that were passed over."""


@cache
def select_by_key(database: Database, key_columns: Columns, columns: Columns) -> sa.Select[Any]:
    """Select `columns` of the rows of one table whose `key_columns` are among the given keys."""
    given = database.given(*key_columns)
    same = sa.and_(*(column == given.c[column.name] for column in key_columns))
    return sa.select(*columns).join_from(given, key_columns[0].table, same)


def lock_by_key(
    database: Database,
    tx: Connection,
    key_columns: Columns,
    value_columns: Columns,
    keys: Sequence[tuple[str, ...]],
    *,
    share: bool = False,
    skip_held: bool = False,
) -> Answer[Locked]:
    """Lock the rows of these keys, which are in order, until the transaction ends; nobody else changes them.

    With `skip_held` those that another session holds are passed over, else they are waited for. With `share` others may
    lock a row to share it too.
    """
    if not keys:
        return Answer.found(Locked([], set()))
    statement = _select_for_update(database, key_columns, value_columns, share=share, skip_held=skip_held)
    asked = database.ask(tx, statement, key_columns, keys)

    def locked() -> Locked:
        rows = asked()
        if not skip_held or len(rows) == len(keys):
            return Locked(rows, set())
        # What was not locked is held by another session if it is there at all.
        missed = sorted(set(keys) - {tuple(row[: len(key_columns)]) for row in rows})
        there = database.ask(tx, select_by_key(database, key_columns, key_columns), key_columns, missed)
        return Locked(rows, {tuple(row) for row in there()})

    return Answer(locked)


@cache
def _select_for_update(
    database: Database, key_columns: Columns, value_columns: Columns, *, share: bool, skip_held: bool
) -> sa.Select[Any]:
    return (
        select_by_key(database, key_columns, (*key_columns, *value_columns))
        .order_by(*key_columns)
        .with_for_update(of=key_columns[0].table, read=share, skip_locked=skip_held)
    )
