"""What the TCP proxies of the tests share: a listener on loopback whose every connection ends with the test."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine

    Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Coroutine[Any, Any, None]]

PIECE_BYTES = 65536
TURNS_UNTIL_SERVED = 5
"""How many turns of the loop asyncio takes at most from accepting a connection to the first step of who serves it."""


@contextlib.asynccontextmanager
async def listening(serve: Serve, *, port: int = 0) -> AsyncIterator[str]:
    """The address of a listener that gives each connection to `serve`; at the end it ends them all."""
    connections: set[asyncio.Task[None]] = set()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        connections.add(task)
        try:
            await serve(reader, writer)
        except* (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # one side has gone, or the test is over
        finally:
            writer.transport.abort()
            connections.discard(task)

    listener = await asyncio.start_server(connected, "127.0.0.1", port)
    try:
        yield f"127.0.0.1:{listener.sockets[0].getsockname()[1]}"
    finally:
        await closed(listener)
        for task in connections:
            task.cancel()
        if connections:
            await asyncio.wait(connections)


async def closed(listener: asyncio.Server) -> None:
    """Close a listener, and wait until whoever it has let in is served: what never begins would close nothing."""
    listener.close()
    for _ in range(TURNS_UNTIL_SERVED):
        await asyncio.sleep(0)


async def between(
    from_client: asyncio.StreamReader, to_client: asyncio.StreamWriter, server_address: str, replies: Serve
) -> None:
    """Forward what a client sends to a server, and let `replies` send what the server answers, until one side ends."""
    host, _, port = server_address.rpartition(":")
    from_server, to_server = await asyncio.open_connection(host, int(port))
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(_forward(from_client, to_server))
            group.create_task(replies(from_server, to_client))
    finally:
        to_server.transport.abort()


async def _forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while piece := await reader.read(PIECE_BYTES):
        writer.write(piece)
        await writer.drain()
    raise ConnectionResetError  # one side has gone: so does the other
