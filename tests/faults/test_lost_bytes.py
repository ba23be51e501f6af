"""A message that cannot be read leaves nothing behind, counted in the bytes of the server's heap."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio

from support.checkers.refusals import refused
from support.generators.garbage import REFLECTION, SERVICE, WATCH
from support.generators.requests import ALL
from support.servers.heap import ProbedServer

if TYPE_CHECKING:
    from pathlib import Path

    from support.checkers.torture import Trial

AT_ONCE = 16
MESSAGE_BYTES = 1000
STREAMS = (WATCH, f"{SERVICE}LoadInputStates", f"{SERVICE}LoadSessionSnapshot")
METHODS = (WATCH, REFLECTION, *(f"{SERVICE}{method}" for method in ALL))

# What is in use settles within some ten thousand messages, and grows by 200 KiB until then: 200 bytes for each of a
# thousand, where a kilobyte lost in each shows, and ten for each of twenty thousand that come later, where 64 do.
LOST_A_MESSAGE_SHORT = 600
LOST_A_MESSAGE_LONG = 40


async def test_a_message_that_cannot_be_read_leaves_nothing_in_memory(trial: Trial, tmp_path: Path) -> None:
    before, counted = trial.rounds(short=500, long=12_000), trial.rounds(short=1_000, long=20_000)
    with ProbedServer("memory:", tmp_path / "heap") as server:
        # A pool of its own: other tests' channels must not be told of what comes here.
        own = [("grpc.use_local_subchannel_pool", 1)]
        async with grpc.aio.insecure_channel(server.address, options=own) as channel:
            await _send(channel, trial, before)
            first = await asyncio.to_thread(server.heap_bytes)
            await _send(channel, trial, counted)
            last = await asyncio.to_thread(server.heap_bytes)

    lost = (last - first) / counted
    trial.record(malformed_messages=counted, bytes_lost_a_message=round(lost))
    assert lost <= (LOST_A_MESSAGE_LONG if trial.long else LOST_A_MESSAGE_SHORT)


async def _send(channel: Any, trial: Trial, count: int) -> None:
    """So many messages, to every kind of method in turn; each must be refused in words."""
    left = iter(range(count))

    async def caller() -> None:
        for number in left:
            # No field begins like this.
            message = b"\xff" * 11 + trial.random.randbytes(MESSAGE_BYTES)
            found = await refused(_call(channel, METHODS[number % len(METHODS)], message))
            assert (found.code, found.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST")

    async with asyncio.TaskGroup() as group:
        for _ in range(AT_ONCE):
            group.create_task(caller())


def _call(channel: Any, method: str, message: bytes) -> Any:
    if method == REFLECTION:
        return channel.stream_stream(method)(iter([message]), timeout=60)
    if method in STREAMS:
        return channel.unary_stream(method)(message, timeout=60)
    return channel.unary_unary(method)(message, timeout=60)
