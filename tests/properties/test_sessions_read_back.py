"""A session is accepted just when a plain reader of all of it finds nothing that no runtime could read back."""

from __future__ import annotations

import json
from collections import Counter
from math import isinf
from typing import TYPE_CHECKING, Any, NamedTuple
from unittest.mock import patch

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from runtimestore.errors import SessionSnapshotInvalid
from runtimestore_server.documents import readback, session_readback
from runtimestore_server.documents import session as sessions

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

MOST_LEVELS = 127
MEMBERS = ("id", "messages", "created_at", "updated_at", "version", "metadata", "usage")
TOKENS = ("input_tokens", "output_tokens", "cache_creation_tokens", "cache_read_tokens")
ID = "019e4f8e-8200-7cb7-bd7a-e693afc834ae"
TIME = '{"secs_since_epoch": 1, "nanos_since_epoch": 2}'
USAGE = '{"input_tokens": 1, "output_tokens": 2, "x": 1e999}'
BESIDE_A_CHUNK = (65_536 - 600, 65_536 + 600)


class Number(NamedTuple):
    """A number as it is spelt."""

    text: str


class Members(list[tuple[str, Any]]):
    """An object, with each member as often as it is given."""


def bad_members(body: bytes) -> set[str]:
    """Read the whole document, and name each member that no runtime could read back."""
    document = json.loads(body, object_pairs_hook=Members, parse_int=Number, parse_float=Number)
    bad = set(_twice(document, MEMBERS))
    for name, value in document:
        if name == "messages":
            for position, message in enumerate(value):
                path = f"messages[{position}]"
                bad.update(f"{path}.{twice}" for twice in _twice(message, ("role",)))
                if _is_unreadable(message, 3):
                    bad.add(path)
        elif name == "metadata" and _is_unreadable(value, 2):
            bad.add(name)
        elif name in ("created_at", "updated_at"):
            bad.update(f"{name}.{member}" for member in _bad_numbers(value, ("secs_since_epoch", "nanos_since_epoch")))
        elif name == "usage":
            bad.update(f"{name}.{member}" for member in _bad_numbers(value, TOKENS))
        elif name == "version" and value == Number("-0"):
            bad.add(name)
    return bad


def _bad_numbers(members: Members, names: tuple[str, ...]) -> Iterator[str]:
    yield from _twice(members, names)
    yield from (name for name, value in members if name in names and value == Number("-0"))


def _twice(members: Members, names: tuple[str, ...]) -> Iterator[str]:
    given_names = Counter(name for name, _ in members)
    return (name for name in names if given_names[name] > 1)


def _is_unreadable(value: Any, level: int) -> bool:
    if isinstance(value, Number):
        return _is_out_of_range(value.text)
    if isinstance(value, str):
        return any("\ud800" <= character <= "\udfff" for character in value)
    if isinstance(value, Members):
        return level > MOST_LEVELS or any(
            _is_unreadable(name, level) or _is_unreadable(member, level + 1) for name, member in value
        )
    if isinstance(value, list):
        return level > MOST_LEVELS or any(_is_unreadable(item, level + 1) for item in value)
    return False


def _is_out_of_range(number: str) -> bool:
    """Read a number digit by digit, as serde_json does without `float_roundtrip`: products of doubles are rounded."""
    if isinf(float(number)):
        return True
    mantissa, _, power = number.lower().lstrip("-").partition("e")
    whole, _, fraction = mantissa.partition(".")
    significand, exponent, full = 0, int(power or "0"), False
    for digit in whole:
        full = full or significand * 10 + int(digit) >= 2**64
        significand, exponent = (significand, exponent + 1) if full else (significand * 10 + int(digit), exponent)
    for digit in fraction:
        if significand * 10 + int(digit) >= 2**64:
            break
        significand, exponent = significand * 10 + int(digit), exponent - 1
    if significand == 0 or exponent < 0:
        return False
    return exponent > 308 or isinf(float(significand) * float(f"1e{exponent}"))


def refused_member(body: bytes) -> str | None:
    """The member that the check refuses, if it refuses one."""
    try:
        sessions.check(body)
    except SessionSnapshotInvalid as error:
        return error.metadata["field"].removeprefix("session_delta.session_snapshot.")
    return None


def _quoted(parts: Iterable[str]) -> str:
    return f'"{"".join(parts)}"'


