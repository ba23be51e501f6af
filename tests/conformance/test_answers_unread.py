"""Answers that nobody reads keep no other one out for long; who reads slowly is left alone."""

from __future__ import annotations

import asyncio
import contextlib
import weakref
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio
import pytest

from runtimestore import Overloaded, RetryPolicy
from runtimestore.v1 import runtime_store_admin_pb2 as admin_pb
from runtimestore.v1 import runtime_store_admin_pb2_grpc, runtime_store_pb2_grpc
from runtimestore.v1 import runtime_store_pb2 as pb
from runtimestore_server.budget import RetryPacing
from runtimestore_server.rpc import sending
from runtimestore_server.rpc.sending import Sending
from support.checkers.clean_up import until
from support.checkers.refusals import is_refusal, refused
from support.generators.calls import Store
from support.generators.documents import session
from support.servers.server import in_process

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from contextlib import AbstractAsyncContextManager

    from runtimestore_server.app import Application

    Wire = runtime_store_pb2_grpc.RuntimeStoreAsyncStub

MB = 1_000_000
STANDSTILL_SECONDS = 1.0
LONG_STANDSTILL_SECONDS = 5.0
BODY = session("x" * 20 * MB)
"""More than fits into the buffers of a connection whose windows do not grow."""


pytestmark = pytest.mark.usefixtures("runner")


