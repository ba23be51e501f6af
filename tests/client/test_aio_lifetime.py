"""The client for asyncio over its life: servers that come and go, loops, callers who give up, and its end."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import grpc
import grpc.aio
import pytest

from runtimestore import AsyncRuntimeStoreClient, CallFailed, RetryPolicy, RuntimeStoreClient
from runtimestore.v1 import runtime_store_pb2 as pb
from support.generators.arguments import INPUT, RUNTIME
from support.servers.scripted_store import GONE, Script, running, scripted_store

if TYPE_CHECKING:
    from pathlib import Path


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
