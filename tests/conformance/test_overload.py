"""A bounded queue answers OVERLOADED instead of growing, and loses nothing that it took in."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import threading
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio
import pytest

from runtimestore import DeadlineExceeded, Overloaded, RetryPolicy
from runtimestore.v1 import runtime_store_pb2 as pb
from runtimestore.v1 import runtime_store_pb2_grpc
from support.checkers.clean_up import until
from support.checkers.refusals import WireRefusal, is_refusal, refused
from support.faults.hostile_bytes import DATA, END_HEADERS, END_STREAM, HEADERS, PREFACE, SETTINGS, frame, header
from support.generators.calls import Store, input_of
from support.generators.documents import input_state, new_id, ops, session
from support.generators.garbage import SERVICE
from support.generators.requests import request_of
from support.servers.database import held_commits
from support.servers.server_process import ServerProcess

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

    from google.protobuf.message import Message

    from runtimestore_server.app import Application

    Wire = runtime_store_pb2_grpc.RuntimeStoreAsyncStub


LOAD = pb.LoadRuntimeStateRequest(runtime_id="rt:session:x")


AT_ITS_TURN_SECONDS = 1.0
"""Longer than what somebody is told who is refused alone, and much shorter than what `_many_refused` leads to."""


def _many_refused(app: Application) -> None:
    """From now on whoever is refused has many others before it."""
    for _ in range(1000):
        app.pacing.seconds()


async def _call(wire: Wire, method: str, **changed: Any) -> WireRefusal:
    return await refused(getattr(wire, method)(request_of(method, **changed)))


async def _done(call: Any) -> Any:
    return await call


async def test_writes_beyond_the_bound_are_overloaded_and_are_taken_in_later(
    serve: Callable[..., AbstractAsyncContextManager[Application]], runtime_id: str
) -> None:
    async with (
        serve(max_waiting_writes=4, max_batch_writes=2) as app,
        grpc.aio.insecure_channel(app.address) as channel,
    ):
        wire: Wire = runtime_store_pb2_grpc.RuntimeStoreStub(channel)

        def write(number: int) -> asyncio.Future[Any]:
            request = request_of("PersistInputState", runtime_id=f"{runtime_id}/{number}", request_id=new_id())
            return asyncio.ensure_future(_done(wire.PersistInputState(request)))

        with held_commits(app) as go_on:
            waiting = [write(number) for number in range(4)]
            await until(lambda: app.store._committer.waiting_writes == 4)
            _many_refused(app)
            found = await _call(wire, "PersistInputState", runtime_id=f"{runtime_id}/more")
            found_oauth = await _call(wire, "PersistAuthOAuthFlowSnapshot")
            go_on.set()
            await asyncio.gather(*waiting)

        for refusal in (found, found_oauth):
            is_refusal(refusal, grpc.StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED", "internal")
            assert refusal.retry_delay_seconds is not None
            assert refusal.retry_delay_seconds > AT_ITS_TURN_SECONDS
            assert refusal.metadata["waiting_writes"] == "4"
        async with Store(app.address) as store:
            assert await store.load_input_states_with_revision(f"{runtime_id}/more") == ([], 0)
            assert await store.persist_input_state(f"{runtime_id}/more", input_of("a")) == (1, False)


async def test_bytes_beyond_the_bound_are_overloaded_but_one_write_is_always_taken_in(
    serve: Callable[..., AbstractAsyncContextManager[Application]], runtime_id: str
) -> None:
    async with serve(max_waiting_bytes=10_000) as app, Store(app.address, retry=RetryPolicy(max_attempts=1)) as store:
        body = session("x" * 20_000)
        assert await store.commit_session_snapshot(runtime_id, body) == (1, False)
        with held_commits(app) as go_on:
            waiting = asyncio.create_task(store.commit_session_snapshot(runtime_id, body))
            await until(lambda: app.store.budget.bytes > 0)
            _many_refused(app)
            with pytest.raises(Overloaded) as found:
                await store.persist_input_state(runtime_id, input_of("a"))
            assert found.value.retry_after_seconds is not None
            assert found.value.retry_after_seconds > AT_ITS_TURN_SECONDS
            assert int(found.value.metadata["waiting_bytes"]) == len(body)
            go_on.set()
            assert await waiting == (2, False)


@contextlib.contextmanager
def _held_readers(app: Application) -> Iterator[None]:
    """Inside, every thread for loads and checks is busy; to be left before the test awaits what waits for one."""
    go_on = threading.Event()
    busy = [asyncio.ensure_future(app.workers.run(lambda: go_on.wait(30))) for _ in range(app.settings.reader_threads)]
    try:
        yield
    finally:
        go_on.set()
        del busy


async def test_that_every_thread_for_loads_is_busy_does_not_make_a_server_unready(
    serve: Callable[..., AbstractAsyncContextManager[Application]],
) -> None:
    async with serve(max_waiting_reads=2, reader_threads=2) as app:
        await until(lambda: app.workers.waiting == 0)
        with _held_readers(app):
            await until(lambda: app.workers.waiting == 2)
            await asyncio.wait_for(app._check(), 20)


async def test_thousands_of_calls_that_arrive_while_a_server_stands_still_are_all_answered(tmp_path: Path) -> None:
    once = RetryPolicy(max_attempts=1)
    with ServerProcess(f"sqlite:///{tmp_path}/store.db") as server:
        async with Store(server.address, retry=once) as store:
            await store.load_runtime_state("rt:session:x")
            server.send_signal(signal.SIGSTOP)
            calls = [asyncio.ensure_future(store.auth_authority_key()) for _ in range(3000)]
            await asyncio.sleep(1)  # they are in the server's socket then, or as many of them as it holds
            server.send_signal(signal.SIGCONT)
            answers = await asyncio.gather(*calls, return_exceptions=True)

    # Beyond 1,000 that wait gRPC would cancel them, which tells their callers nothing. Where its machine is busy,
    # more than 1,024 wait for their turn behind it: the others are told so, and when to come again.
    refused = [answer for answer in answers if not isinstance(answer, str)]
    assert all(isinstance(answer, Overloaded) and answer.retry_after_seconds for answer in refused), refused
    assert len(refused) < len(answers) - 1024


async def test_loads_beyond_the_bound_are_overloaded(
    serve: Callable[..., AbstractAsyncContextManager[Application]],
) -> None:
    async with (
        serve(max_waiting_reads=4, reader_threads=2) as app,
        grpc.aio.insecure_channel(app.address) as channel,
    ):
        wire: Wire = runtime_store_pb2_grpc.RuntimeStoreStub(channel)
        await until(lambda: app.workers.waiting == 0)  # what every server does at its start
        with _held_readers(app):
            waiting = [asyncio.ensure_future(_done(wire.LoadRuntimeState(LOAD))) for _ in range(2)]
            await until(lambda: app.workers.waiting == 4)
            _many_refused(app)
            found = await _call(wire, "LoadRuntimeState")
        await asyncio.gather(*waiting)

        is_refusal(found, grpc.StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED", "internal")
        assert found.metadata["waiting_reads"] == "4"
        assert found.retry_delay_seconds is not None
        assert found.retry_delay_seconds > AT_ITS_TURN_SECONDS
        await wire.LoadRuntimeState(LOAD)


async def test_large_requests_that_wait_to_be_checked_are_bounded_by_their_bytes(
    serve: Callable[..., AbstractAsyncContextManager[Application]], runtime_id: str
) -> None:
    body = session("x" * 600_000)
    once = RetryPolicy(max_attempts=1)
    async with serve(max_waiting_bytes=1_000_000, reader_threads=1) as app, Store(app.address, retry=once) as store:
        await until(lambda: app.workers.waiting == 0)
        with _held_readers(app):
            await until(lambda: app.workers.waiting == 1)
            waiting = asyncio.ensure_future(store.commit_session_snapshot(runtime_id, body))
            await until(lambda: app.workers.waiting == 2)
            _many_refused(app)
            with pytest.raises(Overloaded) as found:
                await store.commit_session_snapshot(f"{runtime_id}/more", body)
            assert int(found.value.metadata["waiting_bytes"]) > len(body)
            assert found.value.retry_after_seconds is not None
            assert found.value.retry_after_seconds > AT_ITS_TURN_SECONDS
            # Who gives up makes no room: the request is still there until a thread has looked at it.
            waiting.cancel()
            await asyncio.wait([waiting])
            await asyncio.sleep(0.1)
            with pytest.raises(Overloaded):
                await store.commit_session_snapshot(f"{runtime_id}/more", body)

        await until(lambda: app.workers.waiting == 0)
        assert await store.commit_session_snapshot(f"{runtime_id}/more", body) == (1, False)
        assert await store.load_session_snapshot(runtime_id) is None


@contextlib.contextmanager
def _unread(address: str, method: str, request: Message) -> Iterator[None]:
    """Inside, a caller has sent this request and lets nothing of the answer's message come."""
    message = request.SerializeToString()
    fields = {
        b":method": b"POST",
        b":scheme": b"http",
        b":path": f"{SERVICE}{method}".encode(),
        b":authority": b"x",
        b"content-type": b"application/grpc",
        b"te": b"trailers",
    }
    host, _, port = address.rpartition(":")
    with socket.create_connection((host, int(port))) as connection:
        no_window = b"\0\4" + bytes(4)  # SETTINGS_INITIAL_WINDOW_SIZE, RFC 9113, section 6.5.2
        connection.sendall(
            PREFACE
            + frame(SETTINGS, no_window)
            + frame(HEADERS, b"".join(header(*field) for field in fields.items()), flags=END_HEADERS, stream=1)
            + frame(DATA, b"\0" + len(message).to_bytes(4, "big") + message, flags=END_STREAM, stream=1)
        )
        yield


