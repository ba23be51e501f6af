"""JSON as it is, a little beyond what msgspec takes."""

from __future__ import annotations

import re
from typing import TypeVar

import msgspec

T = TypeVar("T")

_ESCAPE = re.compile(
    rb"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|(?P<lone>u[dD][89a-fA-F][0-9a-fA-F]{2})|.)"
)
"""An escape of a JSON string: a pair of surrogates, half of one, or any other."""


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
        whole = _ESCAPE.sub(lambda found: rb"\ufffd" if found["lone"] else found[0], body)
        if whole == body:
            raise
        return decoder.decode(whole)
