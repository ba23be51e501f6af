"""The calls of the client for threads, over grpcio-testing's fake channel and under fake time."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from runtimestore import (
    CallFailed,
    Commit,
    CommitOutcomeUnknown,
    DeadlineExceeded,
    Overloaded,
    RetryPolicy,
    RevisionMismatch,
    RuntimeStoreClient,
    RuntimeStoreError,
    StoreUnavailable,
)
from runtimestore.v1 import runtime_store_pb2 as pb
from support.faults.fake_wire import WAIT_SECONDS
from support.generators.arguments import INPUT, RUNTIME
from support.servers.scripted_store import GONE, Failure, refusal

if TYPE_CHECKING:
    from support.faults.fake_wire import Wire

STOPPING = Failure(grpc.StatusCode.CANCELLED, "CANCELLED")
UNKNOWN = refusal("COMMIT_OUTCOME_UNKNOWN", grpc.StatusCode.UNAVAILABLE, retry_after_seconds=0.1)
UNAVAILABLE = refusal("STORE_UNAVAILABLE", grpc.StatusCode.UNAVAILABLE, retry_after_seconds=0.1)
OVERLOADED = refusal("OVERLOADED", grpc.StatusCode.RESOURCE_EXHAUSTED, retry_after_seconds=1.5)
WRITTEN = pb.PersistInputStateResponse(revision=7)


@pytest.mark.parametrize("failure", [GONE, STOPPING, UNKNOWN, UNAVAILABLE, OVERLOADED])
def test_a_retried_write_keeps_its_request_id(wire: Wire, at_once: RetryPolicy, failure: Failure) -> None:
    writing = wire.calling(lambda: wire.client(retry=at_once).persist_input_state(RUNTIME, INPUT))

    first = wire.answer("PersistInputState", failure)
    second = wire.answer("PersistInputState", WRITTEN)

    assert writing.result(WAIT_SECONDS) == Commit(7, replayed=False)
    assert uuid.UUID(first.request_id)
    assert second == first


def test_each_write_has_a_request_id_of_its_own(wire: Wire) -> None:
    client = wire.client()
    ids = set()
    for _ in range(3):
        writing = wire.calling(lambda: client.persist_input_state(RUNTIME, INPUT))
        ids.add(wire.answer("PersistInputState", WRITTEN).request_id)
        writing.result(WAIT_SECONDS)

    assert len(ids) == 3


@pytest.mark.parametrize("request_id", ["", "0189F7A0-0000-7000-8000-00000000000A", uuid.UUID(int=1)])
def test_a_request_id_of_the_caller_s_is_sent_as_it_is(wire: Wire, request_id: str | uuid.UUID) -> None:
    writing = wire.calling(lambda: wire.client().persist_input_state(RUNTIME, INPUT, request_id=request_id))

    assert wire.answer("PersistInputState", WRITTEN).request_id == str(request_id)
    writing.result(WAIT_SECONDS)


@pytest.mark.parametrize(("failure", "error"), [(GONE, CallFailed), (UNKNOWN, CommitOutcomeUnknown)])
def test_a_write_without_a_request_id_is_not_repeated_when_it_may_have_landed(
    wire: Wire, at_once: RetryPolicy, failure: Failure, error: type[Exception]
) -> None:
    client = wire.client(retry=at_once)
    writing = wire.calling(lambda: client.persist_input_state(RUNTIME, INPUT, request_id=""))
    wire.answer("PersistInputState", failure)

    assert type(writing.exception(WAIT_SECONDS)) is error


@pytest.mark.parametrize("failure", [UNAVAILABLE, OVERLOADED])
def test_a_write_without_a_request_id_is_repeated_when_nothing_was_committed(
    wire: Wire, at_once: RetryPolicy, failure: Failure
) -> None:
    client = wire.client(retry=at_once)
    writing = wire.calling(lambda: client.persist_input_state(RUNTIME, INPUT, request_id=""))
    wire.answer("PersistInputState", failure)
    wire.answer("PersistInputState", WRITTEN)

    assert writing.result(WAIT_SECONDS).revision == 7


def test_a_load_is_repeated_when_the_server_is_gone(wire: Wire, at_once: RetryPolicy) -> None:
    loading = wire.calling(lambda: wire.client(retry=at_once).load_ops_lifecycle(RUNTIME))
    wire.answer("LoadOpsLifecycle", GONE)
    wire.answer("LoadOpsLifecycle", pb.LoadOpsLifecycleResponse(snapshot=pb.PersistedOpsSnapshot(snapshot_json="{}")))

    assert loading.result(WAIT_SECONDS) == "{}"


def test_the_server_s_word_on_when_to_come_back_is_honoured(wire: Wire, at_once: RetryPolicy) -> None:
    writing = wire.calling(lambda: wire.client(retry=at_once).persist_input_state(RUNTIME, INPUT))
    wire.answer("PersistInputState", OVERLOADED)
    wire.answer("PersistInputState", WRITTEN)
    writing.result(WAIT_SECONDS)

    assert wire.clock.pauses == [1.5]


def test_a_refusal_of_a_later_version_is_repeated_if_it_says_when_to_come_back(
    wire: Wire, at_once: RetryPolicy
) -> None:
    later = refusal("QUOTA_SPENT", grpc.StatusCode.RESOURCE_EXHAUSTED, retry_after_seconds=0.5)
    writing = wire.calling(lambda: wire.client(retry=at_once).persist_input_state(RUNTIME, INPUT))
    wire.answer("PersistInputState", later)
    wire.answer("PersistInputState", WRITTEN)
    writing.result(WAIT_SECONDS)

    assert wire.clock.pauses == [0.5]


def test_pauses_double_and_the_last_failure_of_a_bounded_number_reaches_the_caller(
    wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("random.uniform", lambda _least, most: most)
    loading = wire.calling(lambda: wire.client(retry=RetryPolicy(max_attempts=5)).load_runtime_state(RUNTIME))
    for _ in range(5):
        wire.answer("LoadRuntimeState", GONE)

    error = loading.exception(WAIT_SECONDS)
    assert isinstance(error, CallFailed)
    assert error.code is grpc.StatusCode.UNAVAILABLE
    assert wire.clock.pauses == [0.1, 0.2, 0.4, 0.8]


def test_by_default_the_deadline_alone_bounds_how_often_a_call_is_repeated(
    wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("random.uniform", lambda _least, most: most)
    writing = wire.calling(lambda: wire.client().persist_input_state(RUNTIME, INPUT))
    requests = [wire.answer("PersistInputState", GONE) for _ in range(12)]

    wire.answer("PersistInputState", pb.PersistInputStateResponse(revision=1))
    assert writing.result(WAIT_SECONDS).revision == 1
    assert len({request.request_id for request in requests}) == 1
    assert wire.clock.pauses == [0.1, 0.2, 0.4, 0.8, 1.6] + [2.0] * 7


@pytest.mark.parametrize(
    "failure",
    [
        refusal("REVISION_MISMATCH", grpc.StatusCode.ABORTED),
        refusal("STORE_FULL", grpc.StatusCode.RESOURCE_EXHAUSTED),
        refusal("INTERNAL", grpc.StatusCode.INTERNAL),
        refusal("STORED_VALUE_CORRUPT", grpc.StatusCode.DATA_LOSS),
        Failure(grpc.StatusCode.RESOURCE_EXHAUSTED, "message too large"),
        Failure(grpc.StatusCode.DEADLINE_EXCEEDED),
        Failure(grpc.StatusCode.UNIMPLEMENTED),
    ],
)
def test_what_a_repeat_cannot_cure_reaches_the_caller_at_once(wire: Wire, failure: Failure) -> None:
    writing = wire.calling(lambda: wire.client().persist_input_state(RUNTIME, INPUT))
    request = wire.answer("PersistInputState", failure)

    error = writing.exception(WAIT_SECONDS)
    assert isinstance(error, RuntimeStoreError)
    assert error.code is failure.code
    assert wire.clock.pauses == []
    # With it the caller can ask what became of the write.
    assert error.request_id == request.request_id


def test_one_deadline_holds_for_all_attempts(wire: Wire, at_once: RetryPolicy) -> None:
    client = wire.client(retry=at_once, timeout_seconds=2.0)
    writing = wire.calling(lambda: client.persist_input_state(RUNTIME, INPUT))
    wire.answer("PersistInputState", OVERLOADED)  # 1.5 seconds are spent waiting
    wire.answer("PersistInputState", Failure(grpc.StatusCode.DEADLINE_EXCEEDED))

    assert isinstance(writing.exception(WAIT_SECONDS), DeadlineExceeded)
    assert wire.timeouts_seconds == [2.0, 0.5]


def test_with_no_time_for_another_attempt_the_error_at_hand_is_told(wire: Wire, at_once: RetryPolicy) -> None:
    client = wire.client(retry=at_once)
    writing = wire.calling(lambda: client.persist_input_state(RUNTIME, INPUT, timeout_seconds=1.0))
    wire.answer("PersistInputState", OVERLOADED)

    assert isinstance(writing.exception(WAIT_SECONDS), Overloaded)
    assert wire.clock.pauses == []


@pytest.mark.parametrize("timeout_seconds", [0.0, -1.0])
def test_a_call_without_time_is_not_sent(wire: Wire, timeout_seconds: float) -> None:
    with pytest.raises(ValueError, match=r"^timeout_seconds must be finite and more than 0"):
        wire.client().persist_input_state(RUNTIME, INPUT, timeout_seconds=timeout_seconds)


def test_a_call_that_should_last_for_ever_is_a_value_error(wire: Wire) -> None:
    with pytest.raises(ValueError, match="finite"):
        wire.client().persist_input_state(RUNTIME, INPUT, timeout_seconds=float("inf"))


def test_a_boundary_without_a_receipt_is_a_type_error(wire: Wire) -> None:
    with pytest.raises(TypeError, match="receipt"):
        wire.client().atomic_apply(RUNTIME, b"{}")  # type: ignore[call-overload]  # which tells it before


def test_a_refusal_names_the_grpc_error_as_its_cause(wire: Wire) -> None:
    writing = wire.calling(lambda: wire.client().persist_input_state(RUNTIME, INPUT, if_revision=1))
    request = wire.answer("PersistInputState", refusal("REVISION_MISMATCH", grpc.StatusCode.ABORTED))

    error = writing.exception(WAIT_SECONDS)
    assert isinstance(error, RevisionMismatch)
    assert isinstance(error.__cause__, grpc.RpcError)
    assert request.if_revision == 1


def test_if_revision_zero_is_sent_and_none_is_not(wire: Wire) -> None:
    client = wire.client()
    for if_revision in (0, None):
        writing = wire.calling(lambda: client.persist_input_state(RUNTIME, INPUT, if_revision=if_revision))  # noqa: B023  (called within the round)
        request = wire.answer("PersistInputState", WRITTEN)
        writing.result(WAIT_SECONDS)

        assert request.HasField("if_revision") is (if_revision is not None)


def test_a_closed_client_calls_no_more_and_leaves_the_caller_s_channel_open(wire: Wire) -> None:
    with wire.client() as client:
        pass
    client.close()

    with pytest.raises(RuntimeError, match="closed"):
        client.load_runtime_state(RUNTIME)
    other = wire.client()
    loading = wire.calling(lambda: other.load_runtime_state(RUNTIME))
    wire.answer("LoadRuntimeState", pb.LoadRuntimeStateResponse())
    assert loading.result(WAIT_SECONDS) is None


def test_both_message_limits_are_set_and_grpc_does_not_retry_beneath_the_client(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made: dict[str, Any] = {}
    real = grpc.insecure_channel

    def insecure_channel(target: str, options: list[tuple[str, int]]) -> grpc.Channel:
        made.update(options)
        return real(target, options=options)

    monkeypatch.setattr(grpc, "insecure_channel", insecure_channel)
    RuntimeStoreClient("127.0.0.1:1", max_message_bytes=12345).close()
    assert made["grpc.max_send_message_length"] == made["grpc.max_receive_message_length"] == 12345
    assert made["grpc.enable_retries"] == 0

    RuntimeStoreClient("127.0.0.1:1").close()
    assert made["grpc.max_send_message_length"] == made["grpc.max_receive_message_length"] == 256 * 1024 * 1024


def test_an_engine_that_stays_away_is_told_as_what_it_is(wire: Wire) -> None:
    client = wire.client(retry=RetryPolicy(max_attempts=1))
    writing = wire.calling(lambda: client.persist_input_state(RUNTIME, INPUT))
    wire.answer("PersistInputState", UNAVAILABLE)

    assert isinstance(writing.exception(WAIT_SECONDS), StoreUnavailable)
