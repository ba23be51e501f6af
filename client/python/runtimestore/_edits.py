"""Finds what changed between two documents, as edits in coordinates of the older one, and applies such edits.

Documents are bytes; nothing here knows JSON. What is found is exact, and small where little changed; it is not the
smallest there is, which would take far longer to find.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["Edit", "apply_edits", "common_prefix", "edits_between", "find_edits"]

ANCHOR_BYTES = 48
"""What is looked for to find the place where the documents agree again. Shorter, and phrases that every message has are
taken for the place; longer, and what stays between two changes close together is sent again."""
MOST_EDITS = 256
"""Beyond, the rest is one edit: each costs a message of its own."""
SCANNED_AT_MOST = 32
"""How many times the size of the newer document may be searched for anchors in all. Then the rest is one edit."""
LEAST_WORTH_BYTES = 64
"""Where this little is replaced by this little it is sent as it is."""
MOST_SUBTRACTED_BYTES = 1 << 11
"""In a piece that differs and is no longer than this, the place is found by arithmetic; longer ones are divided."""
EDIT_BYTES = 16
"""What an edit costs on the wire beside its replacement, about."""


class Edit(NamedTuple):
    """The bytes of the base from `start` to before `end` give way to `replacement`."""

    start: int
    end: int
    replacement: bytes


def find_edits(base: bytes, changed: bytes, *, agreed: int = 0) -> list[Edit] | None:
    """Find the edits that make `changed` of `base` as `edits_between` does; `None` where sending them saves little."""
    edits = edits_between(base, changed, agreed=agreed)
    if not edits:
        return edits
    cost = sum(len(edit.replacement) + EDIT_BYTES for edit in edits)
    return edits if cost < len(changed) // 2 else None


def edits_between(base: bytes, changed: bytes, *, agreed: int = 0) -> list[Edit]:
    """Find the edits that make `changed` of `base`, ascending, not overlapping; the first `agreed` bytes agree."""
    start = agreed + common_prefix(base, agreed, changed, agreed)
    tail = _common_suffix(base, start, len(base), changed, start, len(changed))
    return _between(base, start, len(base) - tail, changed, len(changed) - tail)


def apply_edits(base: bytes | bytearray, edits: Iterable[Edit]) -> bytes:
    """Return what the edits make of `base`.

    Raises:
        ValueError: they do not ascend, overlap, or reach beyond the base.
    """
    parts: list[bytes | memoryview] = []
    view = memoryview(base)
    at = 0
    for edit in edits:
        if not at <= edit.start <= edit.end <= len(base):
            raise ValueError("edits ascend, do not overlap and end within the base")
        parts += (view[at : edit.start], edit.replacement)
        at = edit.end
    parts.append(view[at:])
    return b"".join(parts)


def _between(base: bytes, start: int, base_end: int, changed: bytes, changed_end: int) -> list[Edit]:
    """Return the edits between a common head and a common tail, by anchors: pieces of the base that are found again."""
    edits: list[Edit] = []
    at, changed_at = start, start
    left_to_scan = SCANNED_AT_MOST * (changed_end - start)
    probe, step = at, ANCHOR_BYTES
    while (
        probe + ANCHOR_BYTES <= base_end
        and changed_end - changed_at > LEAST_WORTH_BYTES
        and left_to_scan > 0
        and len(edits) < MOST_EDITS
    ):
        found = changed.find(base[probe : probe + ANCHOR_BYTES], changed_at, changed_end)
        if found < 0:
            left_to_scan -= changed_end - changed_at
            probe += step
            step *= 2  # what was cut out may be long, and each look costs the whole rest
            continue
        left_to_scan -= found - changed_at
        back = _common_suffix(base, at, probe, changed, changed_at, found)
        if probe - back > at or found - back > changed_at:
            edits.append(Edit(at, probe - back, changed[changed_at : found - back]))
        same = min(common_prefix(base, probe, changed, found), base_end - probe, changed_end - found)
        at, changed_at = probe + same, found + same
        probe, step = at, ANCHOR_BYTES
    if at < base_end or changed_at < changed_end:
        edits.append(Edit(at, base_end, changed[changed_at:changed_end]))
    return edits


def common_prefix(one: bytes, one_at: int, other: bytes, other_at: int) -> int:
    """Tell how many bytes agree from these places on."""
    most = min(len(one) - one_at, len(other) - other_at)
    view = memoryview(one)  # of which a piece is compared where it lies: megabytes are not copied
    agreed, size, narrowing = 0, 256, False
    while agreed < most:
        size = min(size, most - agreed)
        here = view[one_at + agreed : one_at + agreed + size]
        if other.startswith(here, other_at + agreed):
            agreed += size
            size = size if narrowing else size * 4
        elif size > MOST_SUBTRACTED_BYTES:
            narrowing, size = True, size // 8
        else:
            there = other[other_at + agreed : other_at + agreed + size]
            return agreed + size - _differing_bytes(here, there, "big")
    return agreed


def _common_suffix(one: bytes, one_from: int, one_end: int, other: bytes, other_from: int, other_end: int) -> int:
    """Tell how many bytes agree before these ends, not reaching before `one_from` and `other_from`."""
    most = min(one_end - one_from, other_end - other_from)
    view = memoryview(one)
    agreed, size, narrowing = 0, 256, False
    while agreed < most:
        size = min(size, most - agreed)
        here = view[one_end - agreed - size : one_end - agreed]
        if other.endswith(here, 0, other_end - agreed):
            agreed += size
            size = size if narrowing else size * 4
        elif size > MOST_SUBTRACTED_BYTES:
            narrowing, size = True, size // 8
        else:
            there = other[other_end - agreed - size : other_end - agreed]
            return agreed + size - _differing_bytes(here, there, "little")
    return agreed


def _differing_bytes(one: memoryview, other: bytes, order: Literal["big", "little"]) -> int:
    """Count the bytes of two pieces of one size from the first that differs on; "little": read backwards."""
    return ((int.from_bytes(one, order) ^ int.from_bytes(other, order)).bit_length() + 7) // 8
