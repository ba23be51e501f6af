"""JSON as it is, a little beyond what msgspec takes."""

from __future__ import annotations

import re
from typing import TypeVar

import msgspec

T = TypeVar("T")

_SURROGATE = re.compile(rb"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|\\u[dD][89a-fA-F][0-9a-fA-F]{2}")
"""What looks like a pair of surrogate escapes, or like half of one. Other escapes are not looked at: there are many."""

_ONE = 6
"""The length of one such escape."""
_REPLACEMENT = rb"\ufffd"


def lenient(decoder: msgspec.json.Decoder[T], body: bytes) -> T:
    """What msgspec reads in `body`, also where a string elsewhere holds half of a surrogate pair.

    That is JSON, some languages write it, and it is none of the store's business; msgspec alone refuses it.

    Raises:
        msgspec.DecodeError, RecursionError: as `decode` does.
    """
    try:
        return decoder.decode(body)
    except msgspec.ValidationError:
        raise
    except msgspec.DecodeError:
        whole = _SURROGATE.sub(lambda found: _made_whole(body, found), body)
        if whole == body:
            raise
        return decoder.decode(whole)


def _made_whole(body: bytes, found: re.Match[bytes]) -> bytes:
    start, escape = found.start(), found[0]
    before = start
    while before and body[before - 1] == ord("\\"):
        before -= 1
    if (start - before) % 2:  # the first backslash is itself escaped, so that what follows it is text
        return escape[:_ONE] + (_REPLACEMENT if len(escape) > _ONE else b"")
    return escape if len(escape) > _ONE else _REPLACEMENT
