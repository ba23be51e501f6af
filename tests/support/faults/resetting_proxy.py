"""A TCP proxy that ends streams of HTTP/2 as proxies do: by a reset of any code, or by an end that comes too early."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from support.faults.http2 import frame
from support.faults.tcp_proxy import between, listening

if TYPE_CHECKING:
    import asyncio
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

    async def replies(from_server: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        await _replies(from_server, to_client, resets)

    async with listening(lambda reader, writer: between(reader, writer, server_address, replies)) as address:
        yield address


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
