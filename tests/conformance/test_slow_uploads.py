"""A message that comes too slowly is refused when another connection waits for its place, and let be when none does."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import grpc
import grpc.aio

from runtimestore import RetryPolicy
from runtimestore.v1 import runtime_store_pb2 as pb
from runtimestore_server.rpc import admission
from support.checkers.clean_up import until
from support.checkers.refusals import is_refusal, refused
from support.faults.uploads import WAIT_SECONDS, connections, ended, sent, stalled, stalled_in_turn
from support.generators.calls import Store, input_of
from support.generators.requests import request_of
from support.servers.server import in_process

if TYPE_CHECKING:
    import pytest

LONG_SECONDS = 1000.0
ONCE = RetryPolicy(max_attempts=1)


async def test_what_is_too_slow_is_refused_when_another_connection_has_no_place(
    runtime_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(admission, "WRITES_PATIENCE_SECONDS", 0.2)
    monkeypatch.setattr(admission, "WRITES_LONGEST_SECONDS", LONG_SECONDS)
    async with (
        in_process("memory:", max_receiving_writes=4) as app,
        connections(app.address, 2) as channels,
        Store(app.address, retry=ONCE) as store,
    ):
        slots = app.limiters.writes.slots
        calls = await stalled_in_turn(app, *channels * 2)

        async with asyncio.timeout(WAIT_SECONDS):
            assert await store.persist_input_state(runtime_id, input_of("a")) == (1, False)

        # One was refused, the one that had begun first; the others, whom nobody waits for, are let be.
        found = await refused(calls[0])
        is_refusal(found, grpc.StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED", "internal")
        assert found.metadata["waiting_to_be_received"] == "1"
        assert found.retry_delay_seconds
        await asyncio.sleep(0.5)
        assert slots.received == 3
        assert not any(call.done() for call in calls[1:])
        await ended(*calls)


async def test_no_message_takes_for_ever_while_others_wait_for_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admission, "WRITES_PATIENCE_SECONDS", 0.1)
    monkeypatch.setattr(admission, "WRITES_LONGEST_SECONDS", 0.3)
    async with (
        in_process("memory:", max_receiving_writes=2) as app,
        connections(app.address, 2) as (one, another),
    ):
        slots = app.limiters.writes.slots
        calls = await stalled_in_turn(app, one, another)

        async with asyncio.timeout(WAIT_SECONDS):
            # The first makes room, but not for a connection that has its share; the second does.
            await sent(another, "PersistInputState")
            assert {(await refused(call)).reason for call in calls} == {"OVERLOADED"}
        await until(lambda: not slots.received and not slots.waiting)


async def test_whoever_keeps_nobody_waiting_is_let_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admission, "WRITES_PATIENCE_SECONDS", 0.1)
    monkeypatch.setattr(admission, "WRITES_LONGEST_SECONDS", 0.2)
    async with (
        in_process("memory:", max_receiving_writes=4) as app,
        connections(app.address, 2) as (one, another),
    ):
        slow, *calls = await stalled_in_turn(app, one, another, another)

        async with asyncio.timeout(WAIT_SECONDS):
            await sent(another, "PersistInputState")  # waits for its own connection's share

        assert (await refused(calls[0])).reason == "OVERLOADED"
        await slow.write(request_of("PersistInputState").SerializeToString())
        await slow.done_writing()
        assert pb.PersistInputStateResponse.FromString(await slow).revision
        await ended(*calls)


async def test_a_message_that_nobody_waits_for_may_take_as_long_as_it_likes(
    runtime_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(admission, "WRITES_PATIENCE_SECONDS", 0.01)
    monkeypatch.setattr(admission, "WRITES_LONGEST_SECONDS", 0.01)
    async with (
        in_process("memory:", max_receiving_writes=2) as app,
        connections(app.address, 1) as (channel,),
        Store(app.address, retry=ONCE) as store,
    ):
        slow = stalled(channel)
        await until(lambda: app.limiters.writes.slots.received == 1)
        for number in range(20):
            await store.persist_input_state(runtime_id, input_of(str(number)))
            await asyncio.sleep(0.01)

        await slow.write(request_of("PersistInputState").SerializeToString())
        await slow.done_writing()
        assert pb.PersistInputStateResponse.FromString(await slow).revision == 1
