"""Messages of loads as they travel, put together of the documents' own bytes.

A message object holds a copy of each document, and what it is sent as holds another one. Each is new memory, which the
kernel hands out page by page: for a session of megabytes that takes longer than all else that a load does.
"""

from __future__ import annotations

from runtimestore_server.integers import varint

MESSAGE_BYTES = 1024 * 1024
"""About so much of documents goes into one message: a client with gRPC's default limit of 4 MiB reads everything."""

_VARINT, _DELIMITED = 0, 2
"""The wire types of numbers, and of what begins with its length: protobuf.dev, "Encoding"."""


def key(field: int) -> bytes:
    """Make what a field begins with that has a length: text, bytes or a message; the length follows."""
    return varint(field << 3 | _DELIMITED)


def number_key(field: int) -> bytes:
    """Make what a field begins with that is a number, which follows."""
    return varint(field << 3 | _VARINT)


def message(field: int, value: bytes | memoryview) -> bytes:
    """Make a message that has this field alone: these bytes, or the message that they are."""
    return b"".join((key(field), varint(len(value)), value))
