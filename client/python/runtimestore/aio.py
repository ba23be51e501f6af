"""The thin client for asyncio: the trait's methods in snake_case.

`sync.py` is made from this file by `make sync-client`; what differs between the two transports is in `_connection.py`.
One class with a method for each of the service's is longer than modules are elsewhere; apart, one would search them.
"""

from __future__ import annotations

import asyncio
import inspect
from typing import TYPE_CHECKING, TypeVar, overload

from runtimestore import _arguments as arguments
from runtimestore import _messages as messages
from runtimestore import _responses as responses
from runtimestore._channel import (
    DEFAULT_ADDRESS,
    DEFAULT_MAX_MESSAGE_BYTES,
    DEFAULT_TIMEOUT_SECONDS,
    Address,
    message_limit,
    target_of,
)
from runtimestore._connection import CLOSED, AsyncConnection, closed_during_the_call
from runtimestore._credentials import BearerToken, Tls
from runtimestore._fences import Fences
from runtimestore._forms import Forms
from runtimestore._known import DEFAULT_KNOWN_BYTES, KnownRuntimes
from runtimestore._retry import Attempts, Deadline, RetryPolicy, UpdateRounds
from runtimestore._traces import traced
from runtimestore.errors import OAuthFlowSnapshotChanged, StoredValueCorrupt
from runtimestore.types import Loaded
from runtimestore.v1 import runtime_store_admin_pb2 as admin_pb
from runtimestore.v1 import runtime_store_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from types import TracebackType
    from typing import Self

    import grpc
    import grpc.aio

    from runtimestore._arguments import Document, Identifier, RequestId
    from runtimestore._credentials import Token
    from runtimestore._forms import RuntimeWriteRequest
    from runtimestore._responses import RuntimeWriteResponse
    from runtimestore.errors import RuntimeStoreError
    from runtimestore.types import (
        Acquisition,
        Commit,
        InputState,
        LoadedRuntime,
        OAuthCommit,
        OAuthFlowSnapshot,
        ReadableInputStates,
        RunBoundaryReceipt,
        RuntimeState,
        ServerInfo,
        SessionVersions,
    )

__all__ = ["AsyncRuntimeStoreClient"]

Q = TypeVar("Q")
T = TypeVar("T", bound="RuntimeWriteRequest")
W = TypeVar("W", bound="RuntimeWriteResponse")
A = TypeVar("A")
R = TypeVar("R")
Metadata = tuple[tuple[str, str], ...]

MOST_A_PAGE = 2**31 - 1
"""The server's own limit is far below."""


