"""A TCP proxy that loses replies: the server has handled the call, and its caller meets a connection that died."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from support.faults.tcp_proxy import between, listening

if TYPE_CHECKING:
    import asyncio
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
        self._server_address = server_address
        self._loss = loss
        self._chance = chance
        self._listening = listening(self._between)
        self.address = ""
        self.passed = 0
        self.lost = 0

    async def __aenter__(self) -> Self:
        self.address = await self._listening.__aenter__()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._listening.__aexit__(None, None, None)

    async def _between(self, from_client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        await between(from_client, to_client, self._server_address, self._replies)

    async def _replies(self, from_server: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        """Frame by frame, until a reply is lost or the server hangs up."""
        begun: set[int] = set()
        while True:
            header = await from_server.readexactly(FRAME_HEADER_BYTES)
            body = await from_server.readexactly(int.from_bytes(header[:3], "big"))
            stream = int.from_bytes(header[5:], "big") & 0x7FFFFFFF
            if header[3] == HEADERS_FRAME and stream not in begun:
                begun.add(stream)
                if self._chance.random() < self._loss:
                    self.lost += 1
                    raise ConnectionResetError
                self.passed += 1
            to_client.write(header + body)
            await to_client.drain()
