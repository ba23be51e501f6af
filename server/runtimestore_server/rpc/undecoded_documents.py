"""Decodes a request without its large session document, which stays in the received bytes instead of being copied.

That copy, and the one that takes the document out of the decoded message, are one call each that keeps the interpreter:
tens of milliseconds for 60 MB in which no other call comes on. So the document is found by the lengths that stand
before it, the rest of the message is decoded as ever, and who checks the document copies it by pieces.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any, NamedTuple

from runtimestore.v1 import runtime_store_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

LEAST_BYTES = 4 * 1024 * 1024
"""From this size on a message is looked into."""

PIECE_BYTES = 256 * 1024

_DOCUMENT = pb.SessionDelta.SESSION_SNAPSHOT_FIELD_NUMBER

_VARINT, _EIGHT_BYTES, _LENGTH, _FOUR_BYTES = 0, 1, 2, 5
"""The wire types of protobuf's format that fields have which we know; those of groups are none of them."""
_FIXED_BYTES = {_EIGHT_BYTES: 8, _FOUR_BYTES: 4}
_MOST_DIGITS = 5
"""Of tags and lengths: seven bits each of no more than 32."""

DELTAS: dict[str, int] = {
    f"/{service.full_name}/{method.name}": field.number
    for service in pb.DESCRIPTOR.services_by_name.values()
    for method in service.methods
    for field in method.input_type.fields
    if field.message_type is pb.SessionDelta.DESCRIPTOR
}
"""By the path of a method whose requests have a session delta, the number of that field."""


class UndecodedDocument:
    """A session document that is still inside the received message."""

    __slots__ = ("_end", "_message", "_start")

    def __init__(self, message: bytes, start: int, end: int) -> None:
        self._message = message
        self._start = start
        self._end = end

    def take(self) -> bytes:
        """Copy the document out and release the message; works once. Other tasks run between the pieces."""
        message, self._message = self._message, b""
        # Room for all of it at once: of what grows, or is many pieces, the allocator keeps much for each thread.
        with io.BytesIO(bytes(self._end - self._start)) as made, memoryview(message) as view:
            for at in range(self._start, self._end, PIECE_BYTES):
                made.write(view[at : min(at + PIECE_BYTES, self._end)])
            return made.getvalue()  # which is what was written into, and no copy


def decoded(message: bytes, delta: int | None, decode: Callable[[bytes], Any]) -> tuple[Any, UndecodedDocument | None]:
    """Decode a message; return it, and its session document where that was left out of the decoding.

    Then the request has an empty one in its place. `delta` is the number of the field, of methods that have one.

    Raises:
        DecodeError: as `decode` does.
    """
    if delta is None or len(message) < LEAST_BYTES or (found := _found(message, delta)) is None:
        return decode(message), None
    field, document = found
    request = decode(message[: field.start] + message[field.end :])
    request.session_delta.session_snapshot = b""
    return request, UndecodedDocument(message, document.value, document.end)


class _Field(NamedTuple):
    number: int
    wire_type: int
    start: int
    """Where its tag begins."""
    value: int
    """Where its value begins, behind the length that it may have."""
    end: int

    def is_of(self, number: int) -> bool:
        """Tell whether it is the field of this number, which is a message or bytes."""
        return (self.number, self.wire_type) == (number, _LENGTH)


class _NotFound(Exception):
    """The message is none, or of another form than clients give it: protobuf has to say what it holds."""


def _found(message: bytes, delta: int) -> tuple[_Field, _Field] | None:
    """Find the delta of a message, and the large document that is all of it; None if there is no such thing."""
    try:
        deltas = [field for field in _fields(message, 0, len(message)) if field.number == delta]
        if len(deltas) != 1 or not deltas[0].is_of(delta):  # of several, protobuf makes one
            return None
        within = list(_fields(message, deltas[0].value, deltas[0].end))
    except _NotFound:
        return None
    if len(within) != 1 or not within[0].is_of(_DOCUMENT) or within[0].end - within[0].value < LEAST_BYTES:
        return None
    return deltas[0], within[0]


def _fields(message: bytes, at: int, end: int) -> Iterator[_Field]:
    """Yield the fields that stand between two places, whose last one ends there."""
    while at < end:
        start = at
        tag, at = _number(message, at, end)
        wire_type, value = tag & 7, at
        if wire_type == _VARINT:
            while at < end and message[at] & 0x80:
                at += 1
            at += 1
        elif wire_type == _LENGTH:
            length, value = _number(message, at, end)
            at = value + length
        elif wire_type in _FIXED_BYTES:
            at += _FIXED_BYTES[wire_type]
        else:
            raise _NotFound
        if at > end:
            raise _NotFound
        yield _Field(tag >> 3, wire_type, start, value, at)


def _number(message: bytes, at: int, end: int) -> tuple[int, int]:
    """Read a tag or a length, and where it ends."""
    value = 0
    for place, digit in enumerate(message[at : min(at + _MOST_DIGITS, end)]):
        value |= (digit & 0x7F) << 7 * place
        if digit < 0x80:  # noqa: PLR2004  (the last one)
            return value, at + place + 1
    raise _NotFound
