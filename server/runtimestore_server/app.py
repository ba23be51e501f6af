"""The composition root: settings → database → store → services → grpc.aio.server, and the way back down."""

from __future__ import annotations

import asyncio
import socket
import time
from typing import TYPE_CHECKING, Self

import grpc.aio
import structlog
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from runtimestore.v1 import (
    runtime_store_admin_pb2,
    runtime_store_admin_pb2_grpc,
    runtime_store_pb2,
    runtime_store_pb2_grpc,
)
from runtimestore_server.interceptors import Admission, Arrivals, Doors, interceptors
from runtimestore_server.services.admin import RuntimeStoreAdminService
from runtimestore_server.services.health import HealthService
from runtimestore_server.services.runtime_store import RuntimeStoreService
from runtimestore_server.store import Store, schema
from runtimestore_server.store.engines import open_database
from runtimestore_server.waiting_calls import keep_waiting_calls

if TYPE_CHECKING:
    from types import TracebackType

    from runtimestore_server.settings import Settings

_log = structlog.get_logger(__name__)

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING

SERVICES = (
    runtime_store_pb2.DESCRIPTOR.services_by_name["RuntimeStore"].full_name,
    runtime_store_admin_pb2.DESCRIPTOR.services_by_name["RuntimeStoreAdmin"].full_name,
)

LAST_BYTES_SECONDS = 0.5
"""How long answers that were handed to gRPC may take to leave before the connections are closed."""

LAST_SECONDS = 1.5
"""How much of the grace period is for what comes after everything is answered."""

CROSSING_SECONDS = 0.3
"""How long a server that ends waits for callers that come one upon the other."""

QUIET_SECONDS = 0.1
"""How long no call may be in flight before a server that ends closes its connections, within the last bytes' time."""

HURRY_SECONDS = 2.0
"""The last part of a drain, in which nothing is run again and no row is waited for."""

STREAMS_PER_CONNECTION = 10_000
"""How many calls one connection may have open; what waits beyond that waits in the client, out of sight."""

WINDOW_BYTES = 256 * 1024
"""How much of a message may come before it is being received. As much of it takes one round trip."""

KEEPALIVE_TIME_MS = 20_000
"""How long a connection may be silent before the server asks whether anybody is there."""

KEEPALIVE_TIMEOUT_MS = 60_000
"""How long the answer may take: on a slow link it stands behind the answers that are on their way."""

ONLY_IDENTITY = 1
"""gRPC's set of algorithms, a bit for each: messages that are not compressed."""

AGAIN_SECONDS = 0.1
"""How long a server that could not listen again on its address waits before the next try."""

PENDING_CALLS = 100_000
"""How many calls may have arrived and not be begun."""


class CannotServe(Exception):
    """The server cannot start; the message says why and what to do."""


