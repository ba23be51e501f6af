"""Few messages are received at once, the next wait for their turn, and nothing of a call stays when it is over."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import random
import time
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio
import pytest
from grpc_reflection.v1alpha import reflection_pb2

from runtimestore import RetryPolicy
from runtimestore.v1 import runtime_store_pb2 as pb
from runtimestore_server.interceptors import doors
from support.calls import Store, input_of
from support.clean_up import until
from support.database import held_commits
from support.documents import session
from support.garbage import SERVICE, unknown_field
from support.refusals import is_refusal, refused
from support.requests import WRITES, request_of
from support.server import in_process

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from runtimestore_server.app import Application

LONG_SECONDS = 1000.0
STALLED_SECONDS = 60.0
WAIT_SECONDS = 20
REFLECTION = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
ONCE = RetryPolicy(max_attempts=1)


def _stalled(channel: Any) -> Any:
    """A write whose message does not come."""
    return channel.stream_unary(f"{SERVICE}PersistInputState")(timeout=STALLED_SECONDS)


async def _in_turn(app: Application, *connections: Any) -> list[Any]:
    """Writes whose messages do not come, in this order."""
    stalled: list[Any] = []
    for connection in connections:
        stalled.append(_stalled(connection))
        await until(lambda: app._doors.writes.receiving.received == len(stalled))
    return stalled


async def _ended(*calls: Any) -> None:
    for call in calls:
        call.cancel()
    await asyncio.gather(*calls, return_exceptions=True)


@pytest.fixture
def no_end_of_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """No message takes too long."""
    monkeypatch.setattr(doors, "WRITES_PATIENCE_SECONDS", LONG_SECONDS)
    monkeypatch.setattr(doors, "WRITES_LONGEST_SECONDS", LONG_SECONDS)


@contextlib.asynccontextmanager
async def _connections(app: Application, count: int) -> AsyncIterator[list[Any]]:
    """Channels, each with a connection of its own."""
    async with contextlib.AsyncExitStack() as stack:
        yield [
            await stack.enter_async_context(
                grpc.aio.insecure_channel(app.address, [("grpc.use_local_subchannel_pool", 1)])
            )
            for _ in range(count)
        ]


@pytest.mark.usefixtures("no_end_of_patience")
async def test_writes_beyond_those_that_are_received_wait_for_their_turn_and_loads_do_not(runtime_id: str) -> None:
    async with (
        in_process("memory:", max_receiving_writes=2) as app,
        _connections(app, 2) as (one, another),
        Store(app.address, retry=ONCE) as store,
    ):
        receiving = app._doors.writes.receiving
        stalled = [_stalled(one), _stalled(another)]
        await until(lambda: receiving.received == 2)
        waiting = [asyncio.ensure_future(store.persist_input_state(runtime_id, input_of(str(n)))) for n in range(3)]
        await until(lambda: receiving.waiting == 3)
        assert await store.load_runtime_state(runtime_id) is None
        assert (await store.get_server_info()).commits.writes == 0
        assert not any(task.done() for task in waiting)

        # One that is given up makes room for all of them, one after the other; so does one that waits.
        await _ended(waiting[0])
        await until(lambda: receiving.waiting == 2)
        await _ended(stalled[0])
        async with asyncio.timeout(WAIT_SECONDS):
            assert sorted(commit.revision for commit in await asyncio.gather(*waiting[1:])) == [1, 2]
        await _ended(stalled[1])
        await until(lambda: not receiving.received)


@pytest.mark.usefixtures("no_end_of_patience")
async def test_what_is_received_makes_room_for_the_next_before_it_is_committed(runtime_id: str) -> None:
    async with in_process("memory:", max_receiving_writes=1) as app, Store(app.address, retry=ONCE) as store:
        with held_commits(app) as go_on:
            writes = [asyncio.ensure_future(store.persist_input_state(runtime_id, input_of(str(n)))) for n in range(5)]
            await until(lambda: app.store._committer.waiting_writes == 5)
            go_on.set()
            await asyncio.gather(*writes)


@pytest.mark.usefixtures("no_end_of_patience")
async def test_no_connection_has_more_than_half_of_the_places_so_that_the_next_need_not_wait(runtime_id: str) -> None:
    async with (
        in_process("memory:", max_receiving_writes=4) as app,
        _connections(app, 1) as (one,),
        Store(app.address, retry=ONCE) as store,
    ):
        receiving = app._doors.writes.receiving
        stalled = [_stalled(one) for _ in range(200)]
        await until(lambda: receiving.received == 2 and receiving.waiting == 198)

        async with asyncio.timeout(WAIT_SECONDS):
            for number in range(20):
                assert await store.persist_input_state(runtime_id, input_of(str(number))) == (number + 1, False)

        assert receiving.received == 2
        await _ended(*stalled)
        await until(lambda: not receiving.received and not receiving.waiting)


@pytest.mark.usefixtures("no_end_of_patience")
async def test_turns_go_round_the_connections(runtime_id: str) -> None:
    async with (
        in_process("memory:", max_receiving_writes=2) as app,
        _connections(app, 2) as (one, another),
        Store(app.address, retry=ONCE) as store,
    ):
        receiving = app._doors.writes.receiving
        stalled = [_stalled(one), _stalled(another)]
        await until(lambda: receiving.received == 2)
        stalled += [_stalled(one) for _ in range(50)]
        await until(lambda: receiving.waiting == 50)
        late = asyncio.ensure_future(store.persist_input_state(runtime_id, input_of("a")))
        await until(lambda: receiving.waiting == 51)

        await _ended(stalled.pop(1))  # its place goes to the next connection that has none
        async with asyncio.timeout(WAIT_SECONDS):
            assert await late == (1, False)
        await _ended(*stalled)


async def test_what_is_too_slow_is_refused_when_another_connection_has_no_place(
    runtime_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doors, "WRITES_PATIENCE_SECONDS", 0.2)
    monkeypatch.setattr(doors, "WRITES_LONGEST_SECONDS", LONG_SECONDS)
    async with (
        in_process("memory:", max_receiving_writes=4) as app,
        _connections(app, 2) as connections,
        Store(app.address, retry=ONCE) as store,
    ):
        receiving = app._doors.writes.receiving
        stalled = await _in_turn(app, *connections * 2)

        async with asyncio.timeout(WAIT_SECONDS):
            assert await store.persist_input_state(runtime_id, input_of("a")) == (1, False)

        # One was refused, the one that had begun first; the others, whom nobody waits for, are let be.
        found = await refused(stalled[0])
        is_refusal(found, grpc.StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED", "internal")
        assert found.metadata["waiting_to_be_received"] == "1"
        assert found.retry_delay_seconds
        await asyncio.sleep(0.5)
        assert receiving.received == 3
        assert not any(call.done() for call in stalled[1:])
        await _ended(*stalled)


async def test_no_message_takes_for_ever_while_others_wait_for_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doors, "WRITES_PATIENCE_SECONDS", 0.1)
    monkeypatch.setattr(doors, "WRITES_LONGEST_SECONDS", 0.3)
    async with (
        in_process("memory:", max_receiving_writes=2) as app,
        _connections(app, 2) as (one, another),
    ):
        receiving = app._doors.writes.receiving
        stalled = await _in_turn(app, one, another)

        async with asyncio.timeout(WAIT_SECONDS):
            # The first makes room, but not for a connection that has its share; the second does.
            await _request(another, "PersistInputState")
            assert {(await refused(call)).reason for call in stalled} == {"OVERLOADED"}
        await until(lambda: not receiving.received and not receiving.waiting)


async def test_whoever_keeps_nobody_waiting_is_let_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doors, "WRITES_PATIENCE_SECONDS", 0.1)
    monkeypatch.setattr(doors, "WRITES_LONGEST_SECONDS", 0.2)
    async with (
        in_process("memory:", max_receiving_writes=4) as app,
        _connections(app, 2) as (one, another),
    ):
        slow, *stalled = await _in_turn(app, one, another, another)

        async with asyncio.timeout(WAIT_SECONDS):
            await _request(another, "PersistInputState")  # waits for its own connection's share

        assert (await refused(stalled[0])).reason == "OVERLOADED"
        await slow.write(request_of("PersistInputState").SerializeToString())
        await slow.done_writing()
        assert pb.PersistInputStateResponse.FromString(await slow).revision
        await _ended(*stalled)


async def test_a_message_that_nobody_waits_for_may_take_as_long_as_it_likes(
    runtime_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doors, "WRITES_PATIENCE_SECONDS", 0.01)
    monkeypatch.setattr(doors, "WRITES_LONGEST_SECONDS", 0.01)
    async with (
        in_process("memory:", max_receiving_writes=2) as app,
        _connections(app, 1) as (channel,),
        Store(app.address, retry=ONCE) as store,
    ):
        slow = _stalled(channel)
        await until(lambda: app._doors.writes.receiving.received == 1)
        for number in range(20):
            await store.persist_input_state(runtime_id, input_of(str(number)))
            await asyncio.sleep(0.01)

        await slow.write(request_of("PersistInputState").SerializeToString())
        await slow.done_writing()
        assert pb.PersistInputStateResponse.FromString(await slow).revision == 1


@pytest.mark.usefixtures("no_end_of_patience")
async def test_callers_who_give_up_at_any_moment_leave_no_place_taken(realm: str, runtime_id: str) -> None:
    delta = pb.SessionDelta(session_snapshot=session("x" * 400_000))
    whole = request_of("CommitSessionSnapshot", realm=realm, session_delta=delta).SerializeToString()
    chance = random.Random(7)  # noqa: S311  (repeatable on purpose)
    async with (
        in_process("memory:", max_receiving_writes=2) as app,
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

        await until(lambda: not app._doors.writes.receiving.received and not app._doors.writes.receiving.waiting)
        assert await store.persist_input_state(runtime_id, input_of("a")) == (1, False)


@pytest.mark.usefixtures("no_end_of_patience")
async def test_writes_that_wait_to_be_received_are_bounded_like_all_that_wait(runtime_id: str) -> None:
    async with (
        in_process("memory:", max_receiving_writes=1, max_waiting_writes=2) as app,
        grpc.aio.insecure_channel(app.address) as channel,
        Store(app.address, retry=ONCE) as store,
    ):
        calls = [_stalled(channel) for _ in range(3)]
        await until(lambda: app._doors.writes.receiving.waiting == 2)

        found = await refused(_stalled(channel))

        is_refusal(found, grpc.StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED", "internal")
        assert found.metadata["waiting_writes"] == "2"
        assert found.retry_delay_seconds
        await _ended(*calls)
        await until(lambda: not app._doors.writes.receiving.waiting)
        assert await store.persist_input_state(runtime_id, input_of("a")) == (1, False)


@pytest.mark.usefixtures("no_end_of_patience")
async def test_a_write_whose_turn_comes_when_no_more_may_wait_is_refused_and_keeps_no_place(runtime_id: str) -> None:
    async with (
        in_process("memory:", max_receiving_writes=1, max_waiting_writes=1) as app,
        grpc.aio.insecure_channel(app.address) as channel,
        Store(app.address, retry=ONCE) as store,
    ):
        with held_commits(app) as go_on:
            first = _stalled(channel)
            await until(lambda: app._doors.writes.receiving.received == 1)
            second = _stalled(channel)
            await until(lambda: app._doors.writes.receiving.waiting == 1)
            # What fills the queue meanwhile came in another way than through the door.
            app.store._committer._max_waiting_writes = 0
            await _ended(first)

            is_refusal(await refused(second), grpc.StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED", "internal")
            app.store._committer._max_waiting_writes = 1
            go_on.set()
        assert await store.persist_input_state(runtime_id, input_of("a")) == (1, False)


@pytest.mark.usefixtures("no_end_of_patience")
async def test_a_write_that_waits_for_its_turn_when_the_server_ends_is_written() -> None:
    async with in_process("memory:", max_receiving_writes=1) as app, grpc.aio.insecure_channel(app.address) as channel:
        stalled = _stalled(channel)
        await until(lambda: app._doors.writes.receiving.received == 1)
        waiting = asyncio.ensure_future(_done(_request(channel, "PersistInputState")))
        await until(lambda: app._doors.writes.receiving.waiting == 1)
        draining = asyncio.ensure_future(app.drain(time.monotonic() + WAIT_SECONDS))
        await asyncio.sleep(0.5)
        assert not draining.done()
        await _ended(stalled)

        assert pb.PersistInputStateResponse.FromString(await waiting).revision == 1
        await draining


def _request(channel: Any, method: str, **changed: Any) -> Any:
    """A call whose request is bytes on the client's side, so that every message that is alive is the server's."""
    return channel.unary_unary(f"{SERVICE}{method}")(
        request_of(method, **changed).SerializeToString(), timeout=WAIT_SECONDS
    )


@contextlib.contextmanager
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
        self._kinds = (
            *(getattr(pb, f"{method}Request") for method in WRITES),
            reflection_pb2.ServerReflectionRequest,
        )
        self._before: list[object] = []
        self._before = self._found()

    def alive(self) -> list[str]:
        """The names of their messages."""
        return [type(found).__name__ for found in self._found()]

    def _found(self) -> list[object]:
        known = {id(found) for found in self._before}
        return [found for found in gc.get_objects() if isinstance(found, self._kinds) and id(found) not in known]


async def test_no_request_stays_in_memory_when_its_call_is_over(realm: str) -> None:
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
    async with in_process("memory:", max_waiting_bytes=1000) as app, grpc.aio.insecure_channel(app.address) as channel:
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


async def test_no_request_stays_in_memory_when_its_caller_gives_up(realm: str) -> None:
    async with in_process("memory:") as app, _connections(app, 1) as (channel,):
        with _no_garbage_collector():
            requests = _Requests()
            with held_commits(app) as go_on:
                given_up = _request(channel, "PersistInputState", realm=realm)
                await until(lambda: requests.alive() == ["PersistInputStateRequest"])
                await _ended(given_up)
                go_on.set()
            await until(lambda: not requests.alive())

            exchange = channel.stream_stream(REFLECTION)(timeout=WAIT_SECONDS)
            await exchange.write(unknown_field(9 * 1024 * 1024))  # it comes back, larger than this client reads
            with pytest.raises(grpc.aio.AioRpcError, match="larger than max"):
                await exchange.read()
            await until(lambda: not app._doors.exchanges.receiving.received)
            await until(lambda: not requests.alive())


async def test_a_call_that_its_caller_gives_up_is_not_told_as_refused(capsys: pytest.CaptureFixture[str]) -> None:
    async with in_process("memory:") as app, _connections(app, 1) as (channel,):
        for _ in range(20):
            given_up = _stalled(channel)
            await until(lambda: app._doors.writes.receiving.received == 1)
            await _ended(given_up)
            await until(lambda: not app._doors.writes.receiving.received)
        assert "refused" not in capsys.readouterr().out


async def _done(call: Any) -> Any:
    return await call
