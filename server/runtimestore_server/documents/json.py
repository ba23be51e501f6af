"""Reads the envelope of a JSON document: what is listed of it, or a refusal that names the field by its path."""

from __future__ import annotations

import codecs
import re
from typing import TypeVar

import msgspec

from runtimestore.errors import FieldViolation, InvalidField
from runtimestore_server.documents.hurry import TakesLong, hurried
from runtimestore_server.documents.identifiers import canonical_uuid
from runtimestore_server.documents.nesting import layers

T = TypeVar("T")

_CHUNK_BYTES = 1024 * 1024

_LOCATION = re.compile(r"(?P<what>.*?)(?: - at `\$(?P<path>[^`]*)`)?", re.DOTALL)
_MISSING = re.compile(r"Object missing required field `(?P<name>[^`]*)`")

_SURROGATE = re.compile(rb"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|\\u[dD][89a-fA-F][0-9a-fA-F]{2}")
"""What looks like a pair of surrogate escapes, or like half of one. Other escapes are not looked at: there are many."""

_ONE = 6
"""The length of one such escape."""
OTHER_REPLACEMENT = rb"\ufffe"

_any_decoder = msgspec.json.Decoder(msgspec.Raw)


def envelope(decoder: msgspec.json.Decoder[T], body: bytes, refusal: type[InvalidField], field: str) -> T:
    """Read the envelope in `body`, which came as `field` of a request.

    Raises:
        InvalidField: as `refusal`; it is no JSON, or its envelope is bad.
    """
    if not body.isascii():
        _check_utf8(body, refusal, field)
    try:
        return lenient(decoder, body)
    except msgspec.ValidationError as error:
        path, description = _located(str(error))
        raise invalid(refusal, field + path, description) from None
    except msgspec.DecodeError as error:
        raise invalid(refusal, field, f"must be a JSON document: {error}") from None


def lenient(decoder: msgspec.json.Decoder[T], body: bytes) -> T:
    """Decode what msgspec reads in `body`, also where there is elsewhere what msgspec alone refuses though it is JSON.

    That is half of a surrogate pair in a string, which some languages write, and nesting deeper than its recursion may
    go, which depends on the thread. Both are none of the store's business.

    Raises:
        msgspec.DecodeError: as `decode` does.
    """
    try:
        return _with_halves(decoder, body)
    except RecursionError:
        return _with_halves(decoder, shallow(body))


def shallow(body: bytes) -> bytes:
    """Put a number in the place of each value that is nested too deep for msgspec, if that value is JSON.

    What stands less deep stays as it is; where it stands changes.

    Raises:
        msgspec.DecodeError: a deep value is no JSON.
        TakesLong: it is done `in_a_hurry`; a megabyte of what is made for it takes up to half a second.
    """
    if hurried():
        raise TakesLong
    outermost = b""
    for outermost in layers(body):  # it comes last
        _with_halves(_any_decoder, outermost)
    return outermost


def _with_halves(decoder: msgspec.json.Decoder[T], body: bytes) -> T:
    try:
        return decoder.decode(body)
    except msgspec.ValidationError:
        raise
    except msgspec.DecodeError:
        whole = without_halves(body)
        if whole == body:
            raise
        return decoder.decode(whole)


def without_halves(body: bytes, replacement: bytes = rb"\ufffd") -> bytes:
    """Replace each unpaired surrogate's escape by another one of the same length."""
    return _SURROGATE.sub(lambda found: _made_whole(body, found, replacement), body)


def document_uuid(text: str, refusal: type[InvalidField], field: str) -> str:
    """Read the UUID in a document's `field` in its canonical form.

    Raises:
        InvalidField: as `refusal`; it is no UUID.
    """
    canonical = canonical_uuid(text)
    if canonical is None:
        raise invalid(refusal, field, "must be a UUID")
    return canonical


def invalid(refusal: type[InvalidField], field: str, description: str) -> InvalidField:
    """Make the refusal of a document's `field`; `description` says the cure."""
    return refusal(
        f"{field}: {description}",
        metadata={"field": field, "description": description},
        violations=[FieldViolation(field, description)],
    )


def _check_utf8(body: bytes, refusal: type[InvalidField], field: str) -> None:
    """Refuse bytes that are no UTF-8, in chunks: a whole decoded copy could be four times as large."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        for start in range(0, len(body), _CHUNK_BYTES):
            decoder.decode(body[start : start + _CHUNK_BYTES], final=start + _CHUNK_BYTES >= len(body))
    except UnicodeDecodeError:
        raise invalid(refusal, field, "must be UTF-8") from None


def _located(message: str) -> tuple[str, str]:
    """Return the path and the description in a message of msgspec, such as "Expected `str`, got `int` - at `$.id`"."""
    match = _LOCATION.fullmatch(message)
    what, path = (match["what"], match["path"] or "") if match else (message, "")
    missing = _MISSING.fullmatch(what)
    if missing:
        return f"{path}.{missing['name']}", "is required"
    return path, what


def _made_whole(body: bytes, found: re.Match[bytes], replacement: bytes) -> bytes:
    start, escape = found.start(), found[0]
    before = start
    while before and body[before - 1] == ord("\\"):
        before -= 1
    if (start - before) % 2:  # the first backslash is itself escaped, so that what follows it is text
        return escape[:_ONE] + (replacement if len(escape) > _ONE else b"")
    return escape if len(escape) > _ONE else replacement