# Values as they stand in a document, near what each rule refuses and near what each cheap pass suspects.
digits = st.builds(
    lambda first, count: first + "0123456789"[count % 10] * count,
    st.sampled_from("19"),
    st.sampled_from((0, 1, 15, 98, 197, 198, 199, 200, 201, 208, 209, 210, 306, 307, 308, 309, 450, 700)),
)
fractions = st.sampled_from(("", ".0", ".5", ".9" + "9" * 150, "." + "0" * 198, "." + "0" * 199, "." + "0" * 330))
powers = st.builds(
    lambda sign, zeros, power: f"{sign}{'0' * zeros}{power}",
    st.sampled_from(("e", "E", "e+", "E+", "e-", "E-")),
    st.sampled_from((0, 0, 0, 1, 2, 197, 198, 199, 300)),
    st.sampled_from((0, 1, 9, 10, 98, 99, 100, 107, 108, 109, 110, 307, 308, 309, 999, 99_999)),
)
any_numbers = st.builds(
    lambda minus, whole, fraction, power: minus + whole + fraction + power,
    st.sampled_from(("", "-")),
    st.one_of(st.just("0"), digits),
    fractions,
    st.one_of(st.just(""), powers),
)


def _at_the_border(digits_of_it: str, point: int, zeros: int) -> str:
    """A number of the largest doubles' size, with its point anywhere and zeros before its digits."""
    if point:
        return f"{digits_of_it[:point]}.{digits_of_it[point:]}e{309 - point}"
    return f"0.{'0' * zeros}{digits_of_it}e{309 + zeros}"


border = st.builds(
    _at_the_border,
    st.builds(str, st.integers(17976931348623155, 17976931348623160)).flatmap(
        lambda first: st.sampled_from([first, first + "0793", first + "9" * 6, first + "0" * 30])
    ),
    st.integers(0, 16),
    st.sampled_from((0, 5, 250)),
)
numbers = st.one_of(any_numbers, any_numbers, border)
looks = st.sampled_from((
    "a", "é", " ", ",", ":", "[", "]", "{", "}", "{[" * 70, "]" * 130, "role", '\\"', '\\"role\\"', "\\\\", "\\/",
    "\\n", "\\u0000", "\\u006f", "\\\\ud800", "\\ud83d\\ude00", "3f9ae4001,", "7e8001]", "deadbeef12e4567",
    "AAB+9e999/", "+",
))  # fmt: skip
halves = st.sampled_from(("\\ud800", "\\udfffx", "\\\\\\ud800", "\\ude00\\ud83d", "\\ud83d\\u0041"))
strings = st.lists(st.one_of(looks, looks, looks, numbers), max_size=6).map(_quoted)
broken_strings = st.tuples(st.one_of(looks, numbers), halves).map(_quoted)
long_strings = st.builds(
    lambda length, looks_like: '"%s"' % ("x" * (length - len(looks_like)) + looks_like),
    st.integers(*BESIDE_A_CHUNK),
    st.one_of(looks, numbers),
)
spaces = st.sampled_from(("", "", " ", "\n", "\t\r\n "))
plain = st.one_of(numbers, strings, strings, st.sampled_from(("true", "false", "null", "[]", "{}")))
names = st.one_of(strings, st.sampled_from(('"role"', '"content"', '"\\u0072ole"', '"messages"')))


def _listed(space: str, items: list[str]) -> str:
    return f"[{space}{f'{space},{space}'.join(items)}{space}]"


def _in_an_object(space: str, items: list[tuple[str, str]]) -> str:
    return "{" + f"{space},".join(f"{space}{name}{space}:{space}{value}" for name, value in items) + "}"


def _nested(openings: list[tuple[str, str]], levels: int, inner: str) -> str:
    around = [openings[level % len(openings)] for level in range(levels)]
    return "".join(opening for opening, _ in around) + inner + "".join(closing for _, closing in reversed(around))


nested = st.builds(
    _nested,
    st.lists(
        st.sampled_from(
            (("[", "]"), ('{"a":', "}"), ('["]",', "]"), ('{"}":', "}"), ("[[],{},", "]"), ('["\\"",', "]"))
        ),
        min_size=1,
        max_size=3,
    ),
    st.sampled_from((1, 60, 61, 62, 63, 120, 122, 123, 124, 125, 126, 127, 130, 250)),
    plain,
)
values = st.recursive(
    st.one_of(plain, plain, nested),
    lambda inner: st.one_of(
        st.builds(_listed, spaces, st.lists(inner, max_size=4)),
        st.builds(_in_an_object, spaces, st.lists(st.tuples(names, inner), max_size=3)),
    ),
    max_leaves=5,
)
anything = st.one_of(values, values, values, long_strings, broken_strings)
"""A value of which the whole may be unreadable; a long string moves what follows to where a chunk ends."""

