"""A TCP proxy that loses replies: the server has handled the call, and its caller meets a connection that died."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    import random

FRAME_HEADER_BYTES = 9
HEADERS_FRAME = 0x1
"""RFC 9113, section 4.1 and 6.2: nine bytes of header; a reply begins with the first HEADERS frame of its stream."""


class ReplyProxy:
    """Between clients and a server on loopback: forwards every request, and loses a part of the replies.

    gRPC's server sends nothing of a unary reply before its handler is done, so what is lost here was handled. The
    connection is cut in both directions instead; a client with one call in flight loses that one reply.
    """

    def __init__(self, server_address: str, *, loss: float, chance: random.Random) -> None:
        host, _, port = server_address.rpartition(":")
        self._server = (host, int(port))
        self._loss = loss
        self._chance = chance
        self._listener: asyncio.Server
        self._connections: set[asyncio.Task[None]] = set()
        self.address = ""
        self.passed = 0
        self.lost = 0

    async def __aenter__(self) -> Self:
        self._listener = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self.address = f"127.0.0.1:{self._listener.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._listener.close()
        for connection in self._connections:
            connection.cancel()
        if self._connections:
            await asyncio.wait(self._connections)
        await self._listener.wait_closed()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            with contextlib.suppress(OSError):
                await self._between(reader, writer)
        except asyncio.CancelledError:
            pass  # the test is over
        finally:
            self._connections.discard(task)
            writer.transport.abort()

    async def _between(self, from_client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        from_server, to_server = await asyncio.open_connection(*self._server)
        both = [
            asyncio.create_task(_forward(from_client, to_server)),
            asyncio.create_task(self._replies(from_server, to_client)),
        ]
        try:
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for one in both:
                one.cancel()
            await asyncio.wait(both)
            to_server.transport.abort()

    async def _replies(self, from_server: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        """Frame by frame, until a reply is lost or the server hangs up."""
        begun: set[int] = set()
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                header = await from_server.readexactly(FRAME_HEADER_BYTES)
                body = await from_server.readexactly(int.from_bytes(header[:3], "big"))
                stream = int.from_bytes(header[5:], "big") & 0x7FFFFFFF
                if header[3] == HEADERS_FRAME and stream not in begun:
                    begun.add(stream)
                    if self._chance.random() < self._loss:
                        self.lost += 1
                        return
                    self.passed += 1
                to_client.write(header + body)
                await to_client.drain()


async def _forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while chunk := await reader.read(65536):
            writer.write(chunk)
            await writer.drain()
