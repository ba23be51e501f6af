"""A TCP proxy that ends streams of HTTP/2 as proxies do: by a reset of any code, or by an end that comes too early."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from support.http2 import frame

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

DATA, HEADERS, RST_STREAM = 0, 1, 3
END_STREAM = 0x1
"""RFC 9113, sections 6.1, 6.2 and 6.4."""

CUT = -1
"""Stands for an error code where a stream is not reset, but ends without its trailers."""


class Resets:
    """What becomes of the next replies: how often one is ended, by which error code, after how many DATA frames."""

    def __init__(self, code: int, *, times: int, after_data_frames: int = 0) -> None:
        self.code = code
        self.left = times
        self.after_data_frames = after_data_frames

    def end(self, stream: int) -> bytes:
        """The frame that ends a stream."""
        if self.code == CUT:
            return frame(DATA, END_STREAM, stream, b"")
        return frame(RST_STREAM, 0, stream, self.code.to_bytes(4, "big"))


@contextlib.asynccontextmanager
async def resetting_proxy(server_address: str, resets: Resets) -> AsyncIterator[str]:
    """The address by which the server is reached; the server handles every call, whatever becomes of its reply."""
    host, _, port = server_address.rpartition(":")
    connections: set[asyncio.Task[None]] = set()

    async def between(from_client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        connections.add(task)
        try:
            from_server, to_server = await asyncio.open_connection(host, int(port))
            try:
                async with asyncio.TaskGroup() as group:
                    group.create_task(_forward(from_client, to_server))
                    group.create_task(_replies(from_server, to_client, resets))
            finally:
                to_server.transport.abort()
        except* (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # one side has gone, or the test is over
        finally:
            to_client.transport.abort()
            connections.discard(task)

    listener = await asyncio.start_server(between, "127.0.0.1", 0)
    try:
        yield f"127.0.0.1:{listener.sockets[0].getsockname()[1]}"
    finally:
        listener.close()
        await asyncio.sleep(0)  # who was let in a moment ago begins: what never began would close nothing
        for task in connections:
            task.cancel()
        if connections:
            await asyncio.wait(connections)
        await listener.wait_closed()


async def _forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while piece := await reader.read(65536):
        writer.write(piece)
        await writer.drain()
    raise ConnectionResetError  # one side has gone: so does the other


async def _replies(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, resets: Resets) -> None:
    """Frame by frame. What follows the end of a stream is forwarded still: it keeps both ends' headers in step."""
    data_frames: dict[int, int] = {}
    ended: set[int] = set()
    while True:
        header = await reader.readexactly(9)
        body = await reader.readexactly(int.from_bytes(header[:3], "big"))
        kind, stream = header[3], int.from_bytes(header[5:], "big")
        data_frames[stream] = data_frames.get(stream, 0) + (kind == DATA)
        now = kind in (DATA, HEADERS) and data_frames[stream] >= resets.after_data_frames
        cut_before_its_headers = resets.code == CUT and kind == HEADERS and not data_frames[stream]
        if stream and now and resets.left and stream not in ended and not cut_before_its_headers:
            ended.add(stream)
            resets.left -= 1
            writer.write(resets.end(stream))
        writer.write(header + body)
        await writer.drain()
