"""The fifteen handlers: check, run, answer. What is more than that belongs in the store or in an interceptor."""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING, Any, TypeVar

from runtimestore.v1 import runtime_store_pb2 as pb
from runtimestore.v1 import runtime_store_pb2_grpc as rpc
from runtimestore_server import answers, documents
from runtimestore_server.allowed import DOCUMENTS, Allowed
from runtimestore_server.identifiers import (
    bad_field,
    realm_field,
    request_id_field,
    runtime_id_field,
    uuid_field,
)
from runtimestore_server.receipts import receipt_document
from runtimestore_server.store import OAuthFlowWrite, RuntimeKey, Write, reads

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable

    from runtimestore.errors import RuntimeStoreError
    from runtimestore_server.settings import Settings
    from runtimestore_server.store import Outcome, Store
    from runtimestore_server.store.values import InputDocument, SessionSnapshot

AnyDocuments = TypeVar("AnyDocuments", Write, OAuthFlowWrite)

CHUNK_BYTES = 1024 * 1024
"""Streams send this much a message, so that a client with gRPC's default limit of 4 MiB reads everything."""

LARGE_REQUEST_BYTES = 256 * 1024
"""A request over this size is checked on a reader thread: hashing and parsing it would keep the event loop too long."""

INPUT_UPDATES = "input_updates[{}]"
INPUT_STATES = "input_states[{}]"
"""The paths of inputs in requests, by their position."""

REVISION_KEY = "runtimestore-revision"
"""Trailing metadata of an empty session stream: the revision that the load saw."""

Context = Any  # grpc.aio.ServicerContext[Request, Awaitable[Response]], different for each method


