r"""Serves again on the same address when gRPC stops by itself, as it does at a path that is no UTF-8.

**The defect.** The loop in which a `grpc.aio` server accepts calls decodes the path of each as UTF-8 and does not catch
the error: one call ends it, and every call that is open, for good. The process lives on and listens no more; nothing
tells of it, not even `wait_for_termination`.

The file of a Unix socket may be removed under a server that goes on, and then nobody finds it either: that too is seen
here, and a new server listens beside the former one, which stops when its calls are over.

**Upstream.** No issue is known (https://github.com/grpc/grpc/issues/25400 is the same error where it ends one call
only). To see it, send to a running server over a socket, with the header fields of any call beside the path::

    PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes.fromhex("000000040000000000")
    fields = {b":method": b"POST", b":scheme": b"http", b":path": b"/\xff", b":authority": b"x",
              b"content-type": b"application/grpc", b"te": b"trailers"}
    block = b"".join(b"\0" + bytes([len(k)]) + k + bytes([len(v)]) + v for k, v in fields.items())
    connection.sendall(PREFACE + len(block).to_bytes(3, "big") + b"\1\4" + (1).to_bytes(4, "big") + block)
    ...  # from now on every call to this server fails: UNAVAILABLE, connection refused

**Held by** `tests/faults/test_serving_on.py` and `test_shutdown_while_serving_on.py`.

**May go** when those pass with a plain `await server.start()`.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING

import structlog

from runtimestore_server.rpc.workarounds.waiting_calls import keep_waiting_calls
from runtimestore_server.supervision import stopped

if TYPE_CHECKING:
    from collections.abc import Callable

    import grpc.aio

    from runtimestore_server.rpc.workarounds.socket_file import SocketFile
    from runtimestore_server.supervision import Supervision

_log = structlog.get_logger(__name__)

AGAIN_SECONDS = 0.1
"""How long a server that could not listen again on its address waits before the next try."""

LOOK_SECONDS = 0.2
"""How often it is looked whether the file of a socket is still there."""

PATIENCE_SECONDS = 5.0
"""How long it is tried before that counts as a failure; a few of them, one upon the other, end the process."""

FORMER_SECONDS = 60.0
"""How long the calls of a server whose socket file is gone may go on, as long as the slowest message of a write. Its
connections are told at once to come anew, and so one that is looked for in vain again and again holds no more than
the calls of that time."""


class ServingOn:
    """A gRPC server that is started, and started anew when it stops by itself.

    Args:
        anew: makes a server that listens on the same address and is not started; RuntimeError if it cannot listen.
        stopped: told each time one has stopped by itself: nothing more comes of what it was receiving.
        supervision: begins the watch over it anew, should that end by an error, and ends the process if it does not
            come to listen.
    """

    def __init__(
        self, anew: Callable[[], grpc.aio.Server], stopped: Callable[[], None], supervision: Supervision
    ) -> None:
        self._supervision = supervision
        self._anew = anew
        self._stopped = stopped
        self._server: grpc.aio.Server | None = None
        self._former: dict[asyncio.Task[None], grpc.aio.Server] = {}
        """The servers that nobody finds any more, by the task that stops each."""
        self._accepting: list[asyncio.Task[None]] = []
        self._watching: asyncio.Task[None] | None = None

    async def start(self, server: grpc.aio.Server, *, address: str, socket: SocketFile | None = None) -> None:
        """Start a server that listens, on the file of a socket or elsewhere."""
        keep_waiting_calls(asyncio.get_running_loop())
        await self._start(server)
        self._watching = self._supervision.task("serve-on", lambda: self._serve_on(address, socket))

    async def end(self) -> None:
        """Serve on as it is, but start nothing anew."""
        await stopped(self._watching)

    async def stop(self, grace_seconds: float) -> None:
        """Stop the server that serves now, and those that are being stopped already."""
        former = dict(self._former)
        serving = [*former.values()] if self._server is None else [*former.values(), self._server]
        await asyncio.gather(*(server.stop(grace_seconds) for server in serving))
        await asyncio.gather(*former)

    async def _serve_on(self, address: str, socket: SocketFile | None) -> None:
        while self._accepting:
            _, going_on = await asyncio.wait(self._accepting, timeout=None if socket is None else LOOK_SECONDS)
            if going_on:
                if socket is not None and socket.gone:
                    _log.error("the socket file is gone, and is made again", address=address)
                    await self._listen_beside()
                continue
            for task in self._accepting:
                task.exception()  # looked at, so that nobody logs it with what was sent
            _log.error("gRPC stopped serving by itself and is started again", address=address)
            self._stopped()
            await self._start(await self._listening())

    async def _listen_beside(self) -> None:
        """Start a server more, and let the one that nobody finds any more bring its calls to their end."""
        server = await self._listening()
        former, accepting = self._server, self._accepting
        await self._start(server)
        if former is None:
            return
        for task in accepting:
            task.add_done_callback(self._former_ended)
        stopping = asyncio.get_running_loop().create_task(former.stop(FORMER_SECONDS))
        self._former[stopping] = former
        stopping.add_done_callback(self._former.pop)

    def _former_ended(self, accepting: asyncio.Task[None]) -> None:
        """Tell it if a server stopped by itself while it was being stopped: nothing is to be started for it."""
        if not accepting.cancelled() and accepting.exception() is not None:
            self._stopped()

    async def _listening(self) -> grpc.aio.Server:
        """Return a new server on the same address, once that can be had.

        Raises:
            RuntimeError: it cannot, for PATIENCE_SECONDS.
        """
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                return self._anew()
            except RuntimeError:
                if time.monotonic() > deadline:
                    raise
            await asyncio.sleep(AGAIN_SECONDS)

    async def _start(self, server: grpc.aio.Server) -> None:
        """Start a server, and know the task in which it accepts calls: gRPC tells nobody at once when that fails."""
        before = asyncio.all_tasks()
        self._server = server
        # Cut short, gRPC's start would end in an error, and its server with it. Whole, what ends us can stop it.
        try:
            await asyncio.shield(server.start())
        except Exception:
            with contextlib.suppress(Exception):
                await server.stop(0)  # it would keep the address from the next one
            raise
        self._accepting = [
            task
            for task in asyncio.all_tasks() - before
            if getattr(task.get_coro(), "__qualname__", "") == "AioServer._server_main_loop"
        ]
