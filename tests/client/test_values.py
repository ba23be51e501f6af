from __future__ import annotations

import copy
import json
import pickle
from typing import Any

import grpc
import pytest

from runtimestore import (
    AsyncRuntimeStoreClient,
    CallFailed,
    DeadlineExceeded,
    InputState,
    InputStateSeed,
    OAuthFlowSnapshot,
    RetryPolicy,
    RuntimeStoreClient,
    SessionKeyMismatch,
)

ID = "0189f7a0-0000-7000-8000-000000000001"


def test_an_input_reads_its_id_from_its_document_and_keeps_the_document_as_it_is() -> None:
    document = f'{{ "z": 1.0, "input_id" : "{ID}", "current_state":"queued" }}'

    assert InputState.from_json(document) == InputState(ID, document)


def test_an_id_in_capitals_is_spelt_as_the_store_answers_it() -> None:
    document = json.dumps({"input_id": ID.upper()})

    assert InputState.from_json(document) == InputState(ID, document)


@pytest.mark.parametrize("client", [AsyncRuntimeStoreClient, RuntimeStoreClient])
@pytest.mark.parametrize("limit", [0, -1, 2**31, "7", 1.5])
def test_a_limit_of_messages_that_is_none_is_refused_when_the_client_is_made(client: Any, limit: object) -> None:
    with pytest.raises(ValueError, match="max_message_bytes is a whole number from 1 to 2147483647"):
        client("127.0.0.1:1", max_message_bytes=limit)


def test_an_id_that_is_no_uuid_is_left_for_the_server_to_refuse() -> None:
    assert InputState.from_json('{"input_id": "Nobody"}').input_id == "Nobody"


@pytest.mark.parametrize("document", ["", "[]", "{}", '{"input_id": 7}', "null"])
def test_a_document_without_an_id_is_a_value_error(document: str) -> None:
    with pytest.raises(ValueError, match=r"^document "):
        InputState.from_json(document)


def test_a_document_in_which_python_reads_no_number_keeps_it() -> None:
    document = f'{{"input_id": "{ID}", "n": {"9" * 5000}, "current_state": "queued"}}'

    assert InputState.from_json(document) == InputState(ID, document)


def test_a_document_in_which_python_finds_no_id_for_its_nesting_says_what_to_do() -> None:
    document = f'{{"deep": {"[" * 100_000}{"]" * 100_000}, "input_id": "{ID}", "current_state": "queued"}}'

    with pytest.raises(ValueError, match=r"^document is nested too deep .* give the id too, to InputState itself"):
        InputState.from_json(document)
    assert InputState(ID, document).state_json == document


def test_what_the_server_read_out_of_a_document_does_not_make_another_input() -> None:
    assert InputState(ID, "{}") == InputState(ID, "{}", InputStateSeed("queued"))


def test_the_secrets_of_an_oauth_snapshot_do_not_show_in_its_repr() -> None:
    assert "verifier" not in repr(OAuthFlowSnapshot(b"verifier", 1))


@pytest.mark.parametrize(
    "error",
    [
        SessionKeyMismatch("no", metadata={"expected": "a", "actual": "b"}),
        CallFailed("gone", grpc.StatusCode.UNAVAILABLE, metadata={"request_id": ID}),
        DeadlineExceeded("late"),
    ],
)
def test_an_error_survives_being_copied_and_pickled(error: CallFailed) -> None:
    for twin in (copy.copy(error), pickle.loads(pickle.dumps(error))):  # noqa: S301  (made on this line)
        assert type(twin) is type(error)
        assert (twin.message, twin.code, twin.metadata) == (error.message, error.code, error.metadata)


@pytest.mark.parametrize(
    "settings",
    [
        {"max_attempts": 0},
        {"initial_backoff_seconds": -1.0},
        {"initial_backoff_seconds": 2.0, "max_backoff_seconds": 1.0},
        {"max_backoff_seconds": float("inf")},
        {"backoff_multiplier": 0.5},
    ],
)
def test_a_retry_policy_that_cannot_be_meant_is_refused(settings: dict[str, float]) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  (its text is for people)
        RetryPolicy(**settings)  # type: ignore[arg-type]  # max_attempts is the integer 0


def test_pauses_are_random_grow_and_stay_under_their_limit() -> None:
    policy = RetryPolicy(initial_backoff_seconds=0.1, max_backoff_seconds=0.5, backoff_multiplier=2.0)

    for attempts, most in ((1, 0.1), (2, 0.2), (3, 0.4), (4, 0.5), (5000, 0.5)):
        pauses = [policy.pause_seconds(attempts) for _ in range(200)]
        assert all(0 <= pause <= most for pause in pauses)
        assert max(pauses) > most / 2 > min(pauses)
