"""Finds what upstream's Rust types could not deserialise in a session, although it is valid JSON.

They are Rust's, read by serde_json. It refuses half of a surrogate pair, a number beyond a double, a member of an
envelope that is given twice, and nesting over 127 levels: its counter of 128 is lowered by every `[` and `{` that is
open and must not reach 0. Levels are counted from the document: its own object is the first, `messages` and `metadata`
are the second, a message is the third. Members that no type names are skipped there, whatever is in them.

Each question is asked twice: first by one cheap pass over the bytes that never misses, then, only of what that pass
suspects, exactly.
"""

from __future__ import annotations

import re
from itertools import accumulate
from math import isinf
from typing import TYPE_CHECKING, Any

import msgspec

from runtimestore_server.documents.hurry import TakesLong, hurried
from runtimestore_server.integers import UINT64_MAX

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

MOST_LEVELS = 127

MANY_QUOTES = 20_000
"""A member has two at least, and takes a microsecond to be read. A session of 256 KB, the largest that the event loop
checks, has half as many where its messages are short."""

_CHUNK_BYTES = 64 * 1024
_DIGITS = 200
"""A number beyond a double has so many digits in a row, or an exponent of three digits: 1e308 is within."""


class _Name:
    """A member's name that equals no other, so that a dict keeps a member that is given twice."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name


def _name(_kind: type, text: str) -> Any:
    return _Name(text)


Text = bytes | memoryview
"""JSON as it stands in a document; a view of tens of megabytes is no copy of them."""

_members_decoder = msgspec.json.Decoder(dict[_Name, msgspec.Raw], dec_hook=_name)

_SHAPE = bytearray(256)
"""What numbers are seen by: digits (a `+` counts as one), the start of an exponent, and what may follow a number."""
for _kind, _bytes in ((b"0", b"0123456789+"), (b"e", b"eE"), (b",", b",]} \t\r\n")):
    for _byte in _bytes:
        _SHAPE[_byte] = ord(_kind)
_ESCAPED_LETTER = b"\\u00"
_LONG_NUMBER = b"0" * _DIGITS
_EXPONENT = b"0e000"
_ENDING_EXPONENT = re.compile(rb"0e0{3,},")
_LARGE_NUMBER = re.compile(
    # From its first digit alone: else one of 198 digits would be read from each of them to its end.
    rb"(?<![0-9.])(?:-?[0-9][0-9.]{%d,}(?:[eE][+-]?[0-9]+)?|-?[0-9][0-9.]*[eE]\+?[0-9]{3,})" % (_DIGITS - 1)
)
_PARTS_OF_A_NUMBER = re.compile(rb"-?([0-9]+)(?:\.([0-9]+))?(?:[eE]([+-]?)([0-9]+))?")
_LARGEST_POWER = 308
_POWERS = tuple(float(f"1e{power}") for power in range(_LARGEST_POWER + 1))
_NO_BRACKETS = bytes(byte for byte in range(256) if byte not in b"[]{}")
_STEPS = {ord("["): 1, ord("{"): 1, ord("]"): -1, ord("}"): -1}
_END_OF_A_TOKEN = re.compile(rb"[^\\0-9eE.+-]")


class Remembered:
    """Values that were found readable, by hashes of which nobody outside knows the key; bounded. For any thread.

    Args:
        most: how many are remembered at the least; twice as many at the most.
    """

    def __init__(self, most: int = 16_384) -> None:
        self.most = most
        self._young: set[int] = set()
        self._old: set[int] = set()

    def knows(self, value: bytes) -> bool:
        """Tell whether a value was added, not too long ago."""
        found = hash(value)
        if found in self._young:
            return True
        if found in self._old:
            self._keep(found)
            return True
        return False

    def add(self, value: bytes) -> None:
        """Remember a value."""
        self._keep(hash(value))

    def _keep(self, found: int) -> None:
        young = self._young
        young.add(found)
        if len(young) >= self.most:
            self._old, self._young = young, set()


def members(document: bytes | msgspec.Raw) -> list[tuple[str, msgspec.Raw]]:
    """Read an object's own members, also those that are given more than once.

    Raises:
        msgspec.DecodeError, RecursionError: it is no object, or holds half of a surrogate pair.
        TakesLong: it may have very many, and is read `in_a_hurry`.
    """
    if hurried() and bytes(document).count(b'"') > MANY_QUOTES:
        raise TakesLong
    return [(key.name, value) for key, value in _members_decoder.decode(document).items()]


def given_twice(found: Sequence[tuple[str, msgspec.Raw]], names: Sequence[str]) -> str | None:
    """Find the first of `names` that is among an object's members more than once."""
    given = [name for name, _ in found]
    return next((name for name in names if given.count(name) > 1), None)


