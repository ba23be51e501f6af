"""The composition root: what a server is built from, top to bottom, and nothing else."""

from __future__ import annotations

import asyncio
import os
from functools import partial
from typing import TYPE_CHECKING, Any, Self

import structlog
from grpc_health.v1 import health, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2_grpc

from runtimestore.errors import StoreUnavailable
from runtimestore.v1 import (
    runtime_store_admin_pb2,
    runtime_store_admin_pb2_grpc,
    runtime_store_pb2,
    runtime_store_pb2_grpc,
)
from runtimestore_server.access.exposure import protection
from runtimestore_server.access.rules import Unusable
from runtimestore_server.budget import RetryPacing
from runtimestore_server.memory import FreedMemory
from runtimestore_server.rpc.admission import Limiters
from runtimestore_server.rpc.call import Calls
from runtimestore_server.rpc.sending import Sending
from runtimestore_server.rpc.server import CannotServe, Server
from runtimestore_server.rpc.status import log_unanswered, realm_of_call
from runtimestore_server.rpc.workarounds.closed_connections import close_connection
from runtimestore_server.services.admin import SERVER_VERSION, RuntimeStoreAdminService
from runtimestore_server.services.health import HealthService
from runtimestore_server.services.runtime_store import RuntimeStoreService
from runtimestore_server.shutdown import Shutdown
from runtimestore_server.store import Store, schema
from runtimestore_server.store.engines import open_database
from runtimestore_server.supervision import CLOSE_SECONDS, Supervision
from runtimestore_server.telemetry import metrics
from runtimestore_server.telemetry.counts import OTHER_REALMS, CallCounts, RealmCounts
from runtimestore_server.telemetry.http import Telemetry
from runtimestore_server.telemetry.lines import LineLimit
from runtimestore_server.telemetry.readiness import Readiness
from runtimestore_server.telemetry.sampling import Sampling
from runtimestore_server.telemetry.traces import open_traces
from runtimestore_server.workers import Workers

if TYPE_CHECKING:
    from runtimestore_server.access.authorization import Authorization
    from runtimestore_server.access.tls import Certificates
    from runtimestore_server.settings import Settings
    from runtimestore_server.store.engines import Database
    from runtimestore_server.telemetry.spans import Traces

_log = structlog.get_logger(__name__)

__all__ = ["SERVICES", "Application", "CannotServe"]

SERVICES = (
    runtime_store_pb2.DESCRIPTOR.services_by_name["RuntimeStore"].full_name,
    runtime_store_admin_pb2.DESCRIPTOR.services_by_name["RuntimeStoreAdmin"].full_name,
)


CHECKS = ("engine", "file", "rights", "schema", "threads", "writes")
"""What `/readyz` tells of, beside the event loop, the shutdown, and what others add."""


