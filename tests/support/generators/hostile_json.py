"""JSON documents that are nearly what the store takes: each begins as a good one and is spoiled in one way."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from support.generators.documents import input_state, new_id, ops, session

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

CANARY = "a-caller-sent-this"
"""Is in every document; no refusal may show it."""

# As they stand in a document: what `json.dumps` would never write.
NUMBERS = (
    "-1", "-0", "0.0", "1.0", "1e2", "1E400", "-1e400", "1e-400", str(2**63), str(2**64 - 1), str(2**64), "9" * 5000,
    "0" * 50, "01", "+1", ".5", "5.", "0x10", "1_000", "NaN", "Infinity", "-Infinity", "\u0661", "1e99999999999",
)  # fmt: skip
VALUES = ("null", "true", "[]", "{}", '""', '"x"', "[[]]", '{"":{}}', '"\\u0000"', '"\\ud800"', '"\\udc00\\ud800"')
TEXTS = (
    "\\u0000",
    "\\ud800",
    "\\udfff\\ud800",
    "\\ud83d\\ude00",
    "\\/",
    "\\b\\f",
    "\\x41",
    "\\u12",
    "\x00",
    "\x01",
    "\t",
)
INVALID_UTF8 = (
    b"\xff",
    b"\xc0\x80",
    b"\xed\xa0\x80",
    b"\xf4\x90\x80\x80",
    b"\xe2\x82",
    b"\x80",
    b"\xf8\x88\x80\x80\x80",
)
DEPTHS = (90, 900, 1_100, 30_000, 100_000)

_NUMBER_FIELDS = ("secs_since_epoch", "nanos_since_epoch", "version", "input_tokens", "output_tokens", "extra")


def session_document(random: random.Random) -> bytes:
    """A session, good or spoiled."""
    good = session(CANARY, version=random.choice((0, 1, 2, 2**32 - 1)), extra=random.randint(-5, 2**70))
    return _spoiled(random, good, ("id", "role", "messages", "metadata", "usage", *_NUMBER_FIELDS))


def input_document(random: random.Random, input_id: str) -> bytes:
    """An input's document, good or spoiled."""
    seed: dict[str, Any] = {"last_run_id": new_id(), "last_boundary_sequence": 0, "attempt_count": 1}
    good = input_state(CANARY, input_id=input_id, **seed).state_json.encode()
    return _spoiled(random, good, ("input_id", "current_state", "text", *seed))


def ops_document(random: random.Random) -> bytes:
    """An ops document, good or spoiled."""
    return _spoiled(random, ops(CANARY).encode(), ("epoch_id", "operation_specs", "note"))


def _spoiled(random: random.Random, good: bytes, fields: tuple[str, ...]) -> bytes:
    way = random.choices(_WAYS, _WEIGHTS)[0]
    return way(random, good, random.choice(fields))


def _as_it_is(_random: random.Random, good: bytes, _field: str) -> bytes:
    return good


def _other_value(random: random.Random, good: bytes, field: str) -> bytes:
    return _replaced(good, field, random.choice(NUMBERS + VALUES))


def _missing(_random: random.Random, good: bytes, field: str) -> bytes:
    return good.replace(f'"{field}"'.encode(), b'"missing"', 1)


def _twice(random: random.Random, good: bytes, field: str) -> bytes:
    """The same key once more, before or after: which one counts is for the reader to say, always the same one."""
    value = random.choice((*VALUES, json.dumps(new_id())))
    more = f'"{field}": {value}'.encode()
    return b"{" + more + b", " + good[1:] if random.random() < 0.5 else good[:-1] + b", " + more + b"}"


def _escaped_key(_random: random.Random, good: bytes, field: str) -> bytes:
    return good.replace(f'"{field}"'.encode(), f'"\\u{ord(field[0]):04x}{field[1:]}"'.encode(), 1)


def _escapes(random: random.Random, good: bytes, _field: str) -> bytes:
    return good.replace(CANARY.encode(), CANARY.encode() + random.choice(TEXTS).encode(), 1)


def _no_utf8(random: random.Random, good: bytes, _field: str) -> bytes:
    at = random.choice((0, good.index(CANARY.encode()), random.randrange(len(good)), len(good)))
    return good[:at] + random.choice(INVALID_UTF8) + good[at:]


def _deep(random: random.Random, good: bytes, field: str) -> bytes:
    depth = random.choice(DEPTHS)
    opening, closing = random.choice((("[", "]"), ('{"a":', "}"), ('[{"a":', "}]")))
    closed = closing * depth if random.random() < 0.8 else ""
    return _replaced(good, random.choice((field, "extra", "metadata", "text", "note")), f"{opening * depth}0{closed}")


def _truncated(random: random.Random, good: bytes, _field: str) -> bytes:
    return good[: random.randrange(len(good))]


def _flipped(random: random.Random, good: bytes, _field: str) -> bytes:
    changed = bytearray(good)
    for _ in range(random.randint(1, 8)):
        changed[random.randrange(len(changed))] = random.randrange(256)
    return bytes(changed)


def _surrounded(random: random.Random, good: bytes, _field: str) -> bytes:
    before = random.choice((b"", b" \n\t\r", b"\xef\xbb\xbf", b"//\n", b"\x00", b"[", b"\x0c"))
    after = random.choice((b"", b" \n", b",", b"{}", b"\x00", b"]", good))
    return before + good + after


def _another_encoding(random: random.Random, good: bytes, _field: str) -> bytes:
    return good.decode().encode(random.choice(("utf-16", "utf-16-le", "utf-32", "utf-7", "cp037")))


def _no_object(random: random.Random, _good: bytes, _field: str) -> bytes:
    return random.choice(
        (b"", b"null", b"[]", b'"{}"', b"1", b"{", b"}", b"{}", random.randbytes(random.randint(1, 200)))
    )


def _long(random: random.Random, good: bytes, field: str) -> bytes:
    return _replaced(good, field, json.dumps(random.choice(("é", "a", "\u2028", "😀")) * random.choice((300, 70_000))))


_WAYS: tuple[Callable[[random.Random, bytes, str], bytes], ...] = (
    _as_it_is, _other_value, _missing, _twice, _escaped_key, _escapes, _no_utf8, _deep, _truncated, _flipped,
    _surrounded, _another_encoding, _no_object, _long,
)  # fmt: skip
_WEIGHTS = (6, 20, 6, 8, 3, 8, 8, 1, 6, 10, 6, 2, 4, 2)


def _replaced(good: bytes, field: str, value: str) -> bytes:
    """The document with other text in the place of a field's value, wherever the field is; added if it is not there."""
    document = json.loads(good)
    mark = f"place-of-{new_id()}"
    if not _put(document, field, mark):
        document[field] = mark
    return json.dumps(document).replace(json.dumps(mark), value, 1).encode()


def _put(value: Any, field: str, mark: str) -> bool:
    if isinstance(value, list):
        return any(_put(item, field, mark) for item in value)
    if not isinstance(value, dict):
        return False
    if field in value:
        value[field] = mark
        return True
    return any(_put(item, field, mark) for item in value.values())
