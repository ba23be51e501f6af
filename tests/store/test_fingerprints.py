"""Two requests are the same if, and only if, every field that counts is."""

from __future__ import annotations

import dataclasses
from itertools import combinations
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from runtimestore_server.store.values import RuntimeKey
from runtimestore_server.store.writes import OAuthFlowWrite, PartialInputs, Write, fingerprint, sha256_of_inputs
from support.generators.store_writes import boundary, document, oauth, ops, runtime, snapshot

fields = st.lists(st.binary(max_size=4), max_size=5)


@given(fields, fields)
def test_no_two_lists_of_fields_have_one_fingerprint(one: list[bytes], other: list[bytes]) -> None:
    assume(one != other)

    assert fingerprint(b"runtime/1", *one) != fingerprint(b"runtime/1", *other)


@given(st.binary(min_size=1), fields)
def test_bytes_that_move_to_the_next_field_change_the_fingerprint(joined: bytes, rest: list[bytes]) -> None:
    cuts = [(joined[:cut], joined[cut:]) for cut in range(len(joined) + 1)]

    assert len({fingerprint(b"runtime/1", *cut, *rest) for cut in cuts}) == len(cuts)


def test_the_same_fields_have_another_fingerprint_under_another_version() -> None:
    assert fingerprint(b"runtime/1", b"x") != fingerprint(b"oauth/1", b"x")


FIRST, SECOND = document("first"), document("second")
WHOLE = Write(
    runtime("one"),
    "id",
    if_revision=1,
    snapshot=snapshot(),
    receipt=boundary(),
    inputs=(FIRST, SECOND),
    runtime_state="idle",
    ops=ops(),
)
OTHERS: dict[str, dict[str, Any]] = {
    "another runtime": {"runtime": RuntimeKey("test", "two")},
    "another expected revision": {"if_revision": 2},
    "expected revision zero": {"if_revision": 0},
    "no expected revision": {"if_revision": None},
    "another snapshot": {"snapshot": snapshot("another")},
    "no snapshot": {"snapshot": None},
    "another receipt": {"receipt": boundary(text="another")},
    "no receipt": {"receipt": None},
    "another state": {"runtime_state": "running"},
    "no state": {"runtime_state": None},
    "another ops document": {"ops": ops("another")},
    "no ops document": {"ops": None},
    "no inputs": {"inputs": ()},
    "fewer inputs": {"inputs": (FIRST,)},
    "inputs in another order": {"inputs": (SECOND, FIRST)},
    "an input twice": {"inputs": (FIRST, FIRST, SECOND)},
    "an input with another document": {"inputs": (FIRST, document("another", input_id=SECOND.input_id))},
    "an input with another id": {"inputs": (FIRST, document("second"))},
    "a document in another place": {
        "snapshot": None,
        "receipt": boundary()._replace(sha256=snapshot().sha256),
    },
}


@pytest.mark.parametrize("other", OTHERS)
def test_a_write_that_differs_in_one_field_has_a_fingerprint_of_its_own(other: str) -> None:
    assert dataclasses.replace(WHOLE, **OTHERS[other]).fingerprint() != WHOLE.fingerprint()


def test_all_writes_that_differ_have_different_fingerprints() -> None:
    all_of_them = [WHOLE, *(dataclasses.replace(WHOLE, **changed) for changed in OTHERS.values())]

    for one, other in combinations(all_of_them, 2):
        assert one.fingerprint() != other.fingerprint()


def test_a_repeat_has_the_fingerprint_of_the_first_time_under_any_id() -> None:
    assert dataclasses.replace(WHOLE, request_id="another").fingerprint() == WHOLE.fingerprint()


def test_oauth_writes_differ_by_their_bytes_and_by_the_version_they_expect() -> None:
    prints = [
        write.fingerprint()
        for write in (
            oauth(b"x"),
            oauth(b"y"),
            oauth(b"x", expected_version=0),
            oauth(b"x", expected_version=1),
            oauth(b""),
        )
    ]

    assert len(set(prints)) == len(prints)


def test_the_fingerprint_of_a_stored_request_stays_as_it_is() -> None:
    # Requests are remembered over an upgrade of the server: another value here would turn replays into refusals.
    body = bytes(32)
    written = Write(RuntimeKey("r", "rt"), if_revision=7, runtime_state="idle")
    secret = OAuthFlowWrite("r", None, b"", body, expected_version=3)

    assert written.fingerprint().hex() == "d60347ae88d641698f837ded3dfa573c2a168309e6164dee47c687ac90ef5d9e"
    assert secret.fingerprint().hex() == "79a91d676deacbc0b90bc2a87134fd273af64b73ec2de66019b802a821dd675e"


@pytest.mark.parametrize("inputs", [(), (FIRST,), (FIRST, SECOND)])
@pytest.mark.parametrize("if_revision", [None, 0, 7])
def test_a_request_is_the_same_whether_all_or_none_of_its_inputs_come_with_it(
    inputs: tuple[Any, ...], if_revision: int | None
) -> None:
    whole = dataclasses.replace(WHOLE, inputs=inputs, if_revision=if_revision)
    partial = PartialInputs(sha256_of_inputs(inputs), if_revision)

    without = dataclasses.replace(whole, inputs=(), partial_inputs=partial, if_revision=3)

    assert without.fingerprint() == whole.fingerprint()
