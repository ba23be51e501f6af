"""Edits of a document: found between two, as the clients find them, applied, and their stored form.

They are those of `SnapshotEdits` on the wire: ascending, not overlapping, in coordinates of the base.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from runtimestore._edits import Edit
from runtimestore._edits import apply_edits as applied
from runtimestore._edits import edits_between as find
from runtimestore_server.integers import varint

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = ["FORMAT", "Edit", "Undecodable", "applied", "apply", "decode", "encode", "find"]

FORMAT = b"\x01"
"""How the stored form begins."""


class Undecodable(ValueError):
    """The stored form is none, or does not fit its base."""


def apply(document: bytearray, edits: Sequence[Edit]) -> None:
    """Make the result in place: what stands before the first edit is not moved, and what is behind the last one once.

    Raises:
        Undecodable: they do not fit.
    """
    if not edits:
        return
    if edits[-1].end > len(document):
        raise Undecodable("an edit ends behind its base")
    first, last = edits[0].start, edits[-1].end
    within = [Edit(start - first, end - first, replacement) for start, end, replacement in edits]
    document[first:last] = applied(document[first:last], within)


def encode(edits: Sequence[Edit]) -> bytes:
    """Make the stored form: of each edit its distance from the one before, what it removes, what it puts there."""
    pieces: list[bytes] = [FORMAT]
    at = 0
    for start, end, replacement in edits:
        pieces += [varint(start - at), varint(end - start), varint(len(replacement)), replacement]
        at = end
    return b"".join(pieces)


def decode(encoded: bytes) -> list[Edit]:
    """Read the stored form.

    Raises:
        Undecodable: it is none.
    """
    return list(_decoded(encoded))


def _decoded(encoded: bytes) -> Iterator[Edit]:
    if not encoded.startswith(FORMAT):
        raise Undecodable("it is of another format")
    at, position = 0, len(FORMAT)
    while position < len(encoded):
        gap, position = _read_number(encoded, position)
        removed, position = _read_number(encoded, position)
        size, position = _read_number(encoded, position)
        if position + size > len(encoded):
            raise Undecodable("a replacement is cut off")
        start = at + gap
        at = start + removed
        yield Edit(start, at, encoded[position : position + size])
        position += size


def _read_number(encoded: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while position < len(encoded) and shift < 64:  # noqa: PLR2004  (no more bits than a position has)
        digit = encoded[position]
        position += 1
        value |= (digit & 0x7F) << shift
        if digit < 0x80:  # noqa: PLR2004  (the last one)
            return value, position
        shift += 7
    raise Undecodable("a number is cut off")