class Application:
    """A running server, as an async context manager: it serves inside, and has drained and closed after.

    Raises (on entering):
        CannotServe: the address is taken or cannot be listened on.
        SchemaNotCurrent: the database cannot be served as it is.
        ValueError: the database URL is none.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.address = ""
        self.ended = False
        """After the context: whether every thread has ended. One that a database keeps is left behind."""
        self.store: Store
        self._arrivals = Arrivals()
        self._doors: Doors
        self._server: grpc.aio.Server
        self._health: HealthService
        self._accepting: list[asyncio.Task[None]]
        self._schema_revision: str
        self._tasks: tuple[asyncio.Task[None], ...]

    async def __aenter__(self) -> Self:
        """Open the store and serve it."""
        settings = self.settings
        database = open_database(
            settings.database_url.get_secret_value(),
            committer_threads=settings.committer_threads,
            reader_threads=settings.reader_threads,
        )
        try:
            if database.creates_itself:
                await asyncio.to_thread(schema.create_if_empty, database)
            state = await asyncio.to_thread(schema.check, database)
        except Exception:
            database.dispose()
            raise
        self.store = Store(database, settings)
        try:
            await self._serve(state.revision or "")
        except BaseException:
            await self.store.close()
            raise
        return self

    async def _serve(self, schema_revision: str) -> None:
        settings = self.settings
        self._doors = Doors(settings, self.store.overload, self.store.comeback_seconds)
        self._health = HealthService()
        self._schema_revision = schema_revision
        if settings.listen.startswith("unix:") and _answers(settings.listen.removeprefix("unix:")):
            raise CannotServe(f"cannot listen on {settings.listen}: a server answers there; choose another --listen")
        try:
            server, port = self._listening(settings.listen)
        except RuntimeError:
            raise CannotServe(
                f"cannot listen on {settings.listen}: the address is taken, or not this machine's; "
                "choose another --listen"
            ) from None
        self.address = (
            settings.listen if settings.listen.startswith("unix:") else f"{settings.listen.rpartition(':')[0]}:{port}"
        )
        keep_waiting_calls(asyncio.get_running_loop())
        await self._report(SERVING)
        await self._start(server)
        self._tasks = (
            asyncio.create_task(self._watch(), name="watch-health"),
            asyncio.create_task(self._serve_on(), name="serve-on"),
        )

    def _listening(self, address: str) -> tuple[grpc.aio.Server, int]:
        """A server of all services that listens but is not started, and its port.

        Raises:
            RuntimeError: the address is taken or cannot be listened on.
        """
        server = grpc.aio.server(
            interceptors=interceptors(Admission(self._doors.of, self._arrivals.refusal), self._arrivals),
            options=channel_options(self.settings),
        )
        runtime_store_pb2_grpc.add_RuntimeStoreServicer_to_server(
            RuntimeStoreService(self.store, self.settings), server
        )
        runtime_store_admin_pb2_grpc.add_RuntimeStoreAdminServicer_to_server(
            RuntimeStoreAdminService(self.store, self.settings, schema_revision=self._schema_revision), server
        )
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        reflection.enable_server_reflection((*SERVICES, health.SERVICE_NAME, reflection.SERVICE_NAME), server)
        return server, server.add_insecure_port(address)

    async def _serve_on(self) -> None:
        """Serve again on the same address when gRPC stops by itself, as it does at a path that is no UTF-8."""
        while self._accepting:
            await asyncio.wait(self._accepting)
            for task in self._accepting:
                task.exception()  # looked at, so that nobody logs it with what was sent
            _log.error("gRPC stopped serving by itself and is started again", address=self.address)
            self._doors.abandon()  # nothing more comes of what was being received
            while True:
                try:
                    server, _ = self._listening(self.address)
                except RuntimeError:
                    await asyncio.sleep(AGAIN_SECONDS)
                else:
                    break
            await self._start(server)

    async def _start(self, server: grpc.aio.Server) -> None:
        """Start a server, and know the task in which it accepts calls: gRPC tells nobody at once when that fails."""
        before = asyncio.all_tasks()
        self._server = server
        # Cut short, gRPC's start would end in an error, and its server with it. Whole, what ends us can stop it.
        await asyncio.shield(server.start())
        self._accepting = [
            task
            for task in asyncio.all_tasks() - before
            if getattr(task.get_coro(), "__qualname__", "") == "AioServer._server_main_loop"
        ]

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Drain: NOT_SERVING at once, calls in flight finish within the grace period, the queue is committed.

        A database that does not answer in that time holds nothing up: its callers are told so.
        """
        deadline = time.monotonic() + self.settings.grace_period_seconds
        # What comes after the drain takes its time out of the same.
        last_seconds = min(LAST_SECONDS, self.settings.grace_period_seconds / 4)
        for task in self._tasks:
            task.cancel()
        await asyncio.wait(self._tasks)
        await self._health.enter_graceful_shutdown()
        await self.drain(deadline - last_seconds)
        # Everything is answered; the last bytes get a moment. Whoever only watches health must not hold the end up.
        await self._server.stop(max(0.0, min(deadline - time.monotonic(), LAST_BYTES_SECONDS)))
        self.ended = await self.store.close()

    async def drain(self, deadline: float) -> None:
        """Refuse what arrives anew and see that all that had arrived is answered by `deadline` of the monotonic clock.

        What the engine does not let go on by then is answered truthfully: nothing is committed and nothing will be, or
        a COMMIT is under way and its outcome unknown.
        """
        self._arrivals.close()
        left = max(0.0, deadline - time.monotonic())
        await self._idle(deadline - min(HURRY_SECONDS, left / 2))
        self.store.hurry()
        await self._idle(deadline)
        self.store.abandon()
        self._doors.abandon()
        # Calls that crossed our going are told to try again, as long as they come one upon the other.
        await self._idle(time.monotonic() + CROSSING_SECONDS, quiet_seconds=QUIET_SECONDS)

    async def _idle(self, deadline: float, *, quiet_seconds: float = 0.0) -> None:
        """Wait until nothing is in flight, for `quiet_seconds` on end, but no longer than until `deadline`."""
        busy_at = time.monotonic()
        # Polling, once in a process' life: an event would be set and cleared on every call.
        while (now := time.monotonic()) < deadline:
            if self._arrivals.in_flight or self.store.busy:
                busy_at = now
            elif now - busy_at >= quiet_seconds:
                return
            await asyncio.sleep(0.005)

    async def _watch(self) -> None:
        """Tell the health service what the store says, for as long as the server runs."""
        serving = True
        while True:
            await asyncio.sleep(self.settings.health_interval_seconds)
            try:
                async with asyncio.timeout(self.settings.health_interval_seconds + 1):
                    await self.store.check()
            except Exception as error:  # noqa: BLE001  (whatever it is: not ready)
                if serving:
                    _log.warning("not ready", error=type(error).__name__)
                serving = False
            else:
                if not serving:
                    _log.info("ready again")
                serving = True
            await self._report(SERVING if serving else NOT_SERVING)

    async def _report(self, status: health_pb2.HealthCheckResponse.ServingStatus) -> None:
        for service in ("", *SERVICES):
            await self._health.set(service, status)


