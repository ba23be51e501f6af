"""Few messages are received at once, the next wait for their turn, and nobody keeps the others out."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import grpc
import grpc.aio
import pytest

from runtimestore import RetryPolicy
from runtimestore.v1 import runtime_store_pb2 as pb
from runtimestore_server.rpc import admission
from runtimestore_server.rpc import call as call_module
from support.checkers.clean_up import until
from support.checkers.refusals import is_refusal, refused
from support.faults.uploads import WAIT_SECONDS, connections, done, ended, sent, stalled, stalled_in_turn
from support.generators.calls import Store, input_of
from support.generators.documents import session
from support.generators.garbage import SERVICE
from support.generators.requests import request_of
from support.servers.database import held_commits
from support.servers.server import drain, in_process

LONG_SECONDS = 1000.0
ONCE = RetryPolicy(max_attempts=1)


@pytest.fixture
def no_end_of_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """No message takes too long."""
    monkeypatch.setattr(admission, "WRITES_PATIENCE_SECONDS", LONG_SECONDS)
    monkeypatch.setattr(admission, "WRITES_LONGEST_SECONDS", LONG_SECONDS)


@pytest.mark.usefixtures("no_end_of_patience")
async def test_writes_beyond_those_that_are_received_wait_for_their_turn_and_loads_do_not(runtime_id: str) -> None:
    async with (
        in_process("memory:", max_receiving_writes=2) as app,
        connections(app.address, 2) as (one, another),
        Store(app.address, retry=ONCE) as store,
    ):
        slots = app.limiters.writes.slots
        calls = [stalled(one), stalled(another)]
        await until(lambda: slots.received == 2)
        waiting = [asyncio.ensure_future(store.persist_input_state(runtime_id, input_of(str(n)))) for n in range(3)]
        await until(lambda: slots.waiting == 3)
        assert await store.load_runtime_state(runtime_id) is None
        assert (await store.get_server_info()).commits.writes == 0
        assert not any(task.done() for task in waiting)

        # One that is given up makes room for all of them, one after the other; so does one that waits.
        await ended(waiting[0])
        await until(lambda: slots.waiting == 2)
        await ended(calls[0])
        async with asyncio.timeout(WAIT_SECONDS):
            assert sorted(commit.revision for commit in await asyncio.gather(*waiting[1:])) == [1, 2]
        await ended(calls[1])
        await until(lambda: not slots.received)


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
        connections(app.address, 1) as (one,),
        Store(app.address, retry=ONCE) as store,
    ):
        slots = app.limiters.writes.slots
        calls = [stalled(one) for _ in range(200)]
        await until(lambda: slots.received == 2 and slots.waiting == 198)

        async with asyncio.timeout(WAIT_SECONDS):
            for number in range(20):
                assert await store.persist_input_state(runtime_id, input_of(str(number))) == (number + 1, False)

        assert slots.received == 2
        await ended(*calls)
        await until(lambda: not slots.received and not slots.waiting)


@pytest.mark.usefixtures("no_end_of_patience")
async def test_turns_go_round_the_connections(runtime_id: str) -> None:
    async with (
        in_process("memory:", max_receiving_writes=2) as app,
        connections(app.address, 2) as (one, another),
        Store(app.address, retry=ONCE) as store,
    ):
        slots = app.limiters.writes.slots
        calls = [stalled(one), stalled(another)]
        await until(lambda: slots.received == 2)
        calls += [stalled(one) for _ in range(50)]
        await until(lambda: slots.waiting == 50)
        late = asyncio.ensure_future(store.persist_input_state(runtime_id, input_of("a")))
        await until(lambda: slots.waiting == 51)

        await ended(calls.pop(1))  # its place goes to the next connection that has none
        async with asyncio.timeout(WAIT_SECONDS):
            assert await late == (1, False)
        await ended(*calls)


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
            ends = await asyncio.gather(*(done(call) for call in calls), return_exceptions=True)
            given_up += sum(isinstance(end, BaseException) for end in ends)
        assert given_up

        await until(lambda: not app.limiters.writes.slots.received and not app.limiters.writes.slots.waiting)
        assert await store.persist_input_state(runtime_id, input_of("a")) == (1, False)


@pytest.mark.usefixtures("no_end_of_patience")
async def test_writes_that_wait_to_be_received_are_bounded_like_all_that_wait(runtime_id: str) -> None:
    async with (
        in_process("memory:", max_receiving_writes=1, max_waiting_writes=2) as app,
        grpc.aio.insecure_channel(app.address) as channel,
        Store(app.address, retry=ONCE) as store,
    ):
        calls = [stalled(channel) for _ in range(3)]
        await until(lambda: app.limiters.writes.slots.waiting == 2)

        found = await refused(stalled(channel))

        is_refusal(found, grpc.StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED", "internal")
        assert found.metadata["waiting_writes"] == "2"
        assert found.retry_delay_seconds
        await ended(*calls)
        await until(lambda: not app.limiters.writes.slots.waiting)
        assert await store.persist_input_state(runtime_id, input_of("a")) == (1, False)


@pytest.mark.usefixtures("no_end_of_patience")
async def test_those_who_wait_on_one_connection_have_no_other_refused(runtime_id: str) -> None:
    async with (
        in_process("memory:", max_receiving_writes=4, max_waiting_writes=5) as app,
        connections(app.address, 1) as (one,),
        Store(app.address, retry=ONCE) as store,
    ):
        calls = [stalled(one) for _ in range(7)]
        await until(lambda: app.limiters.writes.slots.waiting == 5)

        async with asyncio.timeout(WAIT_SECONDS):
            assert await store.persist_input_state(runtime_id, input_of("a")) == (1, False)

        await ended(*calls)


@pytest.mark.usefixtures("no_end_of_patience")
async def test_a_place_goes_on_though_the_one_whose_turn_it_is_gives_up_at_that_moment() -> None:
    async with in_process("memory:", max_receiving_writes=4) as app, connections(app.address, 2) as (one, another):
        slots = app.limiters.writes.slots
        received = await stalled_in_turn(app, one, one, another, another)
        waiting = [stalled(one) for _ in range(3)]
        await until(lambda: slots.waiting == 3)
        for number in range(2):
            waiting.append(stalled(another))
            await until(lambda: slots.waiting == 4 + number)  # noqa: B023  (awaited before the next round)

        await ended(received[2], waiting[3])
        await until(lambda: slots.received == 4 and slots.waiting == 3)

        await ended(*received, *waiting)


@pytest.mark.usefixtures("no_end_of_patience")
async def test_a_write_whose_turn_comes_when_no_more_may_wait_is_refused_and_keeps_no_place(runtime_id: str) -> None:
    async with (
        in_process("memory:", max_receiving_writes=1, max_waiting_writes=1) as app,
        grpc.aio.insecure_channel(app.address) as channel,
        Store(app.address, retry=ONCE) as store,
    ):
        with held_commits(app) as go_on:
            first = stalled(channel)
            await until(lambda: app.limiters.writes.slots.received == 1)
            second = stalled(channel)
            await until(lambda: app.limiters.writes.slots.waiting == 1)
            # What fills the queue meanwhile came in another way than through the slots.
            bound = app.store.budget.items_bound
            assert bound is not None
            bound.most = 0
            await ended(first)

            is_refusal(await refused(second), grpc.StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED", "internal")
            bound.most = 1
            go_on.set()
        assert await store.persist_input_state(runtime_id, input_of("a")) == (1, False)


@pytest.mark.usefixtures("no_end_of_patience")
async def test_a_write_that_waits_for_its_turn_when_the_server_ends_is_written() -> None:
    async with in_process("memory:", max_receiving_writes=1) as app, grpc.aio.insecure_channel(app.address) as channel:
        before_it = stalled(channel)
        await until(lambda: app.limiters.writes.slots.received == 1)
        waiting = asyncio.ensure_future(done(sent(channel, "PersistInputState")))
        await until(lambda: app.limiters.writes.slots.waiting == 1)
        draining = asyncio.ensure_future(drain(app, grace_seconds=WAIT_SECONDS))
        await asyncio.sleep(0.5)
        assert not draining.done()
        await ended(before_it)

        assert pb.PersistInputStateResponse.FromString(await waiting).revision == 1
        await draining


@pytest.mark.usefixtures("no_end_of_patience")
async def test_a_write_whose_turn_comes_in_the_moment_in_which_the_server_ends_is_refused_in_words() -> None:
    async with in_process("memory:", max_receiving_writes=1) as app, connections(app.address, 1) as (channel,):
        slots = app.limiters.writes.slots
        (before_it,) = await stalled_in_turn(app, channel)
        waiting = stalled(channel)
        await until(lambda: slots.waiting == 1)

        slots.end(next(iter(slots._slots)))  # gives the turn
        slots.abort()

        is_refusal(await refused(waiting), grpc.StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE", "write_failed")
        await ended(before_it)


async def test_a_call_that_its_caller_gives_up_is_not_told_as_refused(capsys: pytest.CaptureFixture[str]) -> None:
    async with in_process("memory:") as app, connections(app.address, 1) as (channel,):
        for _ in range(20):
            given_up = stalled(channel)
            await until(lambda: app.limiters.writes.slots.received == 1)
            await ended(given_up)
            await until(lambda: not app.limiters.writes.slots.received)
        assert "refused" not in capsys.readouterr().out


async def test_a_call_that_ends_without_a_message_keeps_nobody_from_being_received(
    monkeypatch: pytest.MonkeyPatch, runtime_id: str
) -> None:
    monkeypatch.setattr(call_module, "GIVEN_UP_SECONDS", 2 * WAIT_SECONDS)
    async with (
        in_process("memory:", max_receiving_writes=1) as app,
        connections(app.address, 1) as (channel,),
        Store(app.address, timeout_seconds=WAIT_SECONDS) as store,
    ):
        empty = stalled(channel)
        await until(lambda: app.calls.in_flight == 1)
        await empty.done_writing()

        assert await store.persist_input_state(runtime_id, input_of("a")) == (1, False)
        assert not empty.done()
        await ended(empty)