def may_have_twice(body: Text, name: bytes, objects: int) -> bool:
    r"""Tell whether one of so many objects in `body` may have a member twice, each of which has it once at least.

    A name can also be spelt by escapes; those of letters all begin by `\u00`.
    """
    quoted = b'"%s"' % name
    found = 0
    for piece in _pieces(body, max(len(quoted), len(_ESCAPED_LETTER)) - 1):
        found += piece.count(quoted)
        if found > objects or (b"\\" in piece and _ESCAPED_LETTER in piece):
            return True
    return False


def may_have_large_number(body: Text) -> bool:
    """Tell whether there may be a number beyond a double in `body`."""
    for piece in _pieces(body, 2 * _DIGITS):
        shape = piece.translate(_SHAPE)
        if _LONG_NUMBER in shape or _has_large_exponent(shape, piece):
            return True
    return False


def may_be_deep(value: Text, level: int, *, besides: int = 0) -> bool:
    """Tell whether a value at `level` may be nested too deep, where `besides` brackets stand side by side in it.

    Of the brackets in strings each counts as well, so this may be wrong in one direction only.
    """
    most = MOST_LEVELS - level + besides
    if len(value) <= most:
        return False
    found = 0
    for piece in _pieces(value):
        found += piece.count(b"[") + piece.count(b"{")
        if found > most:
            return True
    return False


def _pieces(body: Text, overlap: int = 0) -> Iterator[bytes]:
    """Yield all of it in pieces, each with the beginning of the next: a call on megabytes would let nobody else run."""
    for start in range(0, len(body), _CHUNK_BYTES):
        yield bytes(body[start : start + _CHUNK_BYTES + overlap])


def unreadable(value: bytes, level: int) -> str | None:
    """Say what makes a value unreadable, if anything does; `level` is the one that it stands at itself."""
    depth = level - 1
    for piece in _outside_strings(value):
        if any(map(is_beyond_a_double, _LARGE_NUMBER.findall(piece))):
            return "must hold no number beyond a double: no runtime could read it back"
        brackets = piece.translate(None, _NO_BRACKETS)
        if brackets:
            depths = list(accumulate(map(_STEPS.__getitem__, brackets), initial=depth))
            depth = depths[-1]
            if max(depths) > MOST_LEVELS:
                return f"must be nested at most {MOST_LEVELS} levels deep, counted from the document"
    return None


def is_beyond_a_double(number: bytes) -> bool:
    """Tell whether a number is beyond a double, or one so near the largest that serde_json takes it for one beyond it.

    Unless it is built with its feature `float_roundtrip`, it multiplies the digits that fit into 64 bits by a power of
    ten: `f64_from_parts` in its `de.rs`, which is followed here step by step, for products of doubles are rounded.
    """
    if isinf(float(number)):
        return True
    found = _PARTS_OF_A_NUMBER.fullmatch(number)
    if found is None:  # never: it is a number of a JSON document
        return False
    whole, fraction, sign, power = found.groups(default=b"")
    significand, taken = _append_digits(0, whole)
    exponent = len(whole) - taken
    significand, taken = _append_digits(significand, fraction)
    exponent -= taken
    power = power.lstrip(b"0")[:12]  # so many are as good as infinite, and Python reads no thousands
    if power:
        exponent += -int(power) if sign == b"-" else int(power)
    if not significand or exponent < 0:
        return False
    return exponent > _LARGEST_POWER or isinf(float(significand) * _POWERS[exponent])


def _append_digits(significand: int, digits: bytes) -> tuple[int, int]:
    """Append digits to a significand up to 64 bits; also return how many digits were taken."""
    taken = 0 if significand else len(digits) - len(digits.lstrip(b"0"))
    for digit in memoryview(digits)[taken:]:
        more = significand * 10 + digit - ord("0")
        if more > UINT64_MAX:
            break
        significand = more
        taken += 1
    return significand, taken


def _has_large_exponent(shape: bytes, piece: bytes) -> bool:
    """Tell whether a number may end by a large exponent; digits in base64 or in a UUID stand beside other things."""
    at = shape.find(_EXPONENT)
    while at >= 0:
        if _ENDING_EXPONENT.match(shape, at) and _begins_like_a_number(piece, at):
            return True
        at = shape.find(_EXPONENT, at + 1)
    return False


def _begins_like_a_number(piece: bytes, at: int) -> bool:
    """Tell whether what stands before a digit may be the rest of a number; at the piece's beginning nobody knows."""
    before = piece[max(0, at - _DIGITS) : at + 1].rstrip(b"0123456789.-")
    return not before or before[-1] in b":,[ \t\r\n"


def _outside_strings(value: bytes) -> Iterator[bytes]:
    """Yield what stands outside of strings, in pieces; no token is cut."""
    start, inside = 0, False
    while start < len(value):
        cut = _END_OF_A_TOKEN.search(value, start + _CHUNK_BYTES)
        end = cut.end() if cut else len(value)
        parts = value[start:end].replace(rb"\\", b"").replace(rb"\"", b"").split(b'"')
        yield b'"'.join(parts[inside::2])
        inside ^= len(parts) % 2 == 0
        start = end
