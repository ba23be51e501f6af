"""Calls whose messages do not come, or come when a test wants them, over connections of their own."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

import grpc.aio

from support.checkers.clean_up import until
from support.generators.garbage import SERVICE
from support.generators.requests import request_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from runtimestore_server.app import Application

STALLED_SECONDS = 60.0
"""After this a message that does not come is given up, so that no test hangs."""

WAIT_SECONDS = 20
"""How long anything that must happen may take."""

REFLECTION = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"


@contextlib.asynccontextmanager
async def connections(address: str, count: int, **options: Any) -> AsyncIterator[list[Any]]:
    """Channels, each with a connection of its own."""
    async with contextlib.AsyncExitStack() as stack:
        yield [
            await stack.enter_async_context(
                grpc.aio.insecure_channel(address, [("grpc.use_local_subchannel_pool", 1)], **options)
            )
            for _ in range(count)
        ]


def stalled(channel: Any, path: str = f"{SERVICE}PersistInputState") -> Any:
    """A call whose message does not come, unless the test writes it."""
    return channel.stream_unary(path)(timeout=STALLED_SECONDS)


async def stalled_in_turn(app: Application, *channels: Any) -> list[Any]:
    """Writes whose messages do not come, in this order."""
    calls: list[Any] = []
    for channel in channels:
        calls.append(stalled(channel))
        await until(lambda: app.limiters.writes.slots.received == len(calls))
    return calls


async def ended(*calls: Any) -> None:
    """Give calls up, and wait until they are over."""
    for call in calls:
        call.cancel()
    await asyncio.gather(*calls, return_exceptions=True)


def sent(channel: Any, method: str, **changed: Any) -> Any:
    """A good call whose request is bytes on the client's side, so that every message that is alive is the server's."""
    return channel.unary_unary(f"{SERVICE}{method}")(
        request_of(method, **changed).SerializeToString(), timeout=WAIT_SECONDS
    )


async def done(call: Any) -> Any:
    """The answer to a call, as a coroutine."""
    return await call
