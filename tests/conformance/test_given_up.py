"""Of messages that are given up while they come nothing stays; their slots are free when gRPC has let go of them."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from runtimestore.errors import Overloaded
from runtimestore_server.budget import RetryPacing
from runtimestore_server.rpc import small_messages, upload_slots
from runtimestore_server.rpc.upload_slots import UploadSlots
from support.checkers.clean_up import until
from support.checkers.refusals import is_refusal, refused
from support.faults.uploads import REFLECTION, STALLED_SECONDS, connections, stalled
from support.generators.garbage import SERVICE, unknown_field
from support.generators.requests import request_of
from support.servers.heap_probe import in_use_bytes
from support.servers.server import in_process

if TYPE_CHECKING:
    from runtimestore_server.app import Application

MIB = 1024 * 1024
ROUNDS = 3
RECEIVING_SECONDS = 0.2
"""How long gRPC's own threads receive while the loop stands still, and learns nothing of it."""

CHECK = "/grpc.health.v1.Health/Check"
WRITE = f"{SERVICE}PersistInputState"
GIVEN_UP = Overloaded("given up by the test")


async def _give_up_while_it_comes(app: Application, channel: Any, method: str, message: bytes) -> None:
    """Send a message, and give its call up when gRPC has received it and nobody knows yet."""
    slots = app.limiters.of(method).slots
    streams = channel.stream_stream if method == REFLECTION else channel.stream_unary
    call = streams(method)(timeout=STALLED_SECONDS)
    await until(lambda: slots.received == 1)
    (task,) = slots._slots
    writing = asyncio.ensure_future(call.write(message))
    await asyncio.sleep(0)  # it is on its way
    slots.give_up(task, GIVEN_UP)
    assert slots.received == 1  # until gRPC has let go of it
    time.sleep(RECEIVING_SECONDS)  # noqa: ASYNC251  (the loop stands still on purpose)
    is_refusal(await refused(call), grpc.StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED", "internal")
    await asyncio.gather(writing, return_exceptions=True)
    await until(lambda: not slots.received)


@pytest.mark.parametrize("method", [CHECK, WRITE, REFLECTION])
async def test_of_messages_that_are_given_up_while_they_come_nothing_is_left(
    method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(small_messages, "MOST_GROWTH_BYTES", 1 << 40)  # nobody else gives up
    large = unknown_field(32 * MIB)
    async with in_process("memory:") as app, connections(app.address, 1) as (channel,):
        before = in_use_bytes()
        for _ in range(ROUNDS):
            await _give_up_while_it_comes(app, channel, method, large)
        assert in_use_bytes() - before < len(large)


async def test_a_write_that_comes_in_the_moment_in_which_it_is_given_up_does_not_land() -> None:
    request = request_of("PersistInputState").SerializeToString()
    async with in_process("memory:") as app, connections(app.address, 1) as (channel,):
        slots = app.limiters.writes.slots
        call = stalled(channel, WRITE)
        await until(lambda: slots.received == 1)
        task: Any = next(iter(slots._slots))
        writing = asyncio.ensure_future(call.write(request))
        while not task._fut_waiter.done():  # noqa: ASYNC110  (the message is there then, and its call about to go on)
            await asyncio.sleep(0)
        slots.give_up(task, GIVEN_UP)

        is_refusal(await refused(call), grpc.StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED", "internal")
        await asyncio.gather(writing, return_exceptions=True)
        await until(task.done)
        assert app.store.counters.writes == 0
        await channel.unary_unary(WRITE)(request)
        assert app.store.counters.writes == 1


async def test_a_caller_who_cannot_be_told_that_he_is_given_up_keeps_no_slot_for_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(upload_slots, "RELEASE_SECONDS", 0.1)
    told: list[Exception] = []
    slots = UploadSlots(at_once=1, patience_seconds=1000, longest_seconds=1000, pacing=RetryPacing())
    stands, waits = (asyncio.ensure_future(asyncio.sleep(1000)) for _ in range(2))
    await slots.begin(stands, "one")
    slots.receiving(stands, told.append)
    turn = asyncio.ensure_future(slots.begin(waits, "another"))

    slots.give_up(stands, GIVEN_UP)

    assert (told, slots.received, turn.done()) == ([GIVEN_UP], 1, False)
    assert await asyncio.wait_for(turn, 20)
    assert not stands.done()  # its message is gRPC's, which goes on with it
    slots.end(stands)
    assert slots.received == 1
    slots.end(waits)
    for task in (stands, waits):
        task.cancel()
    await asyncio.gather(stands, waits, return_exceptions=True)
