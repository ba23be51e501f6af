"""The checker of histories itself: it takes those that some order explains, and no others."""

from __future__ import annotations

import pytest

from support.checkers.linearisable import Call, linearisable


def _write(start: int, end: int, number: int, revision: int = 0, outcome: str = "done", **more: object) -> Call:
    documents = {"body": b"%d" % number}
    return Call("write", start, end, outcome, documents, number, revision=revision, **more)  # type: ignore[arg-type]  # short


def _load(start: int, end: int, number: int | None, revision: int) -> Call:
    documents = {"body": None if number is None else b"%d" % number}
    return Call("load", start, end, "done", documents, revision=revision)


def _receipt(start: int, end: int, number: int, *, found: bool, revision: int) -> Call:
    return Call("load", start, end, "done", boundary=number, found=found, revision=revision)


def _both(start: int, end: int, one: int | None, two: int | None, revision: int, kind: str = "load") -> Call:
    documents = {name: None if number is None else b"%d" % number for name, number in (("one", one), ("two", two))}
    return Call(kind, start, end, "done", documents, revision=revision)  # type: ignore[arg-type]  # short


SOUND: dict[str, list[Call]] = {
    "nothing": [],
    "one after the other": [_write(0, 1, 0, 1), _load(2, 3, 0, 1), _write(4, 5, 1, 2), _load(6, 7, 1, 2)],
    "a load beside a write sees either": [_write(0, 10, 0, 1), _load(1, 2, None, 0), _load(3, 4, 0, 1)],
    "two writes at once, in either order": [_write(0, 10, 0, 2), _write(0, 10, 1, 1), _load(11, 12, 0, 2)],
    "an unknown write that took effect": [_write(0, 1, 0, 0, "unknown"), _load(2, 3, 0, 1)],
    "an unknown write that took effect long after": [
        _write(0, 1, 0, 0, "unknown"),
        _load(2, 3, None, 0),
        _write(4, 5, 1, 1),
        _load(6, 7, 0, 2),
    ],
    "an unknown write that never took effect": [_write(0, 1, 0, 0, "unknown"), _write(2, 3, 1, 1), _load(4, 5, 1, 1)],
    "a refusal that names the revision": [_write(0, 1, 0, 1), _write(2, 3, 1, 1, "refused", if_revision=0)],
    "a receipt beside its write": [
        _write(0, 10, 0, 1),
        _receipt(1, 2, 0, found=False, revision=0),
        _receipt(3, 4, 0, found=True, revision=1),
    ],
    "a write leaves what it does not name": [
        _both(0, 1, 1, 2, 1, "write"),
        _both(2, 3, 3, None, 2, "write"),
        _both(4, 5, 3, 2, 2),
    ],
    "a write onto what was there": [_write(0, 1, 0, 1), _write(2, 3, 1, 2, onto={"body": b"0"})],
}
BROKEN: dict[str, list[Call]] = {
    "a stale load": [_write(0, 1, 0, 1), _load(2, 3, None, 0)],
    "a load of what was never written": [_write(0, 1, 0, 1), _load(2, 3, 7, 1)],
    "a load of what is written later": [_load(0, 1, 0, 1), _write(2, 3, 0, 1)],
    "two loads that go back": [_write(0, 10, 0, 1), _load(1, 2, 0, 1), _load(3, 4, None, 0)],
    "a lost write": [_write(0, 1, 0, 1), _write(2, 3, 1, 1)],
    "a write done twice": [_write(0, 1, 0, 1), _load(2, 3, 0, 2)],
    "an acknowledged write that is missing": [_write(0, 1, 0, 1), _write(2, 3, 1, 2), _load(4, 5, 0, 1)],
    "a write that ignored if_revision": [_write(0, 1, 0, 1), _write(2, 3, 1, 2, if_revision=0)],
    "a refusal without a reason": [_write(0, 1, 0, 1), _write(2, 3, 1, 1, "refused", if_revision=1)],
    "a write that was promised to be nothing": [_write(0, 1, 0, 0, "nothing"), _load(2, 3, 0, 1)],
    "an unknown write before it began": [_load(0, 1, 0, 1), _write(2, 3, 0, 0, "unknown")],
    "a receipt that is missing": [_write(0, 1, 0, 1), _receipt(2, 3, 0, found=False, revision=1)],
    "a receipt at a revision before its write": [_write(0, 9, 0, 1), _receipt(1, 2, 0, found=True, revision=0)],
    "half a write": [_both(0, 9, 1, 2, 1, "write"), _both(1, 2, 1, None, 1)],
    "a write that took away what it does not name": [
        _both(0, 1, 1, 2, 1, "write"),
        _both(2, 3, 3, None, 2, "write"),
        _both(4, 5, 3, None, 2),
    ],
    "a write onto what was there no more": [
        _write(0, 1, 0, 1),
        _write(2, 3, 1, 2),
        _write(4, 5, 2, 3, onto={"body": b"0"}),
    ],
    "a receipt that goes away": [
        _write(0, 10, 0, 1),
        _receipt(1, 2, 0, found=True, revision=1),
        _receipt(3, 4, 0, found=False, revision=1),
    ],
}


@pytest.mark.parametrize("history", SOUND.values(), ids=SOUND)
def test_a_history_that_some_order_explains_is_linearisable(history: list[Call]) -> None:
    assert linearisable(history)


@pytest.mark.parametrize("history", BROKEN.values(), ids=BROKEN)
def test_a_history_that_no_order_explains_is_not(history: list[Call]) -> None:
    assert not linearisable(history)


def test_a_history_with_many_calls_of_unknown_outcome_is_decided() -> None:
    # Of eight at a time any one may have taken effect: 8 to the power of 12 orders, and they all lead to one state.
    unknown = [
        Call("write", 100 * turn, 100 * turn + 9, "unknown", {"body": b"?%d" % number}, if_revision=2 * turn)
        for turn in range(12)
        for number in range(8)
    ]
    known = [_write(100 * turn + 20, 100 * turn + 30, turn, 2 * turn + 2) for turn in range(12)]

    assert linearisable([*unknown, *known])
    assert not linearisable([*unknown, *known, _load(9000, 9001, 7, 24)])
