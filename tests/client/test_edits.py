"""Edits: they make exactly the newer document of the older one, and are small where little changed."""

from __future__ import annotations

import random

import pytest

from runtimestore._edits import EDIT_BYTES, Edit, apply_edits, find_edits

SEEDS = range(40)


def _message(chance: random.Random) -> bytes:
    text = "".join(chance.choice("abcdefghij klmnopä€😀") for _ in range(chance.randint(50, 3000)))
    return b'{"role":"assistant","content":"%s"}' % text.encode()


def _session(messages: list[bytes], turn: int) -> bytes:
    tail = b'],"updated_at":{"secs_since_epoch":%d},"metadata":{"turn":%d},"usage":{"input_tokens":%d}}'
    return b'{"version":1,"messages":[' + b",".join(messages) + tail % (turn, turn, turn * 99)


def _sent_bytes(base: bytes, changed: bytes) -> int:
    edits = find_edits(base, changed)
    assert edits is not None
    assert apply_edits(base, edits) == changed
    return sum(len(edit.replacement) + EDIT_BYTES for edit in edits)


@pytest.mark.parametrize("seed", SEEDS)
def test_edits_of_whatever_changed_make_exactly_the_newer_document(seed: int) -> None:
    chance = random.Random(seed)  # noqa: S311  (repeatable)
    for _ in range(100):
        base = bytes(chance.choices(b"ab", k=chance.randint(0, 400))) * chance.choice((1, 3))
        changed = bytearray(base)
        for _ in range(chance.randint(0, 5)):
            at = chance.randint(0, len(changed))
            end = at + chance.choice((0, 1, 5, 60, 200))
            changed[at:end] = bytes(chance.choices(b"abc", k=chance.choice((0, 1, 3, 70))))
        edits = find_edits(base, bytes(changed))
        if edits is not None:
            assert apply_edits(base, edits) == changed


def test_what_changed_alone_is_sent_of_a_session_that_grows_is_compacted_or_changes_in_many_places() -> None:
    chance = random.Random(1)  # noqa: S311  (repeatable)
    messages = [_message(chance) for _ in range(200)]
    base = _session(messages, 1)
    more = [_message(chance), _message(chance)]
    summary = _message(chance)
    scattered = list(messages)
    for at in range(5, 200, 20):
        scattered[at] = scattered[at][:40] + b"changed" + scattered[at][45:]

    assert _sent_bytes(base, _session(messages + more, 2)) < sum(map(len, more)) + 300
    assert _sent_bytes(base, _session([*messages[:50], summary, *messages[150:]], 3)) < len(summary) + 400
    assert _sent_bytes(base, _session(scattered, 4)) < 10 * 200 + 300
    assert _sent_bytes(base, _session(messages[:20], 5)) < 300
    assert _sent_bytes(base, base) == 0


def test_no_edits_are_made_of_what_has_little_in_common() -> None:
    chance = random.Random(2)  # noqa: S311  (repeatable)
    base = _session([_message(chance) for _ in range(20)], 1)

    assert find_edits(base, _session([_message(chance) for _ in range(20)], 2)) is None
    assert find_edits(b"", base) is None


@pytest.mark.parametrize(
    "edits",
    [[Edit(2, 1, b"")], [Edit(0, 6, b"")], [Edit(2, 3, b""), Edit(1, 2, b"")], [Edit(0, 2, b""), Edit(1, 3, b"")]],
    ids=["backwards", "beyond", "descending", "overlapping"],
)
def test_edits_that_cannot_be_meant_are_refused(edits: list[Edit]) -> None:
    with pytest.raises(ValueError, match="ascend"):
        apply_edits(b"12345", edits)
