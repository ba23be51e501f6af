"""A slow network between a client and a server on loopback: a TCP proxy that lets bytes through at a rate."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

PIECE_BYTES = 8192
QUEUED_PIECES = 128
"""What the network holds on the way, as the buffers of a real one do: 1 MiB."""


@contextlib.asynccontextmanager
async def slow_link(server_address: str, *, bytes_per_second: float) -> AsyncIterator[str]:
    """The address by which the server is reached; what it sends is slow, what it is sent is not."""
    host, _, port = server_address.rpartition(":")
    connections: set[asyncio.Task[None]] = set()

    async def between(from_client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        connections.add(task)
        from_server, to_server = await asyncio.open_connection(host, int(port))
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(_forward(from_client, to_server))
                group.create_task(_slowly(from_server, to_client, bytes_per_second))
        except* (OSError, asyncio.CancelledError):
            pass  # one side has gone, or the test is over
        finally:
            to_server.transport.abort()
            to_client.transport.abort()
            connections.discard(task)

    listener = await asyncio.start_server(between, "127.0.0.1", 0)
    try:
        yield f"127.0.0.1:{listener.sockets[0].getsockname()[1]}"
    finally:
        listener.close()
        for task in connections:
            task.cancel()
        if connections:
            await asyncio.wait(connections)
        await listener.wait_closed()


async def _forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while piece := await reader.read(PIECE_BYTES):
        writer.write(piece)
        await writer.drain()
    raise ConnectionResetError  # one side has gone: so does the other


async def _slowly(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, bytes_per_second: float) -> None:
    on_the_way: asyncio.Queue[bytes] = asyncio.Queue(QUEUED_PIECES)

    async def arrive() -> None:
        loop = asyncio.get_running_loop()
        free_at = loop.time()
        while True:
            piece = await on_the_way.get()
            free_at = max(free_at, loop.time()) + len(piece) / bytes_per_second
            await asyncio.sleep(free_at - loop.time())
            writer.write(piece)
            await writer.drain()

    async with asyncio.TaskGroup() as group:
        group.create_task(arrive())
        while piece := await reader.read(PIECE_BYTES):
            await on_the_way.put(piece)
        raise ConnectionResetError
