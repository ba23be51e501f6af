"""The fifteen handlers: check, run, answer. What is more than that belongs in the store, or to the documents."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from runtimestore.v1 import runtime_store_pb2 as pb
from runtimestore.v1 import runtime_store_pb2_grpc as rpc
from runtimestore_server.documents import input as inputs
from runtimestore_server.documents import oauth, ops, receipt, runtime_state, session
from runtimestore_server.documents.hurry import TakesLong, in_a_hurry
from runtimestore_server.documents.identifiers import realm_field, uuid_field
from runtimestore_server.documents.limits import Limits
from runtimestore_server.rpc.received import received_bytes, received_document
from runtimestore_server.services.fields import of_every_write, optional_digest, partial_inputs, required, runtime_key
from runtimestore_server.services.sessions import Sessions
from runtimestore_server.store import Write, reads
from runtimestore_server.store.versions import packing

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from runtimestore_server.rpc.sending import Sending
    from runtimestore_server.settings import Settings
    from runtimestore_server.store import Outcome, RuntimeKey, Store
    from runtimestore_server.store.versions.recent import RecentSession
    from runtimestore_server.workers import Workers

LARGE_REQUEST_BYTES = 256 * 1024
"""A request over this size is checked by a worker: hashing and parsing it would keep the event loop too long."""

INPUT_UPDATES = "input_updates[{}]"
INPUT_STATES = "input_states[{}]"
"""The paths of inputs in requests, by their position."""

REVISION_KEY = "runtimestore-revision"
"""Trailing metadata of an empty session stream: the revision that the load saw."""

Context = Any  # grpc.aio.ServicerContext[Request, Awaitable[Response]], different for each method


class RuntimeStoreService(rpc.RuntimeStoreServicer):
    """The service `runtimestore.v1.RuntimeStore` over a store."""

    def __init__(self, store: Store, settings: Settings, *, workers: Workers, sending: Sending) -> None:
        self._store = store
        self._workers = workers
        self._sending = sending
        self._limits = Limits(settings)
        self._sessions = Sessions(store)

    async def AuthAuthorityKey(
        self, request: pb.AuthAuthorityKeyRequest, context: Context
    ) -> pb.AuthAuthorityKeyResponse:
        """Tell the stable name of the authority behind a realm's OAuth flows."""
        return pb.AuthAuthorityKeyResponse(authority_key=await self._store.authority_key(realm_field(request.realm)))

    async def PersistAuthOAuthFlowSnapshot(
        self, request: pb.PersistAuthOAuthFlowSnapshotRequest, context: Context
    ) -> pb.PersistAuthOAuthFlowSnapshotResponse:
        """Replace the realm's OAuth flow snapshot."""
        write = self._limits.checked(oauth.write(request, expected_version=None))
        del request  # as in `_commit`
        outcome = await self._store.commit(write)
        return pb.PersistAuthOAuthFlowSnapshotResponse(version=outcome.revision, replayed=outcome.replayed)

    async def LoadAuthOAuthFlowSnapshot(
        self, request: pb.LoadAuthOAuthFlowSnapshotRequest, context: Context
    ) -> pb.LoadAuthOAuthFlowSnapshotResponse:
        """Read the realm's OAuth flow snapshot and its version."""
        version, stored = await self._store.read(reads.load_oauth_flow_snapshot, realm_field(request.realm))
        self._sending(reads.size_bytes(stored))
        return pb.LoadAuthOAuthFlowSnapshotResponse(snapshot_json=stored, version=version)

    async def UpdateAuthOAuthFlowSnapshot(
        self, request: pb.UpdateAuthOAuthFlowSnapshotRequest, context: Context
    ) -> pb.UpdateAuthOAuthFlowSnapshotResponse:
        """Replace the realm's OAuth flow snapshot if it is at the expected version."""
        write = self._limits.checked(oauth.write(request, expected_version=request.expected_version))
        del request  # as in `_commit`
        outcome = await self._store.commit(write)
        return pb.UpdateAuthOAuthFlowSnapshotResponse(version=outcome.revision, replayed=outcome.replayed)

    async def CommitSessionSnapshot(
        self, request: pb.CommitSessionSnapshotRequest, context: Context
    ) -> pb.CommitSessionSnapshotResponse:
        """Write a session snapshot that is no boundary."""
        document = received_document()
        base = await self._sessions.base_of(request)

        def check() -> Write:
            return Write(
                **of_every_write(request),
                snapshot=session.check_delta(required(request, "session_delta"), base, document),
            )

        outcome = await self._commit(request, check, base=base)
        return pb.CommitSessionSnapshotResponse(revision=outcome.revision, replayed=outcome.replayed)

    async def AtomicApply(self, request: pb.AtomicApplyRequest, context: Context) -> pb.AtomicApplyResponse:
        """Commit a run boundary: snapshot, receipt and inputs, all or nothing."""
        document = received_document()
        base = await self._sessions.base_of(request)
        unchecked: list[tuple[RuntimeKey, bytes, str]] = []

        def check() -> Write:
            snapshot = None
            if request.HasField("session_delta"):
                # Only here is the key looked at: without a delta it is ignored, whatever it is.
                has_key = request.HasField("session_store_key")
                key = uuid_field(request.session_store_key, "session_store_key") if has_key else None
                snapshot = session.check_delta(request.session_delta, base, document, belongs_to=key)
                if key is not None and not snapshot.session_id:
                    unchecked.append((runtime_key(request), snapshot.sha256, key))
            return Write(
                **of_every_write(request),
                snapshot=snapshot,
                receipt=receipt.check(required(request, "receipt")),
                inputs=inputs.check_all(request.input_updates, INPUT_UPDATES),
                partial_inputs=partial_inputs(request),
            )

        outcome = await self._commit(request, check, INPUT_UPDATES, base=base)
        for runtime, digest, key in unchecked:  # it is a repeat, or would have been refused
            await self._sessions.check_repeat(runtime, outcome.revision, digest, key)
        return pb.AtomicApplyResponse(revision=outcome.revision, replayed=outcome.replayed)

    async def LoadInputStates(self, request: pb.LoadInputStatesRequest, context: Context) -> AsyncIterator[Any]:
        """Read all inputs of a runtime in batches."""
        revision, found = await self._store.read(
            inputs.load_all, runtime_key(request), skip_corrupt=request.skip_corrupt
        )
        self._sending(reads.size_bytes(found))
        for answer in inputs.messages(revision, found):
            yield answer

    async def LoadBoundaryReceipt(
        self, request: pb.LoadBoundaryReceiptRequest, context: Context
    ) -> pb.LoadBoundaryReceiptResponse:
        """Read the receipt of one boundary."""
        runtime, run_id = runtime_key(request), uuid_field(request.run_id, "run_id")
        revision, stored = await self._store.read(reads.load_boundary_receipt, runtime, run_id, request.sequence)
        self._sending(reads.size_bytes(stored))
        if stored is None:
            return pb.LoadBoundaryReceiptResponse(revision=revision)
        return pb.LoadBoundaryReceiptResponse(
            receipt=receipt.message(runtime, run_id, request.sequence, stored.receipt),
            revision=revision,
            committed_revision=stored.committed_revision,
        )

    async def LoadSessionSnapshot(self, request: pb.LoadSessionSnapshotRequest, context: Context) -> AsyncIterator[Any]:
        """Read a session snapshot of a runtime: its description, then its bytes in chunks."""
        runtime = runtime_key(request)
        as_of = request.as_of_revision if request.HasField("as_of_revision") else None
        known = optional_digest(request, "known_sha256")
        with self._sessions.reading(runtime):
            revision, stored = await self._store.read(
                session.load, runtime, as_of_revision=as_of, known_sha256=known, held=self._sessions.held(runtime)
            )
        if stored is None:
            context.set_trailing_metadata(((REVISION_KEY, str(revision)),))
            return
        if as_of is None:
            self._sessions.loaded(runtime, stored)
        self._sending(len(stored.body or b""))
        yield pb.LoadSessionSnapshotResponse(info=session.info(revision, stored))
        for chunk in session.chunks(stored, pb.LoadSessionSnapshotResponse.CHUNK_FIELD_NUMBER):
            yield chunk

    async def PersistInputState(
        self, request: pb.PersistInputStateRequest, context: Context
    ) -> pb.PersistInputStateResponse:
        """Write one input's state."""

        def check() -> Write:
            return Write(**of_every_write(request), inputs=(inputs.check(required(request, "state"), "state"),))

        outcome = await self._commit(request, check, "state")
        return pb.PersistInputStateResponse(revision=outcome.revision, replayed=outcome.replayed)

    async def LoadInputState(self, request: pb.LoadInputStateRequest, context: Context) -> pb.LoadInputStateResponse:
        """Read one input's state."""
        input_id = uuid_field(request.input_id, "input_id")
        revision, found = await self._store.read(inputs.load, runtime_key(request), input_id)
        self._sending(reads.size_bytes(found))
        state = inputs.message(found) if found is not None else None
        return pb.LoadInputStateResponse(state=state, revision=revision)

    async def LoadRuntimeState(
        self, request: pb.LoadRuntimeStateRequest, context: Context
    ) -> pb.LoadRuntimeStateResponse:
        """Read the state of a runtime."""
        runtime = runtime_key(request)
        revision, stored = await self._store.read(reads.load_runtime_state, runtime)
        return pb.LoadRuntimeStateResponse(state=runtime_state.message(runtime, stored), revision=revision)

    async def CommitMachineLifecycle(
        self, request: pb.CommitMachineLifecycleRequest, context: Context
    ) -> pb.CommitMachineLifecycleResponse:
        """Write the state of a runtime and inputs' states, all or nothing."""

        def check() -> Write:
            return Write(
                **of_every_write(request),
                runtime_state=runtime_state.check(required(request, "commit")),
                inputs=inputs.check_all(request.input_states, INPUT_STATES),
                partial_inputs=partial_inputs(request),
            )

        outcome = await self._commit(request, check, INPUT_STATES)
        return pb.CommitMachineLifecycleResponse(revision=outcome.revision, replayed=outcome.replayed)

    async def PersistOpsLifecycle(
        self, request: pb.PersistOpsLifecycleRequest, context: Context
    ) -> pb.PersistOpsLifecycleResponse:
        """Write the registry of background operations."""

        def check() -> Write:
            return Write(**of_every_write(request), ops=ops.check(required(request, "snapshot")))

        outcome = await self._commit(request, check)
        return pb.PersistOpsLifecycleResponse(revision=outcome.revision, replayed=outcome.replayed)

    async def LoadOpsLifecycle(
        self, request: pb.LoadOpsLifecycleRequest, context: Context
    ) -> pb.LoadOpsLifecycleResponse:
        """Read the registry of background operations."""
        revision, stored = await self._store.read(ops.load, runtime_key(request))
        self._sending(reads.size_bytes(stored))
        snapshot = ops.message(stored) if stored is not None else None
        return pb.LoadOpsLifecycleResponse(snapshot=snapshot, revision=revision)

    async def _commit(
        self, request: Any, check: Callable[[], Write], input_field: str = "", *, base: RecentSession | None = None
    ) -> Outcome:
        """Check a request where it does not keep others waiting, then commit it.

        `input_field` is where inputs are, `base` what its session delta is made of.
        """

        def prepare() -> Write:
            return packing.as_stored(self._limits.checked(check(), input_field))  # last: it costs more than all checks

        size_bytes, write = received_bytes(), None
        if size_bytes + (session.base_cost_bytes(request.session_delta, base) if base else 0) <= LARGE_REQUEST_BYTES:
            with contextlib.suppress(TakesLong), in_a_hurry():
                write = prepare()
        if write is None:
            write = await self._workers.run(prepare, size_bytes=size_bytes)
        # What was checked is held by `write` alone from here: a large request would double what waits in memory.
        _let_go(request, check)
        del request
        outcome = await self._store.commit(write)
        self._sessions.committed(write, outcome, base)
        return outcome


def _let_go(request: Any, check: Callable[[], Write]) -> None:
    """Release the request that `check` was made of: the handler needs it no more, and goes on waiting.

    Nothing else frees its memory: a message that is cleared has the memory of its fields until it is gone itself.
    """
    for cell in check.__closure__ or ():
        if cell.cell_contents is request:
            del cell.cell_contents
