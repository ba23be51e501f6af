"""Checks what a caller hands over and brings it into the one form that is kept and sent.

What can be meant in one way only is taken. Anything else is refused before it is sent, by a `TypeError` or a
`ValueError` that begins with the argument's name.
"""

from __future__ import annotations

import enum
import json
import math
import uuid
from collections.abc import Iterable
from typing import Any, TypeVar

__all__ = [
    "Document",
    "Identifier",
    "RequestId",
    "document_bytes",
    "document_text",
    "identifier",
    "identifiers",
    "member",
    "number",
    "opaque_bytes",
    "optional_identifier",
    "optional_number",
    "optional_text",
    "request_id",
    "seconds",
    "text",
    "whole_number",
]

Identifier = str | uuid.UUID
"""An id: a text is sent as it is, a UUID in lower case with hyphens."""

RequestId = str | uuid.UUID | None
"""A write's request id: `None` has one chosen, the empty text sends none."""

Document = bytes | str | dict[str, Any]
"""A JSON document. Bytes, and a text as its UTF-8, are kept byte for byte; a dict has no bytes before it is written."""

E = TypeVar("E", bound=enum.Enum)

_GREATEST = 2**64 - 1
"""Numbers are unsigned and of 64 bits on the wire."""


def text(name: str, value: object) -> str:
    """Return the text that `value` is."""
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a str, not {type(value).__name__}")
    return _encodable(name, value)


def _encodable(name: str, value: str) -> str:
    """Return the text, if it can be sent: half of a surrogate pair alone is no character."""
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{name} cannot be written as UTF-8: {error}") from error
    return value


def optional_text(name: str, value: object) -> str | None:
    """Return the text that `value` is, if there is one."""
    return None if value is None else text(name, value)


def identifier(name: str, value: object) -> str:
    """Return an id as text; whether it is one that the store takes is for the server to say."""
    if isinstance(value, str):
        return _encodable(name, value)  # str() of an enum's member that is a text would be its name
    if not isinstance(value, uuid.UUID):
        raise TypeError(f"{name} must be a str or a uuid.UUID, not {type(value).__name__}")
    return str(value)


def optional_identifier(name: str, value: object) -> str | None:
    """Return an id as text, if there is one."""
    return None if value is None else identifier(name, value)


def identifiers(name: str, values: object) -> tuple[str, ...]:
    """Read ids as text, in their order. One text is not taken for many of one letter."""
    if isinstance(values, str) or not isinstance(values, Iterable):
        raise TypeError(f"{name} must be a sequence of str or uuid.UUID, not {type(values).__name__}")
    return tuple(identifier(f"{name}[{number}]", value) for number, value in enumerate(values))


def request_id(value: object) -> str:
    """Return a write's request id, a fresh one for `None`."""
    return str(uuid.uuid4()) if value is None else identifier("request_id", value)


def whole_number(name: str, value: object) -> int:
    """Return a number that the wire can carry: unsigned, of 64 bits."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name} must be an int, not {type(value).__name__}")
    if not 0 <= value <= _GREATEST:
        # Python writes no number of thousands of digits.
        given = value if value.bit_length() <= 2 * _GREATEST.bit_length() else "one of many digits"
        raise ValueError(f"{name} must be from 0 to {_GREATEST}, not {given}")
    return value


def number(name: str, value: object) -> float:
    """Return a number that may have a fraction; infinity for one that is larger than any."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise TypeError(f"{name} must be a number, not {type(value).__name__}")
    try:
        return float(value)
    except OverflowError:
        return math.inf


def seconds(name: str, value: object) -> float:
    """Return a span of time that passes: finite, and more than 0."""
    span = number(name, value)
    if not (math.isfinite(span) and span > 0):
        raise ValueError(f"{name} must be finite and more than 0, not {span}")
    return span


def optional_number(name: str, value: object) -> int | None:
    """Return a number that the wire can carry, if there is one."""
    return None if value is None else whole_number(name, value)


def member(name: str, kind: type[E], value: object) -> E:
    """Return a member of an enum, itself or by its name in the trait, such as `"run_start"`."""
    if isinstance(value, kind):
        return value
    wanted = f"{name} must be a {kind.__name__} or one of {', '.join(repr(one.value) for one in kind)}"
    if not isinstance(value, str):
        raise TypeError(f"{wanted}, not {type(value).__name__}")
    try:
        return kind(value)
    except ValueError:
        raise ValueError(f"{wanted}, not {value!r}") from None


def document_bytes(name: str, value: object) -> bytes:
    """Make the bytes of a JSON document: bytes as given, a text as UTF-8, a dict as compact JSON in its order."""
    if isinstance(value, bytes):
        return value
    return document_text(name, value).encode()


def document_text(name: str, value: object) -> str:
    """Make the text of a JSON document: a text as given, bytes read as UTF-8, a dict as compact JSON in its order."""
    if isinstance(value, str):
        return _encodable(name, value)
    try:
        if isinstance(value, bytes):
            return value.decode()
        if isinstance(value, dict):
            written = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
            written.encode()
            return written
    except UnicodeEncodeError as error:
        raise ValueError(f"{name} cannot be written as UTF-8: {error}") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{name} is not UTF-8: {error}") from error
    except RecursionError:
        raise ValueError(f"{name} is nested too deep to be written as JSON: give its bytes, or its text") from None
    except (TypeError, ValueError) as error:
        raise (TypeError if isinstance(error, TypeError) else ValueError)(
            f"{name} cannot be written as JSON: {error}"
        ) from error
    raise TypeError(f"{name} must be bytes, a str or a dict, not {type(value).__name__}")


def opaque_bytes(name: str, value: object) -> bytes:
    """Read bytes that nobody but the caller reads. `None`, of a forgotten `return`, must not empty what is stored."""
    if not isinstance(value, bytes):
        raise TypeError(f"{name} must be bytes, not {type(value).__name__}")
    return value
