"""A TCP proxy between a server and its Postgres that reads the protocol, and cuts or holds connections at COMMIT."""

from __future__ import annotations

import asyncio
import contextlib
import enum
from collections import Counter, deque
from pathlib import Path
from typing import TYPE_CHECKING, Self

from sqlalchemy.engine import make_url

from support.faults.tcp_proxy import closed

if TYPE_CHECKING:
    from types import TracebackType

PIECE_BYTES = 64 * 1024


class Fate(enum.Enum):
    """What becomes of a COMMIT."""

    CUT_BEFORE = "cut before Postgres saw it"
    CUT_AT_ONCE = "sent, and cut while Postgres works on it"
    CUT_AFTER = "cut when Postgres had answered it"
    HOLD = "answered by Postgres, but the answer is held until it is released"
    GO_ON = "passed on"


class PostgresWire:
    """A proxy in front of the Postgres of `database_url`; `url` names the same database through it."""

    def __init__(self, database_url: str) -> None:
        self._real = make_url(database_url)
        self.url = ""
        self.fates: deque[Fate] = deque()
        """What becomes of the next COMMITs, in their order; the rest is passed on."""
        self.met: Counter[Fate] = Counter()
        """How many COMMITs met which fate."""
        self.away_after_cut = False
        """Whether a cut takes the way to Postgres along: nobody connects any more until `come_back`."""
        self.away = False
        self.released = asyncio.Event()
        """Set it, and answers that are held go out."""
        self._server: asyncio.Server
        self._connections: set[_Connection] = set()

    @property
    def cuts(self) -> int:
        """How many connections were cut at a COMMIT."""
        return self.met[Fate.CUT_BEFORE] + self.met[Fate.CUT_AT_ONCE] + self.met[Fate.CUT_AFTER]

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        port = self._server.sockets[0].getsockname()[1]
        plain = {"sslmode": "disable", "gssencmode": "disable"}
        self.url = self._real.set(host="127.0.0.1", port=port, query=plain).render_as_string(hide_password=False)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.away = True
        await closed(self._server)
        self.cut_all()
        while self._connections:  # noqa: ASYNC110  (each ends by itself now; no event tells of the last)
            await asyncio.sleep(0.005)

    def fate(self) -> Fate:
        """What becomes of the COMMIT at hand."""
        found = self.fates.popleft() if self.fates else Fate.GO_ON
        self.met[found] += 1
        if self.away_after_cut and found not in (Fate.GO_ON, Fate.HOLD):
            self.away = True
        return found

    def come_back(self) -> None:
        """Let everybody connect again, and pass everything on."""
        self.fates.clear()
        self.away_after_cut = self.away = False

    def cut_all(self) -> None:
        """End every connection that is open now, idle ones in the server's pools too."""
        for connection in self._connections:
            connection.cut()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.away:
            writer.transport.abort()
            return
        connection = _Connection(self, reader, writer)
        self._connections.add(connection)
        try:
            await connection.serve(await self._connect())
        finally:
            self._connections.discard(connection)

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        host = self._real.host or str(self._real.query.get("host", "127.0.0.1"))
        port = int(self._real.port or str(self._real.query.get("port", 5432)))
        if host.startswith("/"):
            return await asyncio.open_unix_connection(Path(host) / f".s.PGSQL.{port}")
        return await asyncio.open_connection(host, port)


class _Connection:
    """One connection of a client, and its own to Postgres."""

    def __init__(self, wire: PostgresWire, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._wire = wire
        self._reader = reader
        self._writer = writer
        self._upstream: asyncio.StreamWriter | None = None
        self._fate = Fate.GO_ON
        self._held_back = b""
        """A COMMIT in a pipeline, message by message, until the one that ends the pipeline comes."""

    def cut(self) -> None:
        """End both sides at once, whatever is under way."""
        self._writer.transport.abort()
        if self._upstream:
            self._upstream.transport.abort()

    async def serve(self, upstream: tuple[asyncio.StreamReader, asyncio.StreamWriter]) -> None:
        answers, self._upstream = upstream
        pumps = [asyncio.create_task(self._requests(self._upstream)), asyncio.create_task(self._answers(answers))]
        await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        self.cut()
        for pump in pumps:
            pump.cancel()
        await asyncio.wait(pumps)

    async def _requests(self, upstream: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            length = await self._reader.readexactly(4)  # the startup message has no type
            upstream.write(length + await self._reader.readexactly(int.from_bytes(length) - 4))
            while True:
                head = await self._reader.readexactly(5)
                body = await self._reader.readexactly(int.from_bytes(head[1:]) - 4)
                if self._held_back or (head[:1] == b"P" and body.split(b"\0")[1].upper() == b"COMMIT"):
                    self._held_back += head + body
                    if head[:1] != b"S":
                        continue
                    self._fate = self._wire.fate()
                elif head[:1] == b"Q" and body.upper().startswith(b"COMMIT"):
                    self._fate = self._wire.fate()
                if self._fate is Fate.CUT_BEFORE:
                    return
                upstream.write(self._held_back or head + body)
                self._held_back = b""
                if self._fate is Fate.CUT_AT_ONCE:
                    upstream.close()  # what was written goes out first
                    self._upstream = None
                    return
                await upstream.drain()

    async def _answers(self, answers: asyncio.StreamReader) -> None:
        with contextlib.suppress(ConnectionError):
            while piece := await answers.read(PIECE_BYTES):
                if self._fate is Fate.CUT_AFTER:
                    return
                if self._fate is Fate.HOLD:
                    await self._wire.released.wait()
                self._writer.write(piece)
                await self._writer.drain()
