"""The calls of the client for asyncio, against a scripted server on a real socket."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import grpc
import grpc.aio
import pytest

from runtimestore import (
    AsyncRuntimeStoreClient,
    CallFailed,
    Commit,
    CommitOutcomeUnknown,
    DeadlineExceeded,
    OAuthCommit,
    Overloaded,
    RetryPolicy,
    RevisionMismatch,
    SessionKeyMismatch,
    StoredValueCorrupt,
)
from runtimestore.v1 import runtime_store_pb2 as pb
from support.generators.arguments import INPUT, RUNTIME
from support.servers.scripted_store import GONE, Failure, Script, refusal, running

STOPPING = Failure(grpc.StatusCode.CANCELLED, "CANCELLED")
UNKNOWN = refusal("COMMIT_OUTCOME_UNKNOWN", grpc.StatusCode.UNAVAILABLE, retry_after_seconds=0.0)
OVERLOADED = refusal("OVERLOADED", grpc.StatusCode.RESOURCE_EXHAUSTED, retry_after_seconds=0.3)
CHANGED = refusal("OAUTH_FLOW_SNAPSHOT_CHANGED", grpc.StatusCode.ABORTED)
MIB = 1024 * 1024


async def hang(_request: object, _context: object) -> None:
    """Keep the call waiting for longer than any test."""
    await asyncio.sleep(60)


@pytest.mark.parametrize("failure", [GONE, STOPPING, UNKNOWN])
def test_a_retried_write_keeps_its_request_id(failure: Failure) -> None:
    async def scenario(script: Script, store: AsyncRuntimeStoreClient) -> None:
        script.answer("PersistInputState", failure, failure, pb.PersistInputStateResponse(revision=7, replayed=True))

        assert await store.persist_input_state(RUNTIME, INPUT) == Commit(7, replayed=True)

    first, second, third = running(scenario).requests["PersistInputState"]
    assert first.request_id
    assert first == second == third


@pytest.mark.parametrize(
    ("failure", "error"), [(GONE, CallFailed), (STOPPING, CallFailed), (UNKNOWN, CommitOutcomeUnknown)]
)
def test_a_write_without_a_request_id_is_not_repeated_when_it_may_have_landed(
    failure: Failure, error: type[Exception]
) -> None:
    async def scenario(script: Script, store: AsyncRuntimeStoreClient) -> None:
        script.answer("PersistInputState", failure)

        with pytest.raises(error):
            await store.persist_input_state(RUNTIME, INPUT, request_id="")

    assert len(running(scenario).requests["PersistInputState"]) == 1


def test_the_server_s_word_on_when_to_come_back_is_honoured() -> None:
    async def scenario(script: Script, store: AsyncRuntimeStoreClient) -> None:
        script.answer("PersistInputState", OVERLOADED, pb.PersistInputStateResponse(revision=1))
        started = time.monotonic()
        await store.persist_input_state(RUNTIME, INPUT)

        assert time.monotonic() - started >= 0.3

    running(scenario)


def test_a_refusal_is_raised_as_its_class_with_its_parts() -> None:
    async def scenario(script: Script, store: AsyncRuntimeStoreClient) -> None:
        mismatch = refusal(
            "SESSION_KEY_MISMATCH", grpc.StatusCode.INVALID_ARGUMENT, metadata={"expected": "a", "actual": "b"}
        )
        script.answer("CommitSessionSnapshot", mismatch)

        with pytest.raises(SessionKeyMismatch) as raised:
            await store.commit_session_snapshot(RUNTIME, b"{}")
        assert (raised.value.expected, raised.value.actual) == ("a", "b")
        assert isinstance(raised.value.__cause__, grpc.aio.AioRpcError)

    running(scenario)


def test_a_deadline_is_raised_as_such_in_time_and_the_call_is_not_repeated() -> None:
    async def scenario(script: Script, store: AsyncRuntimeStoreClient) -> None:
        script.answer("PersistInputState", hang)
        with pytest.raises(DeadlineExceeded) as raised:
            await store.persist_input_state(RUNTIME, INPUT, timeout_seconds=0.2)

        assert raised.value.request_id == script.requests["PersistInputState"][0].request_id

    assert len(running(scenario).requests["PersistInputState"]) == 1


def test_one_deadline_holds_for_all_attempts() -> None:
    async def scenario(script: Script, store: AsyncRuntimeStoreClient) -> None:
        script.answer("PersistInputState", OVERLOADED, hang)
        with pytest.raises(DeadlineExceeded):
            await store.persist_input_state(RUNTIME, INPUT, timeout_seconds=0.6)

    assert len(running(scenario).requests["PersistInputState"]) == 2


def test_with_no_time_for_another_attempt_the_error_at_hand_is_told() -> None:
    async def scenario(script: Script, store: AsyncRuntimeStoreClient) -> None:
        script.answer("PersistInputState", OVERLOADED)

        with pytest.raises(Overloaded):
            await store.persist_input_state(RUNTIME, INPUT, timeout_seconds=0.2)

    running(scenario)


@pytest.mark.parametrize("waits", [False, True], ids=["function", "coroutine function"])
def test_the_closure_runs_again_on_the_new_bytes_when_another_came_first(waits: bool) -> None:
    seen: list[bytes | None] = []

    def update(current: bytes | None) -> bytes:
        seen.append(current)
        return (current or b"") + b"+"

    async def update_later(current: bytes | None) -> bytes:
        await asyncio.sleep(0)
        return update(current)

    async def scenario(script: Script, store: AsyncRuntimeStoreClient) -> None:
        script.answer(
            "LoadAuthOAuthFlowSnapshot",
            pb.LoadAuthOAuthFlowSnapshotResponse(),
            pb.LoadAuthOAuthFlowSnapshotResponse(snapshot_json=b"theirs", version=4),
        )
        script.answer("UpdateAuthOAuthFlowSnapshot", CHANGED, GONE, pb.UpdateAuthOAuthFlowSnapshotResponse(version=5))

        done = await store.update_auth_oauth_flow_snapshot(update_later if waits else update)
        assert done == OAuthCommit(5, replayed=False)

    first, second, repeat = running(scenario).requests["UpdateAuthOAuthFlowSnapshot"]
    assert seen == [None, b"theirs"]
    assert (first.expected_version, first.snapshot_json) == (0, b"+")
    assert (second.expected_version, second.snapshot_json) == (4, b"theirs+")
    assert first.request_id != second.request_id
    assert repeat == second


def test_an_error_of_the_closure_reaches_the_caller_unchanged_and_nothing_is_written() -> None:
    mine = KeyError("already consumed")

    def update(_current: bytes | None) -> bytes:
        raise mine

    async def scenario(_script: Script, store: AsyncRuntimeStoreClient) -> None:
        with pytest.raises(KeyError) as raised:
            await store.update_auth_oauth_flow_snapshot(update)
        assert raised.value is mine

    assert running(scenario).requests["UpdateAuthOAuthFlowSnapshot"] == []


def test_the_closure_loop_ends_with_the_deadline_of_the_call() -> None:
    async def changed(_request: object, _context: object) -> Failure:
        return CHANGED

    async def scenario(script: Script, store: AsyncRuntimeStoreClient) -> None:
        script.answer("UpdateAuthOAuthFlowSnapshot", *[changed] * 100_000)
        with pytest.raises(DeadlineExceeded):
            await store.update_auth_oauth_flow_snapshot(lambda _: b"", timeout_seconds=0.3)

    running(scenario, retry=RetryPolicy(initial_backoff_seconds=0.01, max_backoff_seconds=0.05))


def test_a_stream_that_breaks_half_way_is_read_from_its_start() -> None:
    first, second = (pb.StoredInputState(input_id=name) for name in "ab")

    async def scenario(script: Script, store: AsyncRuntimeStoreClient) -> None:
        script.answer(
            "LoadInputStates",
            [pb.LoadInputStatesResponse(revision=1, input_states=[first]), GONE],
            [pb.LoadInputStatesResponse(revision=2, input_states=[first, second])],
        )

        loaded = await store.load_input_states_with_revision(RUNTIME)
        assert [state.input_id for state in loaded.value] == ["a", "b"]
        assert loaded.revision == 2

    running(scenario)


def test_an_empty_stream_is_no_snapshot_at_the_revision_of_the_trailing_metadata() -> None:
    async def nothing(_request: object, context: grpc.aio.ServicerContext[Any, Any]) -> list[object]:
        context.set_trailing_metadata((("runtimestore-revision", "9"),))
        return []

    async def scenario(script: Script, store: AsyncRuntimeStoreClient) -> None:
        script.answer("LoadSessionSnapshot", nothing)

        assert await store.load_session_snapshot_with_revision(RUNTIME) == (None, 9)

    running(scenario)


def test_a_snapshot_that_does_not_match_its_digest_is_not_returned() -> None:
    async def scenario(script: Script, store: AsyncRuntimeStoreClient) -> None:
        described = pb.SessionSnapshotInfo(size_bytes=3, sha256=bytes(32))
        script.answer(
            "LoadSessionSnapshot",
            [pb.LoadSessionSnapshotResponse(info=described), pb.LoadSessionSnapshotResponse(chunk=b"one")],
        )

        with pytest.raises(StoredValueCorrupt, match="SHA-256"):
            await store.load_session_snapshot(RUNTIME)

    running(scenario)


def test_messages_beyond_grpc_s_own_limit_of_4_mib_pass_both_ways() -> None:
    big = "x" * (6 * MIB)

    async def echo(request: pb.PersistOpsLifecycleRequest, _context: object) -> pb.PersistOpsLifecycleResponse:
        return pb.PersistOpsLifecycleResponse(revision=len(request.snapshot.snapshot_json))

    async def scenario(script: Script, store: AsyncRuntimeStoreClient) -> None:
        script.answer("PersistOpsLifecycle", echo)
        script.answer(
            "LoadOpsLifecycle", pb.LoadOpsLifecycleResponse(snapshot=pb.PersistedOpsSnapshot(snapshot_json=big))
        )

        assert (await store.persist_ops_lifecycle(RUNTIME, big)).revision == 6 * MIB
        assert await store.load_ops_lifecycle(RUNTIME) == big

    running(scenario)


def test_the_limit_on_messages_is_the_client_s_setting_in_both_directions() -> None:
    big = "x" * MIB

    async def scenario(script: Script, store: AsyncRuntimeStoreClient) -> None:
        script.answer(
            "LoadOpsLifecycle", pb.LoadOpsLifecycleResponse(snapshot=pb.PersistedOpsSnapshot(snapshot_json=big))
        )
        for call in (store.persist_ops_lifecycle(RUNTIME, big), store.load_ops_lifecycle(RUNTIME)):
            with pytest.raises(CallFailed) as raised:
                await call
            assert raised.value.code is grpc.StatusCode.RESOURCE_EXHAUSTED

    assert running(scenario, max_message_bytes=MIB // 2).requests["PersistOpsLifecycle"] == []


def test_if_revision_missed_tells_where_the_runtime_is() -> None:
    async def scenario(script: Script, store: AsyncRuntimeStoreClient) -> None:
        missed = refusal(
            "REVISION_MISMATCH", grpc.StatusCode.ABORTED, metadata={"if_revision": "3", "current_revision": "4"}
        )
        script.answer("PersistInputState", missed)

        with pytest.raises(RevisionMismatch) as raised:
            await store.persist_input_state(RUNTIME, INPUT, if_revision=3)
        assert raised.value.current_revision == 4

    assert running(scenario).requests["PersistInputState"][0].if_revision == 3
