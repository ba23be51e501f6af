"""Builds Postgres' statements over many rows: an array parameter a column, whatever the number of rows."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from runtimestore_server.store.engines.rows import columns_of, replacing

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy.sql.expression import Executable, FromClause


def _plain(column: sa.Column[Any]) -> sa.types.TypeEngine[Any]:
    """Return the column's type without its collation, which an array's element must not carry."""
    if isinstance(column.type, sa.LargeBinary):
        return sa.LargeBinary()
    if isinstance(column.type, sa.Integer):
        return sa.BigInteger()
    return sa.Text()


def unnest(columns: Sequence[sa.Column[Any]]) -> FromClause:
    """Return the relation `given` of rows that are bound as one array a column."""
    arrays = (sa.bindparam(column.name, type_=sa.ARRAY(_plain(column))) for column in columns)
    names = [sa.column(column.name, _plain(column)) for column in columns]
    return sa.func.unnest(*arrays).table_valued(*names, name="given").render_derived()


@cache
def _rows(table: sa.Table) -> Any:
    from sqlalchemy.dialects.postgresql import insert

    given = unnest(columns_of(table))
    return insert(table).from_select(table.columns.keys(), sa.select(*given.columns))


def _missing(table: sa.Table) -> Any:
    return _rows(table).on_conflict_do_nothing().returning(sa.literal_column("1"))


@cache
def upsert(table: sa.Table) -> Executable:
    """Insert many rows, or replace what is there under their keys."""
    return replacing(_rows(table), table)


@cache
def upsert_row(table: sa.Table) -> Executable:
    """Return the same for one row, without arrays."""
    from sqlalchemy.dialects.postgresql import insert

    return replacing(insert(table), table)


@cache
def insert_missing(table: sa.Table) -> Executable:
    """Insert those of many rows whose keys are free; returns one row for each of them."""
    statement: Executable = _missing(table)
    return statement


@cache
def insert_new(table: sa.Table) -> Executable:
    """Insert many rows whose keys are free; divides by zero if one is not."""
    inserted = _missing(table).cte("inserted")
    first, *_ = table.columns
    given = sa.func.cardinality(sa.bindparam(first.name, type_=sa.ARRAY(_plain(first))))
    all_of_them = sa.cast(sa.func.count() == given, sa.Integer)
    return sa.select(sa.literal_column("1").op("/")(all_of_them)).select_from(inserted)