class RuntimeStoreService(rpc.RuntimeStoreServicer):
    """The service `runtimestore.v1.RuntimeStore` over a store."""

    def __init__(self, store: Store, settings: Settings) -> None:
        self._store = store
        self._allowed = Allowed(settings)

    async def AuthAuthorityKey(
        self, request: pb.AuthAuthorityKeyRequest, context: Context
    ) -> pb.AuthAuthorityKeyResponse:
        """The stable name of the authority behind a realm's OAuth flows."""
        del context
        return pb.AuthAuthorityKeyResponse(authority_key=await self._store.authority_key(realm_field(request.realm)))

    async def PersistAuthOAuthFlowSnapshot(
        self, request: pb.PersistAuthOAuthFlowSnapshotRequest, context: Context
    ) -> pb.PersistAuthOAuthFlowSnapshotResponse:
        """Replace the realm's OAuth flow snapshot."""
        del context
        outcome = await self._store.commit(self._oauth_write(request, expected_version=None))
        return pb.PersistAuthOAuthFlowSnapshotResponse(version=outcome.revision, replayed=outcome.replayed)

    async def LoadAuthOAuthFlowSnapshot(
        self, request: pb.LoadAuthOAuthFlowSnapshotRequest, context: Context
    ) -> pb.LoadAuthOAuthFlowSnapshotResponse:
        """Read the realm's OAuth flow snapshot and its version."""
        del context
        version, stored = await self._store.read(reads.load_oauth_flow_snapshot, realm_field(request.realm))
        self._store.sending(reads.size_bytes(stored))
        return pb.LoadAuthOAuthFlowSnapshotResponse(snapshot_json=stored, version=version)

    async def UpdateAuthOAuthFlowSnapshot(
        self, request: pb.UpdateAuthOAuthFlowSnapshotRequest, context: Context
    ) -> pb.UpdateAuthOAuthFlowSnapshotResponse:
        """Replace the realm's OAuth flow snapshot if it is at the expected version."""
        del context
        outcome = await self._store.commit(self._oauth_write(request, expected_version=request.expected_version))
        return pb.UpdateAuthOAuthFlowSnapshotResponse(version=outcome.revision, replayed=outcome.replayed)

    async def CommitSessionSnapshot(
        self, request: pb.CommitSessionSnapshotRequest, context: Context
    ) -> pb.CommitSessionSnapshotResponse:
        """Write a session snapshot that is no boundary."""
        del context

        def check() -> Write:
            return Write(
                **_common(request),
                snapshot=_snapshot(_required(request, "session_delta"), None),
            )

        outcome = await self._commit(request, check)
        return pb.CommitSessionSnapshotResponse(revision=outcome.revision, replayed=outcome.replayed)

    async def AtomicApply(self, request: pb.AtomicApplyRequest, context: Context) -> pb.AtomicApplyResponse:
        """Commit a run boundary: snapshot, receipt and inputs, all or nothing."""
        del context

        def check() -> Write:
            return Write(
                **_common(request),
                snapshot=_snapshot_of_session(request) if request.HasField("session_delta") else None,
                receipt=receipt_document(_required(request, "receipt")),
                inputs=_inputs(request.input_updates, INPUT_UPDATES),
            )

        outcome = await self._commit(request, check, INPUT_UPDATES)
        return pb.AtomicApplyResponse(revision=outcome.revision, replayed=outcome.replayed)

    async def LoadInputStates(
        self, request: pb.LoadInputStatesRequest, context: Context
    ) -> AsyncIterator[pb.LoadInputStatesResponse]:
        """Read all inputs of a runtime in batches."""
        del context
        runtime = _runtime(request)
        revision, found = await self._store.read(answers.input_states, runtime, skip_corrupt=request.skip_corrupt)
        answer = pb.LoadInputStatesResponse(revision=revision)
        size_bytes = 0
        self._store.sending(reads.size_bytes(found))
        for item in found:
            item_bytes = (
                len(item.stored.state_json) if isinstance(item, answers.ReadableInput) else len(item.description)
            )
            if size_bytes and size_bytes + item_bytes > CHUNK_BYTES:
                yield answer
                answer = pb.LoadInputStatesResponse(revision=revision)
                size_bytes = 0
            if isinstance(item, answers.ReadableInput):
                answer.input_states.append(answers.input_message(item))
            else:
                answer.corrupt_inputs.add(input_id=item.input_id, description=item.description)
            size_bytes += item_bytes
        yield answer

    async def LoadBoundaryReceipt(
        self, request: pb.LoadBoundaryReceiptRequest, context: Context
    ) -> pb.LoadBoundaryReceiptResponse:
        """Read the receipt of one boundary."""
        del context
        runtime, run_id = _runtime(request), uuid_field(request.run_id, "run_id")
        revision, stored = await self._store.read(reads.load_boundary_receipt, runtime, run_id, request.sequence)
        self._store.sending(reads.size_bytes(stored))
        receipt = answers.boundary_receipt(runtime, run_id, request.sequence, stored) if stored is not None else None
        return pb.LoadBoundaryReceiptResponse(receipt=receipt, revision=revision)

    async def LoadSessionSnapshot(
        self, request: pb.LoadSessionSnapshotRequest, context: Context
    ) -> AsyncIterator[pb.LoadSessionSnapshotResponse]:
        """Read the session snapshot of a runtime: its description, then its bytes in chunks."""
        runtime = _runtime(request)
        revision, stored = await self._store.read(answers.session, runtime)
        if stored is None:
            context.set_trailing_metadata(((REVISION_KEY, str(revision)),))
            return
        self._store.sending(len(stored.body))
        yield pb.LoadSessionSnapshotResponse(info=answers.session_info(revision, stored))
        for start in range(0, len(stored.body), CHUNK_BYTES):
            yield pb.LoadSessionSnapshotResponse(chunk=stored.body[start : start + CHUNK_BYTES])

    async def PersistInputState(
        self, request: pb.PersistInputStateRequest, context: Context
    ) -> pb.PersistInputStateResponse:
        """Write one input's state."""
        del context

        def check() -> Write:
            state = _required(request, "state")
            return Write(**_common(request), inputs=_inputs([state], "state"))

        outcome = await self._commit(request, check, "state")
        return pb.PersistInputStateResponse(revision=outcome.revision, replayed=outcome.replayed)

    async def LoadInputState(self, request: pb.LoadInputStateRequest, context: Context) -> pb.LoadInputStateResponse:
        """Read one input's state."""
        del context
        input_id = uuid_field(request.input_id, "input_id")
        revision, found = await self._store.read(answers.input_state, _runtime(request), input_id)
        self._store.sending(reads.size_bytes(found))
        state = answers.input_message(found) if found is not None else None
        return pb.LoadInputStateResponse(state=state, revision=revision)

    async def LoadRuntimeState(
        self, request: pb.LoadRuntimeStateRequest, context: Context
    ) -> pb.LoadRuntimeStateResponse:
        """Read the state of a runtime."""
        del context
        runtime = _runtime(request)
        revision, stored = await self._store.read(reads.load_runtime_state, runtime)
        return pb.LoadRuntimeStateResponse(state=answers.runtime_state(runtime, stored), revision=revision)

    async def CommitMachineLifecycle(
        self, request: pb.CommitMachineLifecycleRequest, context: Context
    ) -> pb.CommitMachineLifecycleResponse:
        """Write the state of a runtime and inputs' states, all or nothing."""
        del context

        def check() -> Write:
            state = answers.RUNTIME_STATES.get(_required(request, "commit").runtime_state)
            if state is None:
                raise bad_field("commit.runtime_state", f"must be one of {', '.join(answers.RUNTIME_STATES.values())}")
            return Write(
                **_common(request),
                runtime_state=state,
                inputs=_inputs(request.input_states, INPUT_STATES),
            )

        outcome = await self._commit(request, check, INPUT_STATES)
        return pb.CommitMachineLifecycleResponse(revision=outcome.revision, replayed=outcome.replayed)

    async def PersistOpsLifecycle(
        self, request: pb.PersistOpsLifecycleRequest, context: Context
    ) -> pb.PersistOpsLifecycleResponse:
        """Write the registry of background operations."""
        del context

        def check() -> Write:
            snapshot = _required(request, "snapshot")
            return Write(**_common(request), ops=documents.ops_snapshot(snapshot))

        outcome = await self._commit(request, check)
        return pb.PersistOpsLifecycleResponse(revision=outcome.revision, replayed=outcome.replayed)

    async def LoadOpsLifecycle(
        self, request: pb.LoadOpsLifecycleRequest, context: Context
    ) -> pb.LoadOpsLifecycleResponse:
        """Read the registry of background operations."""
        del context
        revision, stored = await self._store.read(answers.ops, _runtime(request))
        self._store.sending(reads.size_bytes(stored))
        snapshot = answers.ops_message(stored) if stored is not None else None
        return pb.LoadOpsLifecycleResponse(snapshot=snapshot, revision=revision)

    async def _commit(self, request: Any, check: Callable[[], Write], input_field: str = "") -> Outcome:
        """Check a request where it does not keep others waiting, then commit it; `input_field` is where inputs are."""
        size_bytes: int = request.ByteSize()
        if size_bytes > LARGE_REQUEST_BYTES:
            write = await self._store.check_aside(check, size_bytes=size_bytes)
        else:
            write = check()
        # What was checked is held by `write` alone from here: a large request would double what waits in memory.
        request.Clear()
        return await self._store.commit(_unless_new(write, self._allowed.refusal(write, input_field)))

    def _oauth_write(self, request: Any, *, expected_version: int | None) -> OAuthFlowWrite:
        snapshot_json: bytes = request.snapshot_json
        write = OAuthFlowWrite(
            realm=realm_field(request.realm),
            request_id=request_id_field(request.request_id),
            snapshot_json=snapshot_json,
            sha256=sha256(snapshot_json).digest(),
            expected_version=expected_version,
        )
        return _unless_new(write, self._allowed.over(DOCUMENTS, len(snapshot_json), "snapshot_json"))


