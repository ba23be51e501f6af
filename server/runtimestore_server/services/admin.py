"""The service `RuntimeStoreAdmin`: what the trait lacks."""

from __future__ import annotations

import asyncio
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from runtimestore.errors import Overloaded
from runtimestore.v1 import runtime_store_admin_pb2 as pb
from runtimestore.v1 import runtime_store_admin_pb2_grpc as rpc
from runtimestore_server.documents import recovery, versions
from runtimestore_server.documents.identifiers import owner_field, realm_field, request_id_field
from runtimestore_server.services.fields import optional_digest, runtime_key
from runtimestore_server.services.loading import Loading
from runtimestore_server.services.sessions import Sessions
from runtimestore_server.store import Acquisition
from runtimestore_server.store.versions.listing import list_versions

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from runtimestore_server.rpc.sending import Sending
    from runtimestore_server.settings import Settings
    from runtimestore_server.store import Store

SERVER_VERSION = version("runtimestore")


class RuntimeStoreAdminService(rpc.RuntimeStoreAdminServicer):
    """The service `runtimestore.v1.RuntimeStoreAdmin` of one server."""

    def __init__(self, store: Store, settings: Settings, *, schema_revision: str, sending: Sending) -> None:
        self._store = store
        self._sessions = Sessions(store)
        self._sending = sending
        capabilities = [
            "request_replay",
            "if_revision",
            "fence",
            "snapshot_edits",
            "known_sha256",
            "load_runtime",
            "session_history",
        ]
        if not store.database.ephemeral:
            capabilities.append("durable")
        if settings.require_fence:
            capabilities.append("fence_required")
        self._answer = pb.GetServerInfoResponse(
            server_version=SERVER_VERSION,
            engine=store.database.name,
            schema_revision=schema_revision,
            limits=pb.Limits(
                max_message_bytes=settings.max_message_bytes,
                max_session_snapshot_bytes=settings.max_session_snapshot_bytes,
                max_document_bytes=settings.max_document_bytes,
                max_waiting_writes=settings.max_waiting_writes,
                max_waiting_bytes=settings.max_waiting_bytes,
                max_waiting_reads=settings.max_waiting_reads,
                request_retention_seconds=settings.request_retention_seconds,
                session_history_seconds=settings.session_history_seconds,
            ),
            capabilities=capabilities,
        )

    async def GetServerInfo(self, request: pb.GetServerInfoRequest, context: Any) -> pb.GetServerInfoResponse:
        """Tell what this server is, what it accepts, and its counters."""
        realm_field(request.realm)
        counters = self._store.counters
        answer = pb.GetServerInfoResponse()
        answer.CopyFrom(self._answer)
        answer.commits.CopyFrom(
            pb.CommitCounters(
                transactions=counters.transactions,
                writes=counters.writes,
                refusals=counters.refusals,
                replays=counters.replays,
            )
        )
        return answer

    async def LoadRuntime(self, request: pb.LoadRuntimeRequest, context: Any) -> AsyncIterator[Any]:
        """Read all that a runtime recovers from."""
        known = optional_digest(request, "known_session_sha256")
        runtime = runtime_key(request)
        call = asyncio.current_task()

        async def load(begun: Callable[[recovery.Beginning], None]) -> recovery.Recovery:
            held = self._sessions.held(runtime)
            found = await self._store.read(
                recovery.load, runtime, self._store.database, known_sha256=known, held=held, begun=begun
            )
            # Now, and not when it is sent: it is held while the caller reads its beginning, however slowly.
            try:
                self._sending(found.size_bytes - found.beginning.size_bytes, call)
            except Overloaded:
                del found  # else the refusal would hold it, by this frame
                raise
            return found

        loading = Loading(load)
        try:
            beginning = await loading.beginning()
            if beginning is not None:
                self._sending(beginning.size_bytes)
                for answer in beginning.messages:
                    yield answer
            with self._sessions.reading(runtime):
                found = await loading.whole()
        finally:
            loading.abandon()
        if found.session is not None:
            self._sessions.loaded(runtime, found.session)
        if beginning is None:
            self._sending(found.beginning.size_bytes)
            for answer in found.beginning.messages:
                yield answer
        for answer in recovery.of_session(found):
            yield answer

    async def ListSessionVersions(
        self, request: pb.ListSessionVersionsRequest, context: Any
    ) -> pb.ListSessionVersionsResponse:
        """Read a page of the versions of a session."""
        size = versions.page_size(request.page_size)
        runtime = runtime_key(request)
        behind = versions.begins_behind(runtime, request.page_token)
        listed = await self._store.read(list_versions, runtime, behind=behind, most=size + 1)
        return versions.page(runtime, listed, size)

    async def AcquireRuntime(self, request: pb.AcquireRuntimeRequest, context: Any) -> pb.AcquireRuntimeResponse:
        """Make the caller the one who drives a runtime."""
        runtime = runtime_key(request, store_error="write_failed")
        acquisition = Acquisition(runtime, owner_field(request.owner), request_id_field(request.request_id))
        outcome = await self._store.commit(acquisition)
        return pb.AcquireRuntimeResponse(
            fence=outcome.revision, previous_owner=outcome.previous_owner, replayed=outcome.replayed
        )
