"""Sends the values of a column as one array, in Postgres' binary form of arrays (array_recv in its arrayfuncs.c).

psycopg dumps lists of anything, for which it looks at every element several times. Here the column says what they are.
"""

from __future__ import annotations

from functools import cache
from struct import Struct
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from runtimestore_server.store.tables import UINT64_DIGITS, UInt64

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    _Column = tuple[str, int, Callable[[Any], bytes]]
    """A column's name, the oid of its type, and what makes of a value its form."""

_HEADER = Struct("!iiIii").pack
"""Dimensions, whether there may be NULLs, the type of the elements; the length and the first index of the dimension."""
_LENGTH = Struct("!i").pack
_NULL = _LENGTH(-1)
_BYTEA, _BIGINT, _TEXT = 17, 20, 25
"""The oids of the elements' types, which are the same in every database."""


def encoded(columns: tuple[sa.Column[Any], ...], rows: Sequence[Sequence[Any]]) -> dict[str, bytes]:
    """Return the values of rows that have these columns, an array a column."""
    length = len(rows)
    arrays = {}
    for (name, oid, form_of), values in zip(_columns(columns), zip(*rows, strict=True), strict=True):
        parts = [_HEADER(1, 1, oid, length, 1)]  # not put together before the end: a value may be megabytes
        for value in values:
            if value is None:
                parts.append(_NULL)
            else:
                form = form_of(value)
                parts += _LENGTH(len(form)), form
        arrays[name] = b"".join(parts)
    return arrays


@cache
def _columns(columns: tuple[sa.Column[Any], ...]) -> list[_Column]:
    return [(column.name, *_form(column)) for column in columns]


def _form(column: sa.Column[Any]) -> tuple[int, Callable[[Any], bytes]]:
    # Of the interpreter's own functions: one of ours would be called once a value.
    if isinstance(column.type, sa.LargeBinary):
        return _BYTEA, bytes
    if isinstance(column.type, UInt64):
        return _TEXT, (b"%%0%dd" % UINT64_DIGITS).__mod__
    if isinstance(column.type, sa.Integer):
        return _BIGINT, Struct("!q").pack
    return _TEXT, str.encode


def register(connection: Any) -> None:
    """Have a connection of psycopg's send bytes as they are, so that a statement says what they are."""
    connection.adapters.register_dumper(bytes, _dumper())


@cache
def _dumper() -> type[Any]:
    from psycopg.adapt import Dumper
    from psycopg.pq import Format

    class BytesDumper(Dumper):
        format = Format.BINARY

        def dump(self, obj: bytes) -> bytes:
            return obj

    return BytesDumper
