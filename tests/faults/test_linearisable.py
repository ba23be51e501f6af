"""The checker of histories itself: it takes those that some order explains, and no others."""

from __future__ import annotations

import pytest

from support.linearisable import Call, linearisable


def _write(start: int, end: int, number: int, revision: int = 0, outcome: str = "done", **more: object) -> Call:
    body = b"%d" % number
    return Call("write", start, end, outcome, number, body, revision=revision, **more)  # type: ignore[arg-type]  # short


def _load(start: int, end: int, number: int | None, revision: int) -> Call:
    return Call("load", start, end, "done", body=None if number is None else b"%d" % number, revision=revision)


def _receipt(start: int, end: int, number: int, *, found: bool) -> Call:
    return Call("load_receipt", start, end, "done", number, found=found)


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
    "a receipt beside its write": [_write(0, 10, 0, 1), _receipt(1, 2, 0, found=False), _receipt(3, 4, 0, found=True)],
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
    "a receipt that is missing": [_write(0, 1, 0, 1), _receipt(2, 3, 0, found=False)],
    "a receipt that goes away": [
        _write(0, 10, 0, 1),
        _receipt(1, 2, 0, found=True),
        _receipt(3, 4, 0, found=False),
    ],
}


@pytest.mark.parametrize("history", SOUND.values(), ids=SOUND)
def test_a_history_that_some_order_explains_is_linearisable(history: list[Call]) -> None:
    assert linearisable(history)


@pytest.mark.parametrize("history", BROKEN.values(), ids=BROKEN)
def test_a_history_that_no_order_explains_is_not(history: list[Call]) -> None:
    assert not linearisable(history)