@pytest.mark.parametrize("method", ["LoadOpsLifecycle", "LoadInputState", "LoadAuthOAuthFlowSnapshot"])
async def test_an_answer_in_one_message_counts_until_its_caller_has_read_it(
    serve: Callable[..., AbstractAsyncContextManager[Application]], runtime_id: str, method: str
) -> None:
    text = "x" * 600_000
    state = input_state(text)
    of = {"runtime_id": runtime_id}
    async with serve(max_waiting_bytes=1_000_000) as app, grpc.aio.insecure_channel(app.address) as channel:
        async with Store(app.address) as store:
            await store.persist_input_state(runtime_id, state)
            await store.persist_ops_lifecycle(runtime_id, ops(text=text))
            await store.persist_auth_oauth_flow_snapshot(text.encode())
        request: Message = {
            "LoadOpsLifecycle": pb.LoadOpsLifecycleRequest(**of),
            "LoadInputState": pb.LoadInputStateRequest(**of, input_id=state.input_id),
            "LoadAuthOAuthFlowSnapshot": pb.LoadAuthOAuthFlowSnapshotRequest(),
        }[method]
        call = getattr(runtime_store_pb2_grpc.RuntimeStoreStub(channel), method)
        with _unread(app.address, method, request):
            await until(lambda: app.sending.budget.bytes > len(text) - 1)
            await asyncio.sleep(0.1)
            _many_refused(app)

            found = await refused(call(request))

            is_refusal(found, grpc.StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED", "internal")
            assert int(found.metadata["sending_bytes"]) >= len(text)
            assert found.retry_delay_seconds is not None
            assert found.retry_delay_seconds > AT_ITS_TURN_SECONDS
        await until(lambda: app.sending.budget.bytes == 0)
        assert len((await call(request)).SerializeToString()) > len(text)


async def test_a_client_waits_for_its_turn_at_an_overloaded_server(
    serve: Callable[..., AbstractAsyncContextManager[Application]], runtime_id: str
) -> None:
    patient = RetryPolicy(max_attempts=1000, initial_backoff_seconds=0.01, max_backoff_seconds=0.1)
    async with serve(max_waiting_writes=2) as app, Store(app.address, retry=patient) as store:
        commits = await asyncio.gather(*(store.persist_input_state(runtime_id, input_of(str(n))) for n in range(40)))

        assert sorted(commit.revision for commit in commits) == list(range(1, 41))


async def test_a_deadline_that_passes_while_a_write_waits_is_the_callers_alone(
    app: Application, client: Store, runtime_id: str
) -> None:
    with held_commits(app) as go_on:
        with pytest.raises(DeadlineExceeded) as found:
            await client.persist_input_state(runtime_id, input_of("a"), timeout_seconds=0.2)
        go_on.set()

    # The same id tells what became of it.
    again = await client.persist_input_state(runtime_id, input_of("a"), request_id=found.value.request_id)
    assert again.revision == 1
    assert await client.load_input_states_with_revision(runtime_id) == ([input_of("a")], 1)
