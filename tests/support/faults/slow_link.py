"""A slow network between a client and a server on loopback: a TCP proxy that lets bytes through at a rate."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from support.faults.tcp_proxy import between, listening

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

PIECE_BYTES = 8192
QUEUED_PIECES = 128
"""What the network holds on the way, as the buffers of a real one do: 1 MiB."""


@contextlib.asynccontextmanager
async def slow_link(server_address: str, *, bytes_per_second: float) -> AsyncIterator[str]:
    """The address by which the server is reached; what it sends is slow, what it is sent is not."""

    async def replies(from_server: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        await _slowly(from_server, to_client, bytes_per_second)

    async with listening(lambda reader, writer: between(reader, writer, server_address, replies)) as address:
        yield address


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