class AsyncRuntimeStoreClient:
    """A client of one server and one realm.

    `address` is `host:port`, `unix:/path` or a gRPC target such as `dns:///name:port`. Several `ip:port` in a list, or
    a name with several addresses, are balanced: each call takes the next one that answers. `timeout_seconds` is the
    budget of a whole call, its retries and pauses included; each method takes another for itself.
    `max_message_bytes` limits a message in either direction.

    Of what it wrote and loaded last it remembers up to `known_bytes`, and sends or fetches only what changed: a session
    as edits of the one that the store has, the inputs that the store has not, a digest in place of a session that it
    has. What comes of a call is the same; 0 remembers nothing and sends everything.

    With `tls` it speaks TLS and knows its server by that. `token` is sent with each call: a text, or a function that is
    asked before each attempt, so that a token can be changed while the client is in use; it must not wait. Without TLS
    a token is sent to this machine only. With `channel` the caller hands a channel over, sets its options and closes
    it; what protects it is the caller's to know.

    It may be built anywhere and belongs to the event loop of its first call: in another one it raises `RuntimeError`.
    Any number of calls may run at once.

    **Arguments**: an id is a `str` or a `uuid.UUID`, a member of an enum itself or its name, such as `"idle"`. A JSON
    document is kept byte for byte as the bytes, or the UTF-8 of the `str`, that were given. A `dict` has no bytes: it
    is written as compact JSON in its own order, so write what was loaded, unchanged, as the bytes that were loaded.
    What cannot be meant is a `TypeError` or a `ValueError` that begins with the argument's name; nothing is sent.

    **Writes** are one transaction each, all or nothing, and durable when the answer is there. `if_revision` commits
    only if the runtime is at that revision (0: nothing was ever written), and else raises `RevisionMismatch`.
    `request_id` is a UUID that makes a repeat recognisable: the same id with the same content is answered as the
    first time, `replayed`, and changes nothing; with other content it raises `RequestIdReused`. By default the client
    chooses one for each call and keeps it over the retries of that call; the empty text sends none.

    **Loads** see one consistent snapshot and every write that was acknowledged before. What is absent is `None`, or
    an empty list. Each load about a runtime has a twin, `…_with_revision`, for compare-and-swap.

    **Repeated**, within `timeout_seconds` and as `retry` says, are calls that met an unreachable server or engine,
    too many waiting calls, a commit of unknown outcome, or a reset on the way; a write without a request id only where
    the server says that nothing was committed.

    **Raises** one class per reason, all of them `RuntimeStoreError`; the methods name what is special to them. All
    can raise `InvalidRequest`, `StoreUnavailable`, `Overloaded`, `InternalError`, `CallFailed` and its kind
    `DeadlineExceeded`, and where the server asks who calls `Unauthenticated`, `AccessNotAllowed` and `RealmNotAllowed`;
    loads `StoredValueCorrupt`; writes `CommitOutcomeUnknown`, `RequestIdReused`, `StoreFull` and
    `StoreReadOnly`. A write that was cancelled, or raised `DeadlineExceeded`, `CommitOutcomeUnknown` or `CallFailed`,
    is either whole or nothing: repeat it with the `request_id` of the exception to make sure.
    """

    def __init__(
        self,
        address: Address = DEFAULT_ADDRESS,
        *,
        realm: str = "",
        timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS,
        max_message_bytes: int = DEFAULT_MAX_MESSAGE_BYTES,
        known_bytes: int = DEFAULT_KNOWN_BYTES,
        retry: RetryPolicy = RetryPolicy(),  # noqa: B008  (frozen)
        tls: Tls | None = None,
        token: Token | None = None,
        channel: grpc.aio.Channel | None = None,
    ) -> None:
        self._target = target_of(address)  # what cannot be one is told here, not at the first call
        if tls is not None and not isinstance(tls, Tls):
            raise TypeError(f"tls must be a Tls, not {type(tls).__name__}")
        if tls is not None and channel is not None:
            raise ValueError("tls is of a channel that the client makes; give it to the channel that you make")
        self._token = BearerToken(token, target=self._target, protected=tls is not None or channel is not None)
        self._connection = AsyncConnection(self._target, message_limit(max_message_bytes), channel, tls)
        self._realm = arguments.text("realm", realm)
        self._fences = Fences()
        self._known = KnownRuntimes(arguments.whole_number("known_bytes", known_bytes))
        self._timeout_seconds = arguments.seconds("timeout_seconds", timeout_seconds)
        if not isinstance(retry, RetryPolicy):
            raise TypeError(f"retry must be a RetryPolicy, not {type(retry).__name__}")
        self._retry = retry

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._target}>"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connection, unless the channel is the caller's. Calls in flight end with `CallFailed`."""
        await self._connection.close()

    async def auth_authority_key(self, *, timeout_seconds: float | None = None) -> str | None:
        """Load the stable name of the authority behind the realm's OAuth flows: `runtimestore:<store id>:<realm>`.

        It survives restarts, replicas and moves of the server. `None` for an ephemeral store.
        """
        return await self._unary(
            self._connection.store.AuthAuthorityKey,
            pb.AuthAuthorityKeyRequest(realm=self._realm),
            responses.authority_key,
            self._deadline(timeout_seconds),
        )

    async def persist_auth_oauth_flow_snapshot(
        self, snapshot_json: bytes, *, request_id: RequestId = None, timeout_seconds: float | None = None
    ) -> OAuthCommit:
        """Replace the realm's OAuth flow snapshot, whatever is there, in one transaction."""
        return await self._unary(
            self._connection.store.PersistAuthOAuthFlowSnapshot,
            pb.PersistAuthOAuthFlowSnapshotRequest(
                realm=self._realm,
                request_id=arguments.request_id(request_id),
                snapshot_json=arguments.opaque_bytes("snapshot_json", snapshot_json),
            ),
            responses.oauth_commit,
            self._deadline(timeout_seconds),
        )

    async def load_auth_oauth_flow_snapshot(self, *, timeout_seconds: float | None = None) -> bytes | None:
        """Load the realm's OAuth flow snapshot, byte for byte as it was written."""
        loaded = await self.load_auth_oauth_flow_snapshot_with_version(timeout_seconds=timeout_seconds)
        return loaded.snapshot_json

    async def load_auth_oauth_flow_snapshot_with_version(
        self, *, timeout_seconds: float | None = None
    ) -> OAuthFlowSnapshot:
        """Load the realm's OAuth flow snapshot and its version, as they were at one moment."""
        return await self._load_oauth_flow_snapshot(self._deadline(timeout_seconds))

    async def update_auth_oauth_flow_snapshot(
        self,
        update: Callable[[bytes | None], bytes | Awaitable[bytes]],
        *,
        timeout_seconds: float | None = None,
    ) -> OAuthCommit:
        """Replace the realm's OAuth flow snapshot by what `update`, a function or a coroutine function, makes of it.

        Nobody else's change is lost: where the snapshot was changed between the load and the write, `update` runs
        again on the new bytes, until the deadline. Each round writes under a request id of its own, kept over the
        round's retries, so that `update` never runs again on its own write. The deadline does not interrupt `update`
        itself.

        Raises:
            Exception: whatever `update` raises, unchanged; nothing was written.
            DeadlineExceeded: the snapshot kept changing.
        """
        if not callable(update):
            raise TypeError(f"update must be a function, not {type(update).__name__}")
        deadline = self._deadline(timeout_seconds)
        rounds = UpdateRounds(self._retry, deadline)
        while True:
            current = await self._load_oauth_flow_snapshot(deadline)
            made = update(current.snapshot_json)
            snapshot_json = await made if inspect.isawaitable(made) else made
            if self._connection.closed:
                raise closed_during_the_call()
            request = pb.UpdateAuthOAuthFlowSnapshotRequest(
                realm=self._realm,
                request_id=arguments.request_id(None),
                expected_version=current.version,
                snapshot_json=arguments.opaque_bytes("what update returns", snapshot_json),
            )
            try:
                return await self._unary(
                    self._connection.store.UpdateAuthOAuthFlowSnapshot, request, responses.oauth_commit, deadline
                )
            except OAuthFlowSnapshotChanged as changed:
                await asyncio.sleep(rounds.pause_after(changed))

    async def commit_session_snapshot(
        self,
        runtime_id: Identifier,
        session_delta: Document,
        *,
        if_revision: int | None = None,
        request_id: RequestId = None,
        timeout_seconds: float | None = None,
    ) -> Commit:
        """Write a session snapshot that is no run boundary: it and its session projection, in one transaction.

        Raises:
            SessionSnapshotInvalid: the snapshot's envelope is bad; nothing was written.
            RevisionMismatch: the runtime is not at `if_revision`; nothing was written.
        """
        runtime_id = arguments.identifier("runtime_id", runtime_id)
        session = arguments.document_bytes("session_delta", session_delta)
        request = pb.CommitSessionSnapshotRequest(
            realm=self._realm,
            runtime_id=runtime_id,
            request_id=arguments.request_id(request_id),
            if_revision=arguments.optional_number("if_revision", if_revision),
            fence=self._fences.held(runtime_id),
        )
        return await self._write(
            self._connection.store.CommitSessionSnapshot,
            Forms(self._known, request, session=session),
            self._deadline(timeout_seconds),
        )

    @overload
    async def atomic_apply(
        self,
        runtime_id: Identifier,
        session_delta: Document | None,
        receipt: RunBoundaryReceipt,
        input_updates: Sequence[InputState] = (),
        session_store_key: Identifier | None = None,
        *,
        if_revision: int | None = None,
        request_id: RequestId = None,
        timeout_seconds: float | None = None,
    ) -> Commit: ...

    @overload
    async def atomic_apply(
        self,
        runtime_id: Identifier,
        session_delta: Document | None = None,
        *,
        receipt: RunBoundaryReceipt,
        input_updates: Sequence[InputState] = (),
        session_store_key: Identifier | None = None,
        if_revision: int | None = None,
        request_id: RequestId = None,
        timeout_seconds: float | None = None,
    ) -> Commit: ...

    async def atomic_apply(
        self,
        runtime_id: Identifier,
        session_delta: Document | None = None,
        receipt: RunBoundaryReceipt | None = None,
        input_updates: Sequence[InputState] = (),
        session_store_key: Identifier | None = None,
        *,
        if_revision: int | None = None,
        request_id: RequestId = None,
        timeout_seconds: float | None = None,
    ) -> Commit:
        """Commit a run boundary in one transaction: session snapshot (if given) and projection, receipt, inputs.

        A receipt never exists without its session and inputs, and a boundary gets one. The same input twice: the last
        counts. `receipt` is required, in the trait's order or by its name.

        Raises:
            BoundaryReceiptExists: the boundary has a receipt already, be it an equal one; nothing was written.
            SessionKeyMismatch: `session_store_key` is not the snapshot's `id`; nothing was written.
            SessionSnapshotInvalid: the snapshot's envelope is bad; nothing was written.
            InputStateInvalid: an input document's envelope is bad; nothing was written.
            RevisionMismatch: the runtime is not at `if_revision`; nothing was written.
            TypeError: there is no receipt; nothing was sent.
        """
        runtime_id = arguments.identifier("runtime_id", runtime_id)
        session = None if session_delta is None else arguments.document_bytes("session_delta", session_delta)
        request = pb.AtomicApplyRequest(
            realm=self._realm,
            runtime_id=runtime_id,
            request_id=arguments.request_id(request_id),
            if_revision=arguments.optional_number("if_revision", if_revision),
            fence=self._fences.held(runtime_id),
            receipt=messages.receipt(receipt),
            session_store_key=arguments.optional_identifier("session_store_key", session_store_key),
        )
        inputs = messages.input_states("input_updates", input_updates)
        return await self._write(
            self._connection.store.AtomicApply,
            Forms(self._known, request, session=session, inputs=inputs),
            self._deadline(timeout_seconds),
        )

    async def load_input_states(
        self, runtime_id: Identifier, *, timeout_seconds: float | None = None
    ) -> list[InputState]:
        """Load all inputs of a runtime, `input_id` ascending, as they were at one moment."""
        loaded = await self.load_input_states_with_revision(runtime_id, timeout_seconds=timeout_seconds)
        return loaded.value

    async def load_input_states_with_revision(
        self, runtime_id: Identifier, *, timeout_seconds: float | None = None
    ) -> Loaded[list[InputState]]:
        """Load all inputs of a runtime, `input_id` ascending, and the revision, as they were at one moment."""
        runtime_id = arguments.identifier("runtime_id", runtime_id)
        loaded = await self._stream(
            self._connection.store.LoadInputStates,
            pb.LoadInputStatesRequest(realm=self._realm, runtime_id=runtime_id),
            responses.InputStatesAssembler,
            self._deadline(timeout_seconds),
        )
        self._known.loaded_inputs(runtime_id, loaded.revision, loaded.value)
        return loaded

    async def load_readable_input_states(
        self, runtime_id: Identifier, *, timeout_seconds: float | None = None
    ) -> ReadableInputStates:
        """Load all inputs of a runtime that are sound, and name those that are not, as they were at one moment.

        For the recovery of a runtime whose store was damaged: each input is told, either whole or by its id and what
        is wrong with it. Writing an input again mends it.
        """
        return await self._stream(
            self._connection.store.LoadInputStates,
            pb.LoadInputStatesRequest(
                realm=self._realm, runtime_id=arguments.identifier("runtime_id", runtime_id), skip_corrupt=True
            ),
            responses.ReadableInputStatesAssembler,
            self._deadline(timeout_seconds),
        )

    async def load_boundary_receipt(
        self, runtime_id: Identifier, run_id: Identifier, sequence: int, *, timeout_seconds: float | None = None
    ) -> RunBoundaryReceipt | None:
        """Load the receipt of one boundary: if it is there, so are the session and the inputs that came with it."""
        loaded = await self.load_boundary_receipt_with_revision(
            runtime_id, run_id, sequence, timeout_seconds=timeout_seconds
        )
        return loaded.value

    async def load_boundary_receipt_with_revision(
        self, runtime_id: Identifier, run_id: Identifier, sequence: int, *, timeout_seconds: float | None = None
    ) -> Loaded[RunBoundaryReceipt | None]:
        """Load the receipt of one boundary and the revision, as they were at one moment."""
        return await self._unary(
            self._connection.store.LoadBoundaryReceipt,
            pb.LoadBoundaryReceiptRequest(
                realm=self._realm,
                runtime_id=arguments.identifier("runtime_id", runtime_id),
                run_id=arguments.identifier("run_id", run_id),
                sequence=arguments.whole_number("sequence", sequence),
            ),
            responses.boundary_receipt,
            self._deadline(timeout_seconds),
        )

    async def load_session_snapshot(
        self, runtime_id: Identifier, *, as_of_revision: int | None = None, timeout_seconds: float | None = None
    ) -> bytes | None:
        """Load the session snapshot, byte for byte as it was written; its size and SHA-256 are checked on arrival.

        The runtime id alone is the authority: the bare uuid of a session finds nothing. With `as_of_revision` it is the
        session as the write of that revision left it.

        Raises:
            StoredValueCorrupt: what is stored, or what arrived, is not what was written.
            RevisionNotKept: the session of `as_of_revision` is not kept any more.
        """
        loaded = await self.load_session_snapshot_with_revision(
            runtime_id, as_of_revision=as_of_revision, timeout_seconds=timeout_seconds
        )
        return loaded.value

    async def load_session_snapshot_with_revision(
        self, runtime_id: Identifier, *, as_of_revision: int | None = None, timeout_seconds: float | None = None
    ) -> Loaded[bytes | None]:
        """Load the session snapshot, checked on arrival, and the revision, as they were at one moment.

        The revision is the runtime's current one, also with `as_of_revision`.

        Raises:
            StoredValueCorrupt: what is stored, or what arrived, is not what was written.
            RevisionNotKept: the session of `as_of_revision` is not kept any more.
        """
        runtime_id = arguments.identifier("runtime_id", runtime_id)
        known, since = self._known.session(runtime_id), self._known.revision(runtime_id)
        as_of = arguments.optional_number("as_of_revision", as_of_revision)
        loaded = await self._stream(
            self._connection.store.LoadSessionSnapshot,
            pb.LoadSessionSnapshotRequest(
                realm=self._realm,
                runtime_id=runtime_id,
                known_sha256=known.sha256 if known else None,
                as_of_revision=as_of,
            ),
            lambda: responses.SessionSnapshotAssembler(known, as_of),
            self._deadline(timeout_seconds),
        )
        self._known.went_back(runtime_id, since=since, revision=loaded.revision)
        session = loaded.value
        if as_of is None and session is not None:
            self._known.loaded_session(runtime_id, session)
        return Loaded(session.body if session else None, loaded.revision)

    async def load_runtime(self, runtime_id: Identifier, *, timeout_seconds: float | None = None) -> LoadedRuntime:
        """Load all that a runtime recovers from, as it was at one moment: a cold start in one call.

        Raises:
            StoredValueCorrupt: what is stored, or what arrived, is not what was written.
        """
        runtime_id = arguments.identifier("runtime_id", runtime_id)
        known = self._known.session(runtime_id)
        loaded, session = await self._stream(
            self._connection.admin.LoadRuntime,
            admin_pb.LoadRuntimeRequest(
                realm=self._realm, runtime_id=runtime_id, known_session_sha256=known.sha256 if known else None
            ),
            lambda: responses.RuntimeAssembler(known),
            self._deadline(timeout_seconds),
        )
        self._known.loaded_inputs(runtime_id, loaded.revision, loaded.input_states)
        if session is not None:
            self._known.loaded_session(runtime_id, session)
        return loaded

    async def list_session_versions(
        self,
        runtime_id: Identifier,
        *,
        page_size: int = 0,
        page_token: str = "",
        timeout_seconds: float | None = None,
    ) -> SessionVersions:
        """List the versions of a runtime's session that can be loaded with `as_of_revision`, newest first.

        A page has at most `page_size` (0: the server's choice); its `next_page_token`, empty on the last one, asks for
        the next. A page ends before a version that is damaged or lost.

        Raises:
            StoredValueCorrupt: the next version is damaged or lost; its `next_page_token` asks for those past it.
        """
        return await self._unary(
            self._connection.admin.ListSessionVersions,
            admin_pb.ListSessionVersionsRequest(
                realm=self._realm,
                runtime_id=arguments.identifier("runtime_id", runtime_id),
                page_size=min(arguments.whole_number("page_size", page_size), MOST_A_PAGE),
                page_token=arguments.text("page_token", page_token),
            ),
            responses.session_versions,
            self._deadline(timeout_seconds),
        )

    async def persist_input_state(
        self,
        runtime_id: Identifier,
        state: InputState,
        *,
        if_revision: int | None = None,
        request_id: RequestId = None,
        timeout_seconds: float | None = None,
    ) -> Commit:
        """Write one input's state in one transaction: insert or replace, the last writer wins.

        Raises:
            InputStateInvalid: the document's envelope is bad; nothing was written.
            RevisionMismatch: the runtime is not at `if_revision`; nothing was written.
        """
        runtime_id = arguments.identifier("runtime_id", runtime_id)
        written = messages.input_state("state", state)
        request = pb.PersistInputStateRequest(
            realm=self._realm,
            runtime_id=runtime_id,
            request_id=arguments.request_id(request_id),
            if_revision=arguments.optional_number("if_revision", if_revision),
            fence=self._fences.held(runtime_id),
            state=messages.stored_input(written),
        )
        return await self._write(
            self._connection.store.PersistInputState,
            Forms(self._known, request, inputs=[written]),
            self._deadline(timeout_seconds),
        )

    async def load_input_state(
        self, runtime_id: Identifier, input_id: Identifier, *, timeout_seconds: float | None = None
    ) -> InputState | None:
        """Load one input's state, its document byte for byte as it was written."""
        loaded = await self.load_input_state_with_revision(runtime_id, input_id, timeout_seconds=timeout_seconds)
        return loaded.value

    async def load_input_state_with_revision(
        self, runtime_id: Identifier, input_id: Identifier, *, timeout_seconds: float | None = None
    ) -> Loaded[InputState | None]:
        """Load one input's state and the revision, as they were at one moment."""
        return await self._unary(
            self._connection.store.LoadInputState,
            pb.LoadInputStateRequest(
                realm=self._realm,
                runtime_id=arguments.identifier("runtime_id", runtime_id),
                input_id=arguments.identifier("input_id", input_id),
            ),
            responses.input_state,
            self._deadline(timeout_seconds),
        )

    async def load_runtime_state(
        self, runtime_id: Identifier, *, timeout_seconds: float | None = None
    ) -> RuntimeState | None:
        """Load the state of a runtime; `None` if none was ever committed."""
        loaded = await self.load_runtime_state_with_revision(runtime_id, timeout_seconds=timeout_seconds)
        return loaded.value

    async def load_runtime_state_with_revision(
        self, runtime_id: Identifier, *, timeout_seconds: float | None = None
    ) -> Loaded[RuntimeState | None]:
        """Load the state of a runtime and the revision, as they were at one moment."""
        return await self._unary(
            self._connection.store.LoadRuntimeState,
            pb.LoadRuntimeStateRequest(realm=self._realm, runtime_id=arguments.identifier("runtime_id", runtime_id)),
            responses.runtime_state,
            self._deadline(timeout_seconds),
        )

    async def commit_machine_lifecycle(
        self,
        runtime_id: Identifier,
        commit: RuntimeState | str,
        input_states: Sequence[InputState] = (),
        *,
        if_revision: int | None = None,
        request_id: RequestId = None,
        timeout_seconds: float | None = None,
    ) -> Commit:
        """Write the state of a runtime and inputs' states, in one transaction. The same input twice: the last counts.

        Raises:
            InputStateInvalid: an input document's envelope is bad; nothing was written.
            RevisionMismatch: the runtime is not at `if_revision`; nothing was written.
        """
        runtime_id = arguments.identifier("runtime_id", runtime_id)
        request = pb.CommitMachineLifecycleRequest(
            realm=self._realm,
            runtime_id=runtime_id,
            request_id=arguments.request_id(request_id),
            if_revision=arguments.optional_number("if_revision", if_revision),
            fence=self._fences.held(runtime_id),
            commit=messages.lifecycle(commit),
        )
        inputs = messages.input_states("input_states", input_states)
        return await self._write(
            self._connection.store.CommitMachineLifecycle,
            Forms(self._known, request, inputs=inputs),
            self._deadline(timeout_seconds),
        )

    async def persist_ops_lifecycle(
        self,
        runtime_id: Identifier,
        snapshot: Document,
        *,
        if_revision: int | None = None,
        request_id: RequestId = None,
        timeout_seconds: float | None = None,
    ) -> Commit:
        """Write the registry of background operations in one transaction: insert or replace.

        Raises:
            OpsSnapshotInvalid: the document's envelope is bad; nothing was written.
            RevisionMismatch: the runtime is not at `if_revision`; nothing was written.
        """
        runtime_id = arguments.identifier("runtime_id", runtime_id)
        request = pb.PersistOpsLifecycleRequest(
            realm=self._realm,
            runtime_id=runtime_id,
            request_id=arguments.request_id(request_id),
            if_revision=arguments.optional_number("if_revision", if_revision),
            fence=self._fences.held(runtime_id),
            snapshot=pb.PersistedOpsSnapshot(snapshot_json=arguments.document_text("snapshot", snapshot)),
        )
        return await self._write(
            self._connection.store.PersistOpsLifecycle,
            Forms(self._known, request),
            self._deadline(timeout_seconds),
        )

    async def load_ops_lifecycle(self, runtime_id: Identifier, *, timeout_seconds: float | None = None) -> str | None:
        """Load the registry of background operations, byte for byte as it was written."""
        loaded = await self.load_ops_lifecycle_with_revision(runtime_id, timeout_seconds=timeout_seconds)
        return loaded.value

    async def load_ops_lifecycle_with_revision(
        self, runtime_id: Identifier, *, timeout_seconds: float | None = None
    ) -> Loaded[str | None]:
        """Load the registry of background operations and the revision, as they were at one moment."""
        return await self._unary(
            self._connection.store.LoadOpsLifecycle,
            pb.LoadOpsLifecycleRequest(realm=self._realm, runtime_id=arguments.identifier("runtime_id", runtime_id)),
            responses.ops_lifecycle,
            self._deadline(timeout_seconds),
        )

    async def acquire_runtime(
        self,
        runtime_id: Identifier,
        owner: str,
        *,
        request_id: RequestId = None,
        timeout_seconds: float | None = None,
    ) -> Acquisition:
        """Become the one who drives a runtime. `owner`, such as a host and a process id, is told to who is held back.

        From now on every write of this client to the runtime carries the fence, and none of an older one lands any
        more: it raises `Fenced`, also at this client when another acquires the runtime, until it acquires it again.
        A write that carries no fence is not held back, unless the server is set to require fences. A write that is
        under way while its own client acquires the runtime anew carries the older fence.
        """
        runtime_id = arguments.identifier("runtime_id", runtime_id)
        instead_of = self._fences.held(runtime_id)
        acquired, replayed = await self._unary(
            self._connection.admin.AcquireRuntime,
            admin_pb.AcquireRuntimeRequest(
                realm=self._realm,
                runtime_id=runtime_id,
                owner=arguments.text("owner", owner),
                request_id=arguments.request_id(request_id),
            ),
            responses.acquisition,
            self._deadline(timeout_seconds),
        )
        # An id of the caller's own may be that of an acquisition long ago; one that was chosen here cannot.
        stale = replayed and request_id is not None
        self._fences.hold(runtime_id, acquired.fence, instead_of=None if stale else instead_of)
        return acquired

    async def get_server_info(self, *, timeout_seconds: float | None = None) -> ServerInfo:
        """Ask what the server is and what it accepts. It reads nothing from the store."""
        return await self._unary(
            self._connection.admin.GetServerInfo,
            admin_pb.GetServerInfoRequest(realm=self._realm),
            responses.server_info,
            self._deadline(timeout_seconds),
        )

    async def _load_oauth_flow_snapshot(self, deadline: Deadline) -> OAuthFlowSnapshot:
        return await self._unary(
            self._connection.store.LoadAuthOAuthFlowSnapshot,
            pb.LoadAuthOAuthFlowSnapshotRequest(realm=self._realm),
            responses.oauth_flow_snapshot,
            deadline,
        )

    def _deadline(self, timeout_seconds: float | None) -> Deadline:
        return Deadline(self._timeout_seconds if timeout_seconds is None else timeout_seconds)

    async def _unary(
        self,
        method: grpc.aio.UnaryUnaryMultiCallable[Q, A],
        request: Q,
        read: Callable[[A], R],
        deadline: Deadline,
    ) -> R:
        async def attempt(timeout_seconds: float, metadata: Metadata) -> R:
            return read(await method(request, timeout=timeout_seconds, metadata=metadata))

        return await self._call(attempt, request, deadline)

    async def _write(
        self, method: grpc.aio.UnaryUnaryMultiCallable[T, W], forms: Forms[T], deadline: Deadline
    ) -> Commit:
        async def attempt(timeout_seconds: float, metadata: Metadata) -> Commit:
            return responses.commit(await method(forms.request, timeout=timeout_seconds, metadata=metadata))

        commit = await self._call(attempt, forms.request, deadline, forms.instead)
        forms.committed(commit.revision, replayed=commit.replayed)
        return commit

    async def _stream(
        self,
        method: grpc.aio.UnaryStreamMultiCallable[Q, A],
        request: Q,
        new_assembler: Callable[[], responses.Assembler[A, R]],
        deadline: Deadline,
    ) -> R:
        async def attempt(timeout_seconds: float, metadata: Metadata) -> R:
            assembler = new_assembler()
            stream = method(request, timeout=timeout_seconds, metadata=metadata)
            try:
                async for message in stream:
                    assembler.add(message)
                return assembler.result(await stream.trailing_metadata())
            finally:
                stream.cancel()  # nothing, once it has ended

        return await self._call(attempt, request, deadline)

    async def _call(
        self,
        attempt: Callable[[float, Metadata], Awaitable[R]],
        request: object,
        deadline: Deadline,
        instead: Callable[[RuntimeStoreError], bool] | None = None,
    ) -> R:
        """Make a call, in the one way of all: attempts under one deadline and one request id, failures by their class.

        `instead` puts another form of the request in the place of one that was refused.
        """
        attempts = Attempts(self._retry, deadline, getattr(request, "request_id", None))
        with traced(request) as trace:
            while True:
                timeout_seconds = attempts.next_timeout_seconds()
                if self._connection.closed:
                    raise attempts.last_error() or RuntimeError(CLOSED)
                try:
                    return await attempt(timeout_seconds, self._token.metadata() + trace.metadata)
                except self._connection.failures as failed:
                    error = self._connection.failure_of(failed)
                    if isinstance(error, StoredValueCorrupt):
                        self._known.forget(getattr(request, "runtime_id", ""))  # writing all of it again may mend it
                    if instead is not None and instead(error):
                        continue
                    pause_seconds = attempts.pause_after(error)
                    if pause_seconds is None or self._connection.closed:
                        raise attempts.final_error(error) from failed
                    trace.again(error, pause_seconds)
                await asyncio.sleep(pause_seconds)
