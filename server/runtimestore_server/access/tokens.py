"""Bearer tokens: how one is made, how it is found in a call, and what is kept of it."""

from __future__ import annotations

import hashlib
import re
import secrets
from typing import TYPE_CHECKING

from runtimestore_server.access.failures import NotLetIn

if TYPE_CHECKING:
    from collections.abc import Iterable

PREFIX = "rst_"
"""How every token begins, so that scanners of repositories and logs know one when they see it."""

_TOKEN = re.compile(rf"{PREFIX}[A-Za-z0-9_-]{{43}}")  # 32 bytes in base64 without padding


def new_token() -> str:
    """Make a new token of 256 random bits."""
    return PREFIX + secrets.token_urlsafe(32)


def digest_of(token: str) -> bytes:
    """Take the SHA-256 of a token, all that is kept of it: 256 random bits are not guessed, and need nothing slower."""
    return hashlib.sha256(token.encode()).digest()


def sent_token(metadata: Iterable[tuple[str, str | bytes]]) -> str | None:
    """Return the token in the metadata of a call, None if there is no `authorization`.

    Raises:
        NotLetIn: there is one that is no `Bearer rst_…`, or there are several.
    """
    found = None
    for key, value in metadata:
        if key != "authorization":
            continue
        scheme, _, token = value.partition(" ") if isinstance(value, str) else ("", "", "")
        if found is not None or scheme.lower() != "bearer" or _TOKEN.fullmatch(token) is None:
            raise NotLetIn("malformed")
        found = token
    return found