class Application:
    """A running server, as an async context manager: it serves inside, and has drained and closed after.

    Raises (on entering):
        CannotServe: an address is taken or cannot be listened on, a file of TLS or access cannot be used, or strangers
            could come in.
        SchemaNotCurrent: the database cannot be served as it is.
        ValueError: the database URL is none.
    """

    certificates: Certificates | None
    authorization: Authorization | None
    health: HealthService
    supervision: Supervision
    pacing: RetryPacing
    traces: Traces | None
    workers: Workers
    store: Store
    sending: Sending
    limiters: Limiters
    calls: Calls
    server: Server
    shutdown: Shutdown
    readiness: Readiness
    sampling: Sampling
    telemetry: Telemetry

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.freed_memory = FreedMemory()
        self.ended = False
        """After the context: whether every thread has ended. One that a database keeps is left behind."""

    @property
    def address(self) -> str:
        """Where it listens."""
        return self.server.address

    async def __aenter__(self) -> Self:
        """Open the store and serve it."""
        settings = self.settings
        try:
            self.certificates, self.authorization = await asyncio.to_thread(protection, settings, close_connection)
        except Unusable as wrong:
            raise CannotServe(str(wrong)) from None
        database, revision = await _opened(settings)
        self.health = HealthService(SERVICES)
        self.supervision = Supervision(told=self.health.doubt)
        self.pacing = RetryPacing()
        self.traces = open_traces(database, version=SERVER_VERSION)
        self.workers = Workers(
            threads=settings.reader_threads,
            max_waiting=settings.max_waiting_reads,
            max_waiting_bytes=settings.max_waiting_bytes,
            pacing=self.pacing,
            supervision=self.supervision,
        )
        lines = LineLimit(settings.log_refusals_per_second)
        self.store = Store(
            database,
            settings,
            workers=self.workers,
            pacing=self.pacing,
            supervision=self.supervision,
            traces=self.traces,
            unanswered=partial(log_unanswered, lines),
        )
        self.sending = Sending(settings.max_waiting_bytes, self.pacing)
        self.limiters = Limiters(settings, self.store.budget, self.pacing)
        counts = CallCounts(lines, log_served=settings.log_calls, realms=_realms(self.authorization))
        self.calls = Calls(self.limiters, self.sending, self.authorization, counts=counts, traces=self.traces)
        runtime_store = RuntimeStoreService(self.store, settings, workers=self.workers, sending=self.sending)
        admin = RuntimeStoreAdminService(self.store, settings, schema_revision=revision, sending=self.sending)
        names = (*SERVICES, health.SERVICE_NAME, reflection.SERVICE_NAME)

        def register(registrar: Any) -> None:
            runtime_store_pb2_grpc.add_RuntimeStoreServicer_to_server(runtime_store, registrar)
            runtime_store_admin_pb2_grpc.add_RuntimeStoreAdminServicer_to_server(admin, registrar)
            health_pb2_grpc.add_HealthServicer_to_server(self.health, registrar)
            reflected = reflection.aio.ReflectionServicer(names)
            reflection_pb2_grpc.add_ServerReflectionServicer_to_server(reflected, registrar)

        self.server = Server(
            settings,
            self.calls,
            register,
            stopped=self.limiters.restart,
            supervision=self.supervision,
            certificates=self.certificates,
            authorization=self.authorization,
        )
        self.shutdown = Shutdown(
            health=self.health,
            calls=self.calls,
            limiters=self.limiters,
            workers=self.workers,
            store=self.store,
            server=self.server,
            traces=self.traces,
        )
        # A look at the store may come so late before `/readyz` believes the last one no more.
        self.readiness = Readiness(stale_seconds=3 * settings.health_interval_seconds + 5.0)
        self.readiness.report(dict.fromkeys(CHECKS))  # else it had not come so far
        self.sampling = Sampling(self.store)
        build = {"version": SERVER_VERSION, "engine": database.name, "schema": revision}
        if (certificates := self.certificates) is not None:
            self.readiness.add_warning("certificates", lambda: certificates.warning)
        if (authorization := self.authorization) is not None:
            self.readiness.add_warning("access", lambda: authorization.unusable)
        self.telemetry = Telemetry(metrics.registry(self, build), self.readiness)
        try:
            await self.health.report(serving=True)
            self._open_telemetry()
            await self.server.start()
        except BaseException:
            await self.sampling.close()
            await self.telemetry.close()
            await self.shutdown.close()
            raise
        self._keep_looking(settings.health_interval_seconds)
        return self

    def _keep_looking(self, interval_seconds: float) -> None:
        """See from now on that the service can be given, and who may come in: by newer files, on open streams too."""
        if self.certificates is not None:
            self.certificates.start(self.supervision)
        if self.authorization is not None:
            self.authorization.streams.start(self.supervision)
        self.freed_memory.start(self.supervision)
        self.health.keep_checking(self._check, interval_seconds=interval_seconds, supervision=self.supervision)

    def _open_telemetry(self) -> None:
        """Let the server be watched.

        Raises:
            CannotServe: the address that was given cannot be listened on.
        """
        listen = self.settings.metrics_listen
        if not listen:
            return
        try:
            self.telemetry.start(listen, self.supervision)
        except OSError as error:
            why = os.strerror(error.errno) if error.errno and error.errno > 0 else type(error).__name__
            if "metrics_listen" in self.settings.model_fields_set:
                raise CannotServe(
                    f"cannot listen on {listen} for metrics: {why}; choose another --metrics-listen, or '' for none"
                ) from None
            _log.warning(
                "no metrics: the default address cannot be had; give --metrics-listen",
                metrics_address=listen,
                error=why,
            )
            return
        self.sampling.start(self.supervision)

    async def _check(self) -> None:
        """See that the service can be given, and tell what was found.

        Raises:
            StoreUnavailable: it cannot.
        """
        found: dict[str, str | None] = {"engine": "it does not answer in time"}  # unless what follows says otherwise
        try:
            found |= await self.store.checks()
        finally:
            found |= {"threads": self.supervision.problem()}
            self.readiness.report(found)
        if problem := found["threads"] or next(filter(None, found.values()), None):
            raise StoreUnavailable(problem)

    async def __aexit__(self, *_: object) -> None:
        """Go down, within the grace period."""
        self.readiness.add("shutdown", lambda: "the server is ending")
        await self.sampling.close()
        await self.freed_memory.close()
        if self.certificates is not None:
            await self.certificates.close()
        if self.authorization is not None:
            await self.authorization.streams.close()
        self.ended = await self.shutdown.end(grace_seconds=self.settings.grace_period_seconds)
        await self.telemetry.close()


def _realms(authorization: Authorization | None) -> RealmCounts | None:
    """Return what counts calls by realm, where an access file says which realms there are."""
    if authorization is None:
        return None

    def label() -> str | None:
        realm = realm_of_call()
        return None if realm is None else authorization.realm_label(realm) or OTHER_REALMS

    return RealmCounts(label)


async def _opened(settings: Settings) -> tuple[Database, str]:
    """Return the database, whose schema is current, and the revision of that."""
    database = open_database(
        settings.database_url.get_secret_value(),
        committer_threads=settings.committer_threads,
        reader_threads=settings.reader_threads,
    )
    checking = asyncio.ensure_future(asyncio.to_thread(schema.current_revision, database))
    try:
        return database, await asyncio.shield(checking)
    except BaseException:
        # A thread goes on when its start is cancelled; what it uses is closed after it, or soon where it hangs.
        try:
            await asyncio.wait([checking], timeout=CLOSE_SECONDS)
        finally:
            database.dispose()
        raise
