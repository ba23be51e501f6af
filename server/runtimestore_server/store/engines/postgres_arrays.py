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

    _Column = tuple[int, Callable[[Any], Sequence[bytes]]]
    """The oid of a column's type, and what makes of a value its parts: not put together, as they may be megabytes."""

_HEADER = Struct("!iiIii")
"""Dimensions, whether there may be NULLs, the type of the elements; the length and the first index of the dimension."""
_LENGTH = Struct("!i").pack
_INTEGER = Struct("!iq").pack
_NULL = (_LENGTH(-1),)
_BYTEA, _BIGINT, _TEXT = 17, 20, 25
"""The oids of the elements' types, which are the same in every database."""
_ONE = {oid: _HEADER.pack(1, 1, oid, 1, 1) for oid in (_BYTEA, _BIGINT, _TEXT)}


class Encoded:
    """The values of a column as they are sent."""

    __slots__ = ("form",)

    def __init__(self, *parts: bytes) -> None:
        self.form = b"".join(parts)

    def __repr__(self) -> str:
        """As of the values: whoever listens to statements looks for them there."""
        return repr(self.form)


def encoded(columns: tuple[sa.Column[Any], ...], rows: Sequence[Sequence[Any]]) -> dict[str, Encoded]:
    """Return the values of rows that have these columns, an array a column."""
    names, forms = _columns(columns)
    if len(rows) == 1:
        return {
            name: Encoded(_ONE[oid], *(_NULL if value is None else encode(value)))
            for name, (oid, encode), value in zip(names, forms, rows[0], strict=True)
        }
    length = len(rows)
    arrays = {}
    for name, (oid, encode), values in zip(names, forms, zip(*rows, strict=True), strict=True):
        parts = [_HEADER.pack(1, 1, oid, length, 1)]
        for value in values:
            parts += _NULL if value is None else encode(value)
        arrays[name] = Encoded(*parts)
    return arrays


@cache
def _columns(columns: tuple[sa.Column[Any], ...]) -> tuple[list[str], list[_Column]]:
    return [column.name for column in columns], [_column(column) for column in columns]


def _column(column: sa.Column[Any]) -> _Column:
    if isinstance(column.type, sa.LargeBinary):
        return _BYTEA, (lambda value: (_LENGTH(len(value)), value))
    if isinstance(column.type, UInt64):
        return _TEXT, (lambda value: (_LENGTH(UINT64_DIGITS), b"%0*d" % (UINT64_DIGITS, value)))
    if isinstance(column.type, sa.Integer):
        return _BIGINT, (lambda value: (_INTEGER(8, value),))

    def text(value: str) -> Sequence[bytes]:
        form = value.encode()
        return _LENGTH(len(form)), form

    return _TEXT, text


def register(connection: Any) -> None:
    """Have a connection send such values."""
    connection.adapters.register_dumper(Encoded, _dumper())


@cache
def _dumper() -> type[Any]:
    from psycopg.adapt import Dumper
    from psycopg.pq import Format

    class EncodedDumper(Dumper):
        format = Format.BINARY
        # Without a type: what the parameter is, the statement says.

        def dump(self, obj: Encoded) -> bytes:
            return obj.form

    return EncodedDumper