@pytest.fixture(autouse=True)
def _never(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine an answer stands still for seconds: where that is not what a test is about, none is one."""
    monkeypatch.setattr(sending, "STANDSTILL_SECONDS", 3600.0)


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch, _never: None) -> Callable[[], None]:
    """From when it is called, answers that stand still are given up soon."""
    return lambda: monkeypatch.setattr(sending, "STANDSTILL_SECONDS", STANDSTILL_SECONDS)


@pytest.fixture
def late(monkeypatch: pytest.MonkeyPatch, _never: None) -> Callable[[], None]:
    """The same, but no answer that is read stands still for so long, however busy the machine is."""
    return lambda: monkeypatch.setattr(sending, "STANDSTILL_SECONDS", LONG_STANDSTILL_SECONDS)


@contextlib.asynccontextmanager
async def _filled(runtime_id: str, method: str = "LoadSessionSnapshot") -> AsyncIterator[tuple[Application, list[Any]]]:
    """A server whose budget three answers fill, of each of which some was read."""
    async with (
        in_process("memory:", max_waiting_bytes=3 * len(BODY) + 2 * MB) as app,
        grpc.aio.insecure_channel(app.address, options=[("grpc.http2.bdp_probe", 0)]) as channel,
    ):
        async with Store(app.address) as store:
            await store.commit_session_snapshot(runtime_id, BODY)
        if method == "LoadRuntime":
            admin: Any = runtime_store_admin_pb2_grpc.RuntimeStoreAdminStub(channel)
            unread = [admin.LoadRuntime(admin_pb.LoadRuntimeRequest(runtime_id=runtime_id)) for _ in range(3)]
        else:
            wire: Wire = runtime_store_pb2_grpc.RuntimeStoreStub(channel)
            unread = [wire.LoadSessionSnapshot(pb.LoadSessionSnapshotRequest(runtime_id=runtime_id)) for _ in range(3)]
        for call in unread:
            await call.read()
        assert app.sending.budget.bytes == 3 * len(BODY)
        yield app, unread
        for call in unread:
            call.cancel()
        await until(lambda: (app.sending.budget.bytes, app.sending.budget.items) == (0, 0))


@pytest.mark.parametrize("method", ["LoadSessionSnapshot", "LoadRuntime"])
async def test_callers_that_leave_their_answers_unread_do_not_turn_others_away_for_as_long_as_they_stay(
    runtime_id: str, method: str, soon: Callable[[], None]
) -> None:
    async with _filled(runtime_id, method) as (app, unread):
        async with Store(app.address, retry=RetryPolicy(max_attempts=1)) as store:
            with pytest.raises(Overloaded):
                await store.load_session_snapshot(runtime_id)
        soon()
        async with Store(app.address, timeout_seconds=20) as store:
            assert await store.load_session_snapshot(runtime_id) == BODY

        # No more was given up than had to be, and who is given up is told so, and when to come back.
        found = [await _ends(call) for call in unread]
        assert sorted(type(one).__name__ for one in found) == ["AioRpcError", "NoneType", "NoneType"]
        (given_up,) = [call for call, one in zip(unread, found, strict=True) if one is not None]
        told = await refused(_status(given_up))
        is_refusal(told, grpc.StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED", "internal")
        assert told.retry_delay_seconds is not None


async def _ends(call: Any) -> grpc.aio.AioRpcError | None:
    """Read what is left of an answer."""
    try:
        while await call.read() is not grpc.aio.EOF:
            pass
    except grpc.aio.AioRpcError as error:
        return error
    return None


async def _status(call: Any) -> None:
    await call.read()


async def test_an_answer_that_moves_however_slowly_is_sent_whole_though_others_find_no_room(
    runtime_id: str, late: Callable[[], None]
) -> None:
    late()
    once = RetryPolicy(max_attempts=1)
    async with _filled(runtime_id) as (app, unread), Store(app.address, retry=once) as store:

        async def slowly(call: Any) -> int:
            size_bytes = 0
            while (message := await call.read()) is not grpc.aio.EOF:
                size_bytes += len(message.chunk)
                await asyncio.sleep(LONG_STANDSTILL_SECONDS / 10)
            return size_bytes

        reading = [asyncio.ensure_future(slowly(call)) for call in unread]
        refusals = 0
        while not any(one.done() for one in reading):
            try:
                await store.load_session_snapshot(runtime_id)
            except Overloaded:
                refusals += 1
            await asyncio.sleep(LONG_STANDSTILL_SECONDS / 20)
        whole = len(BODY)
        assert all(size_bytes >= whole - 2 * 1024 * 1024 for size_bytes in await asyncio.gather(*reading))
        assert refusals > 5


async def test_an_answer_may_stand_still_for_as_long_as_nobody_needs_its_room(
    runtime_id: str, soon: Callable[[], None]
) -> None:
    soon()
    async with _filled(runtime_id) as (app, unread), Store(app.address) as store:
        await asyncio.sleep(2 * STANDSTILL_SECONDS)
        await store.load_runtime_state(runtime_id)
        assert [await _ends(call) for call in unread] == [None] * 3


async def test_of_an_answer_that_is_given_up_no_more_is_kept_than_the_message_on_its_way(
    soon: Callable[[], None],
) -> None:
    soon()

    class Kept:
        """What a handler reads from."""

    kept: list[weakref.ref[Kept]] = []
    message = pb.LoadSessionSnapshotResponse(chunk=b"x" * 1000)
    read = asyncio.Event()

    class Context:
        async def write(self, _message: object) -> None:
            await read.wait()

    async def answering(stored: Kept) -> AsyncIterator[Any]:
        budget(5000)
        for _ in range(5):
            assert stored
            yield message

    async def call() -> None:
        stored = Kept()
        kept.append(weakref.ref(stored))
        messages = answering(stored)
        del stored
        with pytest.raises(Overloaded):
            await budget.stream(messages, Context())  # type: ignore[arg-type]  # the one method that is used

    budget = Sending(6000, RetryPacing())
    calling = asyncio.create_task(call())
    await until(lambda: budget.budget.bytes == 5000)
    await asyncio.sleep(1.1 * STANDSTILL_SECONDS)
    await asyncio.create_task(_another(budget, 4000))
    await until(lambda: kept[0]() is None)
    await until(lambda: budget.budget.bytes == message.ByteSize())
    with pytest.raises(Overloaded):  # what is on its way counts still
        await asyncio.create_task(_another(budget, 5900))
    read.set()
    await calling
    await until(lambda: budget.budget.bytes == 0)


async def _another(budget: Sending, size_bytes: int) -> None:
    budget(size_bytes)


async def test_an_answer_that_is_given_up_for_its_own_rest_is_not_counted_with_it(soon: Callable[[], None]) -> None:
    """The rest is counted while the beginning stands still, which may be given up for it."""
    soon()
    message = pb.LoadSessionSnapshotResponse(chunk=b"x" * 1000)
    read = asyncio.Event()

    class Context:
        async def write(self, _message: object) -> None:
            await read.wait()

    async def answering() -> AsyncIterator[Any]:
        budget(5000)
        for _ in range(5):
            yield message

    async def call() -> None:
        with pytest.raises(Overloaded):
            await budget.stream(answering(), Context())  # type: ignore[arg-type]  # the one method that is used

    budget = Sending(6000, RetryPacing())
    calling = asyncio.create_task(call())
    await until(lambda: budget.budget.bytes == 5000)
    await asyncio.sleep(1.1 * STANDSTILL_SECONDS)
    with pytest.raises(Overloaded, match="stood still"):
        budget(3000, calling)
    assert budget.budget.bytes == message.ByteSize()
    read.set()
    await calling
    await until(lambda: budget.budget.bytes == 0)


async def test_an_answer_that_is_counted_in_parts_is_one_and_gives_all_of_them_back() -> None:
    sending = Sending(6000, RetryPacing())

    async def call() -> None:
        sending(1000)
        sending(2000)
        assert (sending.budget.items, sending.budget.bytes) == (1, 3000)

    await asyncio.create_task(call())
    await until(lambda: not sending._answers)
    assert (sending.budget.items, sending.budget.bytes) == (0, 0)


@pytest.mark.slow
async def test_bytes_that_are_being_sent_to_slow_readers_are_bounded(
    serve: Callable[..., AbstractAsyncContextManager[Application]], runtime_id: str
) -> None:
    body = session("x" * 60_000_000)  # more than fits into the buffers of a connection
    request = pb.LoadSessionSnapshotRequest(runtime_id=runtime_id)
    async with serve(max_waiting_bytes=100_000_000) as app, grpc.aio.insecure_channel(app.address) as channel:
        wire: Wire = runtime_store_pb2_grpc.RuntimeStoreStub(channel)
        async with Store(app.address) as store:
            await store.commit_session_snapshot(runtime_id, body)
            slow = wire.LoadSessionSnapshot(request)
            await slow.read()
            await until(lambda: app.sending.budget.bytes > 0)

            found = await refused(wire.LoadSessionSnapshot(request))
            is_refusal(found, grpc.StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED", "internal")
            assert found.metadata["sending_bytes"] == str(len(body))

            slow.cancel()
            await until(lambda: app.sending.budget.bytes == 0)
            assert await store.load_session_snapshot(runtime_id) == body
