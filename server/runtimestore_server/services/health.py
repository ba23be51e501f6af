"""The health service: what the library has, the method that it leaves to others, and what it tells of the store."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

import structlog
from grpc_health.v1 import health, health_pb2

from runtimestore.errors import RuntimeStoreError
from runtimestore_server.supervision import stopped

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from runtimestore_server.supervision import Supervision

_log = structlog.get_logger(__name__)

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


class HealthService(health.aio.HealthServicer):  # type: ignore[misc]  # published without types
    """`grpc.health.v1.Health` as the library has it, and `List`, which there would end as an unforeseen error.

    Args:
        services: the full names of the services that are as healthy as the whole.
    """

    def __init__(self, services: Sequence[str]) -> None:
        super().__init__()
        self._services = ("", *services)
        self._checking: asyncio.Task[None] | None = None
        self._serving = True
        self._doubted = asyncio.Event()

    async def List(self, request: Any, context: Any) -> Any:
        """Tell the status of every service."""
        statuses = {
            service: health_pb2.HealthCheckResponse(status=status) for service, status in self._server_status.items()
        }
        return health_pb2.HealthListResponse(statuses=statuses)

    async def report(self, *, serving: bool) -> None:
        """Tell whether all services serve."""
        for service in self._services:
            await self.set(service, SERVING if serving else NOT_SERVING)

    def keep_checking(
        self, check: Callable[[], Awaitable[None]], *, interval_seconds: float, supervision: Supervision
    ) -> None:
        """Tell from now on what `check` finds, which raises where nothing can be served."""
        self._checking = supervision.task("watch-health", lambda: self._check(check, interval_seconds))

    def doubt(self) -> None:
        """Check now: something has happened."""
        self._doubted.set()

    async def stop_checking(self) -> None:
        """Look no more."""
        await stopped(self._checking)

    async def _check(self, check: Callable[[], Awaitable[None]], interval_seconds: float) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(interval_seconds):
                    await self._doubted.wait()
            self._doubted.clear()
            try:
                async with asyncio.timeout(interval_seconds + 1):
                    await check()
            except Exception as error:  # noqa: BLE001  (whatever it is: not ready)
                if self._serving:
                    told = error.message if isinstance(error, RuntimeStoreError) else type(error).__name__
                    _log.warning("not ready", error=told)
                self._serving = False
            else:
                if not self._serving:
                    _log.info("ready again")
                self._serving = True
            await self.report(serving=self._serving)
