"""The few frames of HTTP/2 that a test writes by hand, where no client would."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from asyncio import StreamReader

SETTINGS = 4
INITIAL_WINDOW_SIZE = 4
PING = 6
ACK = 1
"""RFC 9113, sections 6.5 and 6.7."""


class Frame(NamedTuple):
    """What the server sent."""

    kind: int
    flags: int
    payload: bytes


async def read_frame(reader: StreamReader) -> Frame:
    """The next frame, of whatever stream.

    Raises:
        IncompleteReadError: the server has closed the connection.
    """
    header = await reader.readexactly(9)
    return Frame(header[3], header[4], await reader.readexactly(int.from_bytes(header[:3], "big")))


def settings_of(payload: bytes) -> dict[int, int]:
    """The settings in a SETTINGS frame, by their number."""
    each = [payload[start : start + 6] for start in range(0, len(payload), 6)]
    return {int.from_bytes(one[:2], "big"): int.from_bytes(one[2:], "big") for one in each}


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """RFC 9113, section 4.1."""
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


def preface() -> bytes:
    """What a client begins with: the preface and empty settings."""
    return b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(4, 0, 0, b"")


def call_headers(authority: str, path: bytes, *more: tuple[bytes, bytes]) -> bytes:
    """The headers of a call in HPACK, all of them literal and not indexed."""
    fields = [
        (b":method", b"POST"),
        (b":scheme", b"http"),
        (b":path", path),
        (b":authority", authority.encode()),
        (b"content-type", b"application/grpc"),
        (b"te", b"trailers"),
        *more,
    ]
    return b"".join(b"\x00" + _length(name) + name + _length(value) + value for name, value in fields)


def _length(text: bytes) -> bytes:
    """RFC 7541, section 5.1, with a prefix of seven bits."""
    left = len(text)
    if left < 127:
        return bytes([left])
    encoded, left = [127], left - 127
    while left >= 128:
        encoded.append(left % 128 + 128)
        left //= 128
    return bytes([*encoded, left])
