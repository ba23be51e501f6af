"""The client for asyncio, against a scripted server on a real socket."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio
import pytest

from runtimestore import (
    AsyncRuntimeStoreClient,
    CallFailed,
    Commit,
    CommitOutcomeUnknown,
    DeadlineExceeded,
    InputState,
    OAuthCommit,
    Overloaded,
    RetryPolicy,
    RevisionMismatch,
    RuntimeStoreClient,
    SessionKeyMismatch,
    StoredValueCorrupt,
)
from runtimestore.v1 import runtime_store_pb2 as pb
from support.servers.scripted_store import Failure, Script, refusal, scripted_store

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

RUNTIME = "rt:session:1"
INPUT = InputState("0189f7a0-0000-7000-8000-000000000001", "{}")
GONE = Failure(grpc.StatusCode.UNAVAILABLE, "connection reset")
STOPPING = Failure(grpc.StatusCode.CANCELLED, "CANCELLED")
UNKNOWN = refusal("COMMIT_OUTCOME_UNKNOWN", grpc.StatusCode.UNAVAILABLE, retry_after_seconds=0.0)
OVERLOADED = refusal("OVERLOADED", grpc.StatusCode.RESOURCE_EXHAUSTED, retry_after_seconds=0.3)
CHANGED = refusal("OAUTH_FLOW_SNAPSHOT_CHANGED", grpc.StatusCode.ABORTED)
AT_ONCE = RetryPolicy(initial_backoff_seconds=0.0, max_backoff_seconds=0.0)
MIB = 1024 * 1024


def running(scenario: Callable[[Script, AsyncRuntimeStoreClient], Awaitable[None]], **settings: Any) -> Script:
    """Run a scenario with a script, and a client of the server that follows it."""
    script = Script()
    settings.setdefault("retry", AT_ONCE)
    settings.setdefault("timeout_seconds", 10.0)

    async def run() -> None:
        async with (
            scripted_store(script) as address,
            AsyncRuntimeStoreClient(address, **settings) as store,
        ):
            await scenario(script, store)

    asyncio.run(run())
    return script


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


def test_a_call_outlasts_a_restart_of_the_server(tmp_path: Path) -> None:
    async def scenario() -> None:
        script = Script()
        script.answer("PersistInputState", pb.PersistInputStateResponse(revision=1))
        retry = RetryPolicy(max_attempts=100, initial_backoff_seconds=0.05, max_backoff_seconds=0.05)
        address = f"unix:{tmp_path}/store"
        async with AsyncRuntimeStoreClient(address, retry=retry, timeout_seconds=20.0) as store:
            async with scripted_store(script, address):
                await store.persist_input_state(RUNTIME, INPUT)
            writing = asyncio.create_task(store.persist_input_state(RUNTIME, INPUT))
            await asyncio.sleep(0.2)
            assert not writing.done()
            script.answer("PersistInputState", pb.PersistInputStateResponse(revision=2))
            async with scripted_store(script, address):
                assert (await writing).revision == 2

    asyncio.run(scenario())


def test_a_server_that_never_was_there_is_told_as_unavailable(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with AsyncRuntimeStoreClient(f"unix:{tmp_path}/nobody", retry=RetryPolicy(max_attempts=3)) as store:
            with pytest.raises(CallFailed) as raised:
                await store.load_runtime_state(RUNTIME)
        assert raised.value.code is grpc.StatusCode.UNAVAILABLE

    asyncio.run(scenario())


def test_a_client_built_before_the_event_loop_runs_works_in_it() -> None:
    store = AsyncRuntimeStoreClient("127.0.0.1:1", retry=RetryPolicy(max_attempts=1))

    async def scenario() -> None:
        async with store:
            with pytest.raises(CallFailed):
                await store.load_runtime_state(RUNTIME)

    asyncio.run(scenario())


def test_closing_fails_the_calls_in_flight_and_does_not_cancel_who_waits_for_them() -> None:
    async def scenario(script: Script, store: AsyncRuntimeStoreClient) -> None:
        reached = asyncio.Event()

        async def arrive(_request: object, _context: object) -> None:
            reached.set()
            await asyncio.sleep(60)

        script.answer("PersistInputState", arrive)
        writing = asyncio.create_task(store.persist_input_state(RUNTIME, INPUT))
        await reached.wait()
        await store.close()

        with pytest.raises(CallFailed, match="closed"):
            await writing
        with pytest.raises(RuntimeError, match="closed"):
            await store.load_runtime_state(RUNTIME)

    running(scenario)


def test_a_cancelled_caller_is_cancelled_and_the_server_is_told() -> None:
    async def scenario(script: Script, store: AsyncRuntimeStoreClient) -> None:
        reached, told = asyncio.Event(), asyncio.Event()

        async def wait(_request: object, _context: object) -> None:
            reached.set()
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                told.set()
                raise

        script.answer("PersistInputState", wait)
        writing = asyncio.create_task(store.persist_input_state(RUNTIME, INPUT))
        await reached.wait()
        writing.cancel()

        with pytest.raises(asyncio.CancelledError):
            await writing
        await asyncio.wait_for(told.wait(), 5)

    running(scenario)


def test_a_channel_of_the_caller_s_is_used_and_left_open() -> None:
    async def scenario() -> None:
        async with scripted_store(Script()) as address, grpc.aio.insecure_channel(address) as channel:
            for _ in range(2):
                async with AsyncRuntimeStoreClient(channel=channel, timeout_seconds=10.0) as store:
                    assert await store.load_runtime_state(RUNTIME) is None

            def in_a_thread() -> None:
                with grpc.insecure_channel(address) as channel:
                    for _ in range(2):
                        with RuntimeStoreClient(channel=channel, timeout_seconds=10.0) as store:
                            assert store.load_runtime_state(RUNTIME) is None

            await asyncio.to_thread(in_a_thread)

    asyncio.run(scenario())


@pytest.mark.parametrize("transport", ["async", "sync"])
def test_a_stream_that_the_client_gives_up_is_not_sent_to_its_end(transport: str) -> None:
    async def scenario(script: Script, store: AsyncRuntimeStoreClient) -> None:
        told = asyncio.Event()

        async def begin(_request: object, _context: object) -> pb.LoadSessionSnapshotResponse:
            # The stream's own task, whatever it does as it is told: it may not have come to the last step by then.
            task = asyncio.current_task()
            assert task is not None
            task.add_done_callback(lambda _task: told.set())
            return twice

        async def wait(_request: object, _context: object) -> None:
            await asyncio.sleep(60)

        twice = pb.LoadSessionSnapshotResponse(info=pb.SessionSnapshotInfo(size_bytes=3))
        script.answer("LoadSessionSnapshot", [begin, twice, wait])
        if transport == "async":
            loading = store.load_session_snapshot(RUNTIME)
        else:
            blocking = RuntimeStoreClient(store._target)
            loading = asyncio.to_thread(blocking.load_session_snapshot, RUNTIME)
        with pytest.raises(CallFailed, match="twice") as raised:
            await loading
        await asyncio.wait_for(told.wait(), 5)
        # Until here the error, and with it the call, is alive: it was no garbage collector that ended the stream.
        assert raised.value.code is grpc.StatusCode.INTERNAL
        if transport == "sync":
            blocking.close()

    running(scenario)


def test_one_client_for_threads_serves_many_of_them() -> None:
    async def echo(request: pb.PersistOpsLifecycleRequest, _context: object) -> pb.PersistOpsLifecycleResponse:
        return pb.PersistOpsLifecycleResponse(revision=int(request.snapshot.snapshot_json))

    async def scenario() -> None:
        script = Script()
        script.answer("PersistOpsLifecycle", *[GONE] * 8, *[echo] * 80)
        async with scripted_store(script) as address:
            with RuntimeStoreClient(address, retry=RetryPolicy(max_attempts=20), timeout_seconds=20.0) as store:

                def write(thread: int) -> list[int]:
                    numbers = range(thread * 10, thread * 10 + 10)
                    return [store.persist_ops_lifecycle(RUNTIME, str(number)).revision for number in numbers]

                answers = await asyncio.gather(*(asyncio.to_thread(write, thread) for thread in range(8)))

        assert [number for numbers in answers for number in numbers] == list(range(80))
        assert len({request.request_id for request in script.requests["PersistOpsLifecycle"]}) == 80

    asyncio.run(scenario())


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
