"""Edits of a document: found between two, applied, and their stored form.

They are those of `SnapshotEdits` on the wire: ascending, not overlapping, in coordinates of the base.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

FORMAT = b"\x01"
"""How the stored form begins."""

ANCHOR_BYTES = 32
"""How much of the base must be found again for it to count as the same place."""

MOST_SEARCHES = 256
"""How often the base is searched for such a place at most, so that finding edits takes no longer than it saves."""

SEARCHED_BYTES = 4 * 1024 * 1024
"""How far an anchor is looked for."""

STRIDE_BYTES = 64 * 1024
"""How much is compared at once."""


class Edit(NamedTuple):
    """The bytes from `start` to before `end` give way to `replacement`."""

    start: int
    end: int
    replacement: bytes


class Undecodable(ValueError):
    """The stored form is none, or does not fit its base."""


def find(base: bytes, result: bytes) -> list[Edit]:
    """Find edits that make `result` of `base`: few bytes where little changed, and always right."""
    start = _same_after(base, 0, result, 0, min(len(base), len(result)))
    tail = _same_before(base, len(base), result, len(result), min(len(base), len(result)) - start)
    old, new = start, start
    old_end, new_end = len(base) - tail, len(result) - tail
    edits: list[Edit] = []
    searches = MOST_SEARCHES
    while old < old_end and new < new_end:
        anchor, place, searches = _next_same(base, old, old_end, result, new, new_end, searches)
        if place < 0:
            break
        back = _same_before(base, anchor, result, place, min(anchor - old, place - new))
        anchor, place = anchor - back, place - back
        edits.append(Edit(old, anchor, result[new:place]))
        same = _same_after(base, anchor, result, place, min(old_end - anchor, new_end - place))
        old, new = anchor + same, place + same
    if old < old_end or new < new_end:
        edits.append(Edit(old, old_end, result[new:new_end]))
    return edits


def _next_same(
    base: bytes, old: int, old_end: int, result: bytes, new: int, new_end: int, searches: int
) -> tuple[int, int, int]:
    """The next place of the base that is found again in the result, where, and how often may still be searched."""
    anchor = old
    until = min(new_end, new + SEARCHED_BYTES)
    while anchor + ANCHOR_BYTES <= old_end and searches > 0:
        searches -= 1
        place = result.find(base[anchor : anchor + ANCHOR_BYTES], new, until)
        if place >= 0:
            return anchor, place, searches
        anchor += max(ANCHOR_BYTES, (anchor - old) // 4)  # what was removed may be long
    return anchor, -1, searches


def _same_after(one: bytes, at: int, other: bytes, place: int, most: int) -> int:
    """How many bytes are the same from there on."""
    same, stride = 0, ANCHOR_BYTES
    while same < most:
        count = min(stride, most - same)
        if one[at + same : at + same + count] == other[place + same : place + same + count]:
            same += count
            stride = min(2 * stride, STRIDE_BYTES)
        elif count == 1:
            break
        else:
            stride = count // 2
    return same


def _same_before(one: bytes, at: int, other: bytes, place: int, most: int) -> int:
    """How many bytes are the same up to there."""
    same, stride = 0, ANCHOR_BYTES
    while same < most:
        count = min(stride, most - same)
        if one[at - same - count : at - same] == other[place - same - count : place - same]:
            same += count
            stride = min(2 * stride, STRIDE_BYTES)
        elif count == 1:
            break
        else:
            stride = count // 2
    return same


def applied(base: bytes, edits: Sequence[Edit]) -> bytes:
    """Make the result of edits that fit the base."""
    pieces: list[bytes | memoryview] = []
    view = memoryview(base)
    at = 0
    for edit in edits:
        pieces += [view[at : edit.start], edit.replacement]
        at = edit.end
    pieces.append(view[at:])
    return b"".join(pieces)


def apply(document: bytearray, edits: Sequence[Edit]) -> None:
    """Make the result in place: what stands before the first edit is not moved.

    Raises:
        Undecodable: they do not fit.
    """
    if edits and edits[-1].end > len(document):
        raise Undecodable("an edit ends behind its base")
    for start, end, replacement in reversed(edits):
        document[start:end] = replacement


def encode(edits: Sequence[Edit]) -> bytes:
    """Make the stored form: of each edit its distance from the one before, what it removes, what it puts there."""
    pieces: list[bytes] = [FORMAT]
    at = 0
    for start, end, replacement in edits:
        pieces += [_number(start - at), _number(end - start), _number(len(replacement)), replacement]
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


def _number(value: int) -> bytes:
    """Seven bits a byte, the lowest first; the high bit says that more follow."""
    digits = bytearray()
    while value > 0x7F:  # noqa: PLR2004  (seven bits)
        digits.append(value & 0x7F | 0x80)
        value >>= 7
    digits.append(value)
    return bytes(digits)


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
