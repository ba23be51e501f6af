"""The composition root: what a server is built from, top to bottom, and nothing else."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Self

from grpc_health.v1 import health, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2_grpc

from runtimestore.v1 import (
    runtime_store_admin_pb2,
    runtime_store_admin_pb2_grpc,
    runtime_store_pb2,
    runtime_store_pb2_grpc,
)
from runtimestore_server.access.listening import protection
from runtimestore_server.access.rules import Unusable
from runtimestore_server.budget import RetryPacing
from runtimestore_server.rpc.admission import Limiters
from runtimestore_server.rpc.call import Calls
from runtimestore_server.rpc.sending import Sending
from runtimestore_server.rpc.server import CannotServe, Server
from runtimestore_server.services.admin import RuntimeStoreAdminService
from runtimestore_server.services.health import HealthService
from runtimestore_server.services.runtime_store import RuntimeStoreService
from runtimestore_server.shutdown import Shutdown
from runtimestore_server.store import Store, schema
from runtimestore_server.store.engines import open_database
from runtimestore_server.supervision import Supervision
from runtimestore_server.workers import Workers

if TYPE_CHECKING:
    from types import TracebackType

    from runtimestore_server.access.authorization import Authorization
    from runtimestore_server.access.tls import Certificates
    from runtimestore_server.settings import Settings
    from runtimestore_server.store.engines import Database

__all__ = ["SERVICES", "Application", "CannotServe"]

SERVICES = (
    runtime_store_pb2.DESCRIPTOR.services_by_name["RuntimeStore"].full_name,
    runtime_store_admin_pb2.DESCRIPTOR.services_by_name["RuntimeStoreAdmin"].full_name,
)


class Application:
    """A running server, as an async context manager: it serves inside, and has drained and closed after.

    Raises (on entering):
        CannotServe: the address is taken or cannot be listened on, a file of TLS or access cannot be used, or strangers
            could come in.
        SchemaNotCurrent: the database cannot be served as it is.
        ValueError: the database URL is none.
    """

    certificates: Certificates | None
    authorization: Authorization | None
    health: HealthService
    supervision: Supervision
    pacing: RetryPacing
    workers: Workers
    store: Store
    sending: Sending
    limiters: Limiters
    calls: Calls
    server: Server
    shutdown: Shutdown

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
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
            self.certificates, self.authorization = protection(settings)
        except Unusable as wrong:
            raise CannotServe(str(wrong)) from None
        database, revision = await _opened(settings)
        self.health = HealthService(SERVICES)
        self.supervision = Supervision(told=self.health.doubt)
        self.pacing = RetryPacing()
        self.workers = Workers(
            threads=settings.reader_threads,
            max_waiting=settings.max_waiting_reads,
            max_waiting_bytes=settings.max_waiting_bytes,
            pacing=self.pacing,
            supervision=self.supervision,
        )
        self.store = Store(database, settings, workers=self.workers, pacing=self.pacing, supervision=self.supervision)
        self.sending = Sending(settings.max_waiting_bytes, self.pacing)
        self.limiters = Limiters(settings, self.store.budget, self.pacing)
        self.calls = Calls(self.limiters, self.sending, self.authorization)
        runtime_store = RuntimeStoreService(self.store, settings, workers=self.workers, sending=self.sending)
        admin = RuntimeStoreAdminService(self.store, settings, schema_revision=revision)
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
            stopped=self.limiters.abort,
            supervision=self.supervision,
            certificates=self.certificates,
        )
        self.shutdown = Shutdown(
            health=self.health,
            calls=self.calls,
            limiters=self.limiters,
            workers=self.workers,
            store=self.store,
            server=self.server,
        )
        try:
            await self.health.report(serving=True)
            await self.server.start()
        except BaseException:
            await self.shutdown.close()
            raise
        self.health.keep_checking(
            self._check, interval_seconds=settings.health_interval_seconds, supervision=self.supervision
        )
        return self

    async def _check(self) -> None:
        """See that the service can be given.

        Raises:
            StoreUnavailable: it cannot.
        """
        self.supervision.check()
        await self.store.check()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Go down, within the grace period."""
        self.ended = await self.shutdown.end(grace_seconds=self.settings.grace_period_seconds)


async def _opened(settings: Settings) -> tuple[Database, str]:
    """The database, whose schema is current, and the revision of that."""
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
    return database, state.revision or ""
