"""Few messages are received at once, the next wait for their turn, and nothing of a call stays when it is over."""

from __future__ import annotations

import asyncio
import gc
import random
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio
import pytest

from runtimestore import RetryPolicy
from runtimestore.v1 import runtime_store_pb2 as pb
from runtimestore_server.interceptors import receiving
from support.calls import Store, input_of
from support.clean_up import until
from support.database import held_commits
from support.documents import session
from support.garbage import SERVICE
from support.refusals import is_refusal, refused
from support.requests import WRITES, request_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractAsyncContextManager

    from runtimestore_server.app import Application

    Serve = Callable[..., AbstractAsyncContextManager[Application]]

LONG_SECONDS = 1000.0
WAIT_SECONDS = 20
ONCE = RetryPolicy(max_attempts=1)


def _stalled(channel: Any) -> Any:
    """A write whose message does not come."""
    return channel.stream_unary(f"{SERVICE}PersistInputState")(timeout=LONG_SECONDS)


async def _ended(*calls: Any) -> None:
    for call in calls:
        call.cancel()
    await asyncio.gather(*calls, return_exceptions=True)


@pytest.fixture
def no_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing stops to count before it ends."""
    monkeypatch.setattr(receiving, "PATIENCE_SECONDS", LONG_SECONDS)
    monkeypatch.setattr(receiving, "STANDSTILL_SECONDS", LONG_SECONDS)


@pytest.mark.usefixtures("no_patience")
async def test_writes_beyond_those_that_are_received_wait_for_their_turn_and_loads_do_not(
    serve: Serve, runtime_id: str
) -> None:
    async with (
        serve(max_receiving_writes=2) as app,
        grpc.aio.insecure_channel(app.address) as channel,
        Store(app.address, retry=ONCE) as store,
    ):
        stalled = [_stalled(channel) for _ in range(2)]
        await until(lambda: len(app._receiving._since) == 2)
        waiting = [asyncio.ensure_future(store.persist_input_state(runtime_id, input_of(str(n)))) for n in range(3)]
        await until(lambda: app._receiving.waiting == 3)
        assert await store.load_runtime_state(runtime_id) is None
        assert (await store.get_server_info()).commits.writes == 0
        assert not any(task.done() for task in waiting)

        # One that is given up makes room for all of them, one after the other; so does one that waits.
        await _ended(waiting[0])
        await until(lambda: app._receiving.waiting == 2)
        await _ended(stalled[0])
        assert sorted(commit.revision for commit in await asyncio.gather(*waiting[1:])) == [1, 2]
        await _ended(stalled[1])
        await until(lambda: not app._receiving._since)


@pytest.mark.usefixtures("no_patience")
async def test_what_is_received_makes_room_for_the_next_before_it_is_committed(serve: Serve, runtime_id: str) -> None:
    async with serve(max_receiving_writes=1) as app, Store(app.address, retry=ONCE) as store:
        with held_commits(app) as go_on:
            writes = [asyncio.ensure_future(store.persist_input_state(runtime_id, input_of(str(n)))) for n in range(5)]
            await until(lambda: app.store._committer.waiting_writes == 5)
            go_on.set()
            await asyncio.gather(*writes)


async def test_whoever_is_slow_keeps_nobody_waiting_for_long(
    serve: Serve, runtime_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(receiving, "PATIENCE_SECONDS", 0.1)
    monkeypatch.setattr(receiving, "STANDSTILL_SECONDS", LONG_SECONDS)
    async with (
        serve(max_receiving_writes=2) as app,
        grpc.aio.insecure_channel(app.address) as channel,
        Store(app.address, retry=ONCE) as store,
    ):
        stalled = [_stalled(channel) for _ in range(9)]
        await until(lambda: app._receiving.waiting == 7)

        async with asyncio.timeout(WAIT_SECONDS):
            assert await store.persist_input_state(runtime_id, input_of("a")) == (1, False)

        await _ended(*stalled)


async def test_at_a_standstill_everybody_is_let_in_however_many_stand_before_them(
    serve: Serve, runtime_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(receiving, "PATIENCE_SECONDS", LONG_SECONDS)
    monkeypatch.setattr(receiving, "STANDSTILL_SECONDS", 0.3)
    async with (
        serve(max_receiving_writes=2) as app,
        grpc.aio.insecure_channel(app.address) as channel,
        Store(app.address, retry=ONCE) as store,
    ):
        for number in range(1, 3):  # and again, when the next ones stand still
            stalled = [_stalled(channel) for _ in range(200)]
            await until(lambda: app._receiving.waiting == 198)
            async with asyncio.timeout(WAIT_SECONDS):
                assert (await store.persist_input_state(runtime_id, input_of("a"))).revision == number
            await _ended(*stalled)
        await until(lambda: not app._receiving._since and not app._receiving.waiting)


@pytest.mark.usefixtures("no_patience")
async def test_callers_who_give_up_at_any_moment_leave_no_place_taken(
    serve: Serve, realm: str, runtime_id: str
) -> None:
    delta = pb.SessionDelta(session_snapshot=session("x" * 400_000))
    whole = request_of("CommitSessionSnapshot", realm=realm, session_delta=delta).SerializeToString()
    chance = random.Random(7)  # noqa: S311  (repeatable on purpose)
    async with (
        serve(max_receiving_writes=2) as app,
        grpc.aio.insecure_channel(app.address) as channel,
        Store(app.address, retry=ONCE) as store,
    ):
        given_up = 0
        for _ in range(5):
            calls: Any = [
                channel.unary_unary(f"{SERVICE}CommitSessionSnapshot")(whole, timeout=chance.uniform(0.001, 0.1))
                for _ in range(40)
            ]
            for call in chance.sample(calls, 20):
                await asyncio.sleep(chance.uniform(0, 0.002))
                call.cancel()
            ends = await asyncio.gather(*(_done(call) for call in calls), return_exceptions=True)
            given_up += sum(isinstance(end, BaseException) for end in ends)
        assert given_up

        await until(lambda: not app._receiving._since and not app._receiving.waiting)
        assert await store.persist_input_state(runtime_id, input_of("a")) == (1, False)


@pytest.mark.usefixtures("no_patience")
async def test_writes_that_wait_to_be_received_are_bounded_like_all_that_wait(serve: Serve, runtime_id: str) -> None:
    async with (
        serve(max_receiving_writes=1, max_waiting_writes=2) as app,
        grpc.aio.insecure_channel(app.address) as channel,
        Store(app.address, retry=ONCE) as store,
    ):
        calls = [_stalled(channel) for _ in range(3)]
        await until(lambda: app._receiving.waiting == 2)

        found = await refused(_stalled(channel))

        is_refusal(found, grpc.StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED", "internal")
        assert found.metadata["waiting_writes"] == "2"
        assert found.retry_delay_seconds
        await _ended(*calls)
        await until(lambda: not app._receiving.waiting)
        assert await store.persist_input_state(runtime_id, input_of("a")) == (1, False)


@pytest.mark.usefixtures("no_patience")
async def test_a_write_whose_turn_comes_when_no_more_may_wait_is_refused_and_keeps_no_place(
    serve: Serve, runtime_id: str
) -> None:
    async with (
        serve(max_receiving_writes=1, max_waiting_writes=1) as app,
        grpc.aio.insecure_channel(app.address) as channel,
        Store(app.address, retry=ONCE) as store,
    ):
        with held_commits(app) as go_on:
            first = _stalled(channel)
            await until(lambda: len(app._receiving._since) == 1)
            second = _stalled(channel)
            await until(lambda: app._receiving.waiting == 1)
            # What fills the queue meanwhile came in another way than through the door.
            app.store._committer._max_waiting_writes = 0
            await _ended(first)

            is_refusal(await refused(second), grpc.StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED", "internal")
            app.store._committer._max_waiting_writes = 1
            go_on.set()
        assert await store.persist_input_state(runtime_id, input_of("a")) == (1, False)


@pytest.mark.usefixtures("no_patience")
async def test_a_write_that_waits_for_its_turn_when_the_server_ends_is_answered(serve: Serve) -> None:
    async with serve(max_receiving_writes=1) as app, grpc.aio.insecure_channel(app.address) as channel:
        stalled = _stalled(channel)
        await until(lambda: len(app._receiving._since) == 1)
        waiting = asyncio.ensure_future(refused(_request(channel, "PersistInputState")))
        await until(lambda: app._receiving.waiting == 1)
        draining = asyncio.ensure_future(app.drain(time.monotonic() + WAIT_SECONDS))
        await asyncio.sleep(0.5)
        assert not draining.done()
        await _ended(stalled)

        is_refusal(await waiting, grpc.StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE", "write_failed")
        await draining


def _request(channel: Any, method: str, **changed: Any) -> Any:
    """A call whose request is bytes on the client's side, so that every message that is alive is the server's."""
    return channel.unary_unary(f"{SERVICE}{method}")(
        request_of(method, **changed).SerializeToString(), timeout=WAIT_SECONDS
    )


@contextmanager
def _no_garbage_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


class _Requests:
    """The requests that are alive, but for those that were before: other tests keep some for good."""

    def __init__(self) -> None:
        self._kinds = tuple(getattr(pb, f"{method}Request") for method in WRITES)
        self._before: list[object] = []
        self._before = self._found()

    def alive(self) -> list[str]:
        """The names of their messages."""
        return [type(found).__name__ for found in self._found()]

    def _found(self) -> list[object]:
        known = {id(found) for found in self._before}
        return [found for found in gc.get_objects() if isinstance(found, self._kinds) and id(found) not in known]


async def test_no_request_stays_in_memory_when_its_call_is_over(serve: Serve, realm: str) -> None:
    deep = session().replace(b'"messages": [', b'"messages": [1, ')
    refusals: dict[str, dict[str, Any]] = {
        "CommitSessionSnapshot": {"session_delta": pb.SessionDelta(session_snapshot=deep)},
        "PersistInputState": {"if_revision": 7},
        "PersistOpsLifecycle": {"snapshot": pb.PersistedOpsSnapshot(snapshot_json="{}")},
        "AtomicApply": {"session_store_key": "x"},
        "UpdateAuthOAuthFlowSnapshot": {"expected_version": 7},
        "CommitMachineLifecycle": {"fence": 7},
        "PersistAuthOAuthFlowSnapshot": {"request_id": "x"},
    }
    assert set(refusals) == set(WRITES)
    async with serve(max_waiting_bytes=1000) as app, grpc.aio.insecure_channel(app.address) as channel:
        with _no_garbage_collector():
            requests = _Requests()
            for method, changed in refusals.items():
                await refused(_request(channel, method, realm=realm, **changed))
                await until(lambda: not requests.alive())
                await _request(channel, method, realm=realm)
                await until(lambda: not requests.alive())
            with held_commits(app) as go_on:
                delta = pb.SessionDelta(session_snapshot=session("x" * 600))
                large = {"realm": realm, "session_delta": delta}
                waiting = asyncio.ensure_future(_done(_request(channel, "CommitSessionSnapshot", **large)))
                await until(lambda: app.store._committer.waiting_writes == 1)
                found = await refused(_request(channel, "CommitSessionSnapshot", **large))
                assert found.metadata["waiting_bytes"]  # they leave room at the door, but not for this one
                await until(lambda: requests.alive() == ["CommitSessionSnapshotRequest"])
                go_on.set()
                await waiting
            await until(lambda: not requests.alive())


async def _done(call: Any) -> Any:
    return await call
