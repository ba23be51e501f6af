"""Sends the values of a column as one array, in Postgres' binary form of arrays (array_recv in its arrayfuncs.c).

psycopg dumps lists of anything, for which it looks at every element several times. Here the column says what they are.
"""

from __future__ import annotations

from functools import cache
from struct import Struct
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

if TYPE_CHECKING:
    from collections.abc import Iterable

_HEADER = Struct("!iiIii")
"""Dimensions, whether there may be NULLs, the type of the elements; the length and the first index of the dimension."""
_LENGTH = Struct("!i").pack
_INTEGER = Struct("!iq").pack
_NULL = _LENGTH(-1)
_INTEGER_BYTES = 8


class Texts(list[str | None]):
    """The values of a column of text."""


class Integers(list[int | None]):
    """The values of a column of bigint."""


class Documents(list[bytes | None]):
    """The values of a column of bytea."""


Values = Texts | Integers | Documents


def values_of(column: sa.Column[Any], values: Iterable[Any]) -> Values:
    """The values of a column as a parameter."""
    if isinstance(column.type, sa.LargeBinary):
        return Documents(values)
    if isinstance(column.type, sa.Integer):
        return Integers(values)
    return Texts(values)


def register(connection: Any) -> None:
    """Have a connection send such values."""
    for kind, dumper in _dumpers().items():
        connection.adapters.register_dumper(kind, dumper)


@cache
def _dumpers() -> dict[type[Values], type[Any]]:
    from psycopg.adapt import Dumper
    from psycopg.postgres import types
    from psycopg.pq import Format

    text, bigint, bytea = types["text"], types["int8"], types["bytea"]

    class TextsDumper(Dumper):
        format, oid = Format.BINARY, text.array_oid

        def dump(self, obj: Texts) -> bytes:
            encoded = [None if value is None else value.encode() for value in obj]
            return _array(text.oid, [_NULL if one is None else _LENGTH(len(one)) + one for one in encoded])

    class IntegersDumper(Dumper):
        format, oid = Format.BINARY, bigint.array_oid

        def dump(self, obj: Integers) -> bytes:
            return _array(bigint.oid, [_NULL if one is None else _INTEGER(_INTEGER_BYTES, one) for one in obj])

    class DocumentsDumper(Dumper):
        format, oid = Format.BINARY, bytea.array_oid

        def dump(self, obj: Documents) -> bytes:
            parts: list[bytes] = []
            for one in obj:  # not put together one by one: they may be megabytes
                parts += (_NULL,) if one is None else (_LENGTH(len(one)), one)
            return _array(bytea.oid, parts, length=len(obj))

    return {Texts: TextsDumper, Integers: IntegersDumper, Documents: DocumentsDumper}


def _array(element_oid: int, parts: list[bytes], *, length: int | None = None) -> bytes:
    length = len(parts) if length is None else length
    return b"".join((_HEADER.pack(1, 1, element_oid, length, 1), *parts))