more_members = st.lists(st.tuples(st.sampled_from(('"content"', '"a"', '"ro\\u006ce2"', '"x"')), anything), max_size=3)
roles = st.sampled_from((
    [('"role"', '"user"')],
    [('"role"', '"user"')],
    [('"r\\u006fle"', '"user"')],
    [('"role"', '"user"'), ('"content"', '{"role": 1}')],
    [('"role"', '"user"'), ('"role"', '"user"')],
    [('"role"', '"user"'), ('"\\u0072ole"', '"user"')],
))  # fmt: skip
messages = st.builds(
    lambda space, role, more, first: _in_an_object(space, role + more if first else more + role),
    spaces,
    roles,
    more_members,
    st.booleans(),
)
# Twice in one of ten, so that the other rules are reached.
times = st.sampled_from((TIME,) * 18 + (TIME[:-1] + ', "\\u0073ecs_since_epoch": 1}', TIME.replace("1", "-0")))
usages = st.sampled_from(
    (USAGE,) * 15
    + (USAGE[:-1] + ', "output_tokens": 2}', USAGE.replace("2", "-0"))
    + (USAGE[:-1] + ', "cache_read_tokens": -0}', USAGE[:-1] + ', "cache_read_tokens": null}')
)
repeated = st.sampled_from(
    ("",) * 9 + (f', "\\u0069d": "{ID}"', ', "version": 2', ', "messages": []', ', "metadata": {}')
)


def _document(said: list[str], metadata: list[tuple[str, str]], others: tuple[str, str, str, str, str]) -> bytes:
    created_at, updated_at, usage, extra, again = others
    return (
        f'{{"version": 1, "id": "{ID}", "messages": {_listed("", said)}, "created_at": {created_at}, "extra": {extra}, '
        f'"updated_at": {updated_at}, "metadata": {_in_an_object("", metadata)}, "usage": {usage}{again}}}'
    ).encode()


crowded = st.builds(
    _document,
    st.lists(messages, max_size=3),
    st.lists(st.tuples(names, anything), max_size=2),
    st.tuples(times, times, usages, anything, repeated),
)


def _holding(value: str, member: str = "messages") -> bytes:
    """A good session but for one value in a message or in the metadata."""
    said = ['{"role": "user"}', f'{{"role": "user", "content": {value if member == "messages" else 0}}}']
    metadata = [('"a"', value)] if member == "metadata" else []
    return _document(said, metadata, (TIME, TIME, USAGE, "0", ""))


suspects = st.one_of(numbers, nested, strings, st.builds(_listed, spaces, st.lists(numbers, min_size=1, max_size=2)))
nearly_good = st.builds(_holding, suspects, st.sampled_from(("messages", "metadata")))
"""One suspect in each: where there are many, one that is overlooked is not missed."""
documents = st.one_of(crowded, nearly_good, nearly_good)

memories = st.sampled_from([readback.Remembered(most) for most in (0, 2, 1_000)])
"""Kept from one document to the next; the first holds less than any session with messages."""


@settings(max_examples=600, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(documents, memories, st.sampled_from((1, 300, 65_536)), st.sampled_from((7, 65_536)))
@example(_holding("1e309"), readback.Remembered(), 65_536, 65_536)
@example(_holding("[1E+0309]"), readback.Remembered(), 65_536, 65_536)
@example(_holding("9" * 309), readback.Remembered(), 65_536, 65_536)
@example(_holding('["%s",\n-1e400]' % ("x" * 65_500)), readback.Remembered(), 65_536, 65_536)
@example(_holding("9" * 150 + "." + "9" * 150 + "e309"), readback.Remembered(), 65_536, 65_536)
@example(_holding("[" * 125 + "]" * 125), readback.Remembered(0), 65_536, 65_536)
@example(_holding('0, "role": "user"'), readback.Remembered(0), 65_536, 7)
@example(_holding('0, "\\u0072ole": "user"'), readback.Remembered(0), 65_536, 7)
@example(_holding("[" * 125 + "]" * 125), readback.Remembered(0), 65_536, 7)
@example(_holding("9" * 309), readback.Remembered(0), 65_536, 7)
def test_the_check_of_a_session_refuses_just_what_a_plain_reader_finds_unreadable(
    body: bytes, memory: readback.Remembered, batch_bytes: int, chunk_bytes: int
) -> None:
    bad = bad_members(body)

    with (
        patch.multiple(session_readback, _readable=memory, BATCH_BYTES=batch_bytes),
        patch.object(readback, "_CHUNK_BYTES", chunk_bytes),
    ):
        for _ in range(2):  # and says so again of messages that it has seen
            refused = refused_member(body)
            assert (refused in bad) if bad else (refused is None), (refused, bad)


def test_a_number_is_read_from_its_first_digit_alone() -> None:
    assert readback._LARGE_NUMBER.fullmatch(b"11e400")
    assert not readback._LARGE_NUMBER.match(b"11e400", 1)