def _answers(path: str) -> bool:
    """Whether somebody serves on a Unix socket; the file of one that was killed stays, and gRPC replaces any."""
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(path)
        except OSError:
            return False
        return True


def channel_options(settings: Settings) -> list[tuple[str, int]]:
    """The gRPC options of the server."""
    return [
        ("grpc.max_receive_message_length", settings.max_message_bytes),
        ("grpc.max_send_message_length", -1),  # whatever was accepted, under whatever limits then, can be read
        ("grpc.max_concurrent_streams", STREAMS_PER_CONNECTION),
        # Beyond its own bounds gRPC cancels calls without a word; ours refuse them with a reason.
        ("grpc.server.max_pending_requests", PENDING_CALLS),
        ("grpc.server.max_pending_requests_hard_limit", PENDING_CALLS),
        # What is not received yet holds as much as its window lets in. Left to itself gRPC widens the windows of a busy
        # connection until every message that waits is there whole.
        ("grpc.http2.bdp_probe", 0),
        ("grpc.http2.lookahead_bytes", WINDOW_BYTES),
        # A few KB can inflate to the largest message, many at once; nothing tells before how large they get.
        ("grpc.compression_enabled_algorithms_bitset", ONLY_IDENTITY),
        # Calls of a peer that is gone, or hangs, must not stay for hours.
        ("grpc.keepalive_time_ms", KEEPALIVE_TIME_MS),
        ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_MS),
        ("grpc.http2.ping_timeout_ms", KEEPALIVE_TIMEOUT_MS),  # what gRPC really goes by; a minute by itself
        ("grpc.so_reuseport", 0),  # two servers on one port would share its calls in silence
        # Clients may ping an idle connection this often without being sent away.
        ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
        ("grpc.keepalive_permit_without_calls", 1),
    ]