def _snapshot_of_session(request: pb.AtomicApplyRequest) -> SessionSnapshot:
    # Only here is the key looked at: without a delta it is ignored, whatever it is.
    key = uuid_field(request.session_store_key, "session_store_key") if request.HasField("session_store_key") else None
    return _snapshot(request.session_delta, key)


def _snapshot(delta: pb.SessionDelta, belongs_to: str | None) -> SessionSnapshot:
    if delta.WhichOneof("delta") is None:
        raise bad_field("session_delta.session_snapshot", "is required")
    return documents.session_snapshot(delta.session_snapshot, belongs_to=belongs_to)


def _inputs(states: Iterable[pb.StoredInputState], field: str) -> tuple[InputDocument, ...]:
    return tuple(documents.input_state(state, field.format(position)) for position, state in enumerate(states))


def _runtime(request: Any) -> RuntimeKey:
    return RuntimeKey(realm_field(request.realm), runtime_id_field(request.runtime_id))


def _common(request: Any) -> dict[str, Any]:
    """What every write to a runtime carries."""
    return {
        "runtime": _runtime(request),
        "request_id": request_id_field(request.request_id),
        "if_revision": request.if_revision if request.HasField("if_revision") else None,
        "fence": request.fence if request.HasField("fence") else None,
    }


def _required(request: Any, field: str) -> Any:
    if not request.HasField(field):
        raise bad_field(field, "is required")
    return getattr(request, field)


def _unless_new(write: AnyDocuments, refusal: RuntimeStoreError | None) -> AnyDocuments:
    """The write, with what is answered if it repeats none that landed."""
    if refusal is None:
        return write
    if write.request_id is None:
        raise refusal  # nothing would recognise it
    return write.disallow(refusal)
