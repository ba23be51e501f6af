"""Makes what a method returns of the responses."""

from __future__ import annotations

import datetime as dt
import hashlib
from typing import TYPE_CHECKING, Protocol, TypeVar

import grpc

from runtimestore._known import KnownSession
from runtimestore._messages import BOUNDARIES, STATES
from runtimestore._status import revision_of
from runtimestore.errors import CallFailed, StoredValueCorrupt
from runtimestore.types import (
    Acquisition,
    Commit,
    CommitCounters,
    CorruptInput,
    InputState,
    InputStateSeed,
    Limits,
    Loaded,
    LoadedRuntime,
    OAuthCommit,
    OAuthFlowSnapshot,
    ReadableInputStates,
    RunApplyBoundary,
    RunBoundaryReceipt,
    RuntimeState,
    ServerInfo,
    SessionVersion,
    SessionVersions,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from runtimestore.v1 import runtime_store_admin_pb2 as admin_pb
    from runtimestore.v1 import runtime_store_pb2 as pb

    RuntimeWriteResponse = (
        pb.CommitSessionSnapshotResponse
        | pb.AtomicApplyResponse
        | pb.PersistInputStateResponse
        | pb.CommitMachineLifecycleResponse
        | pb.PersistOpsLifecycleResponse
    )
    OAuthWriteResponse = pb.PersistAuthOAuthFlowSnapshotResponse | pb.UpdateAuthOAuthFlowSnapshotResponse
    TrailingMetadata = Iterable[tuple[str, str | bytes]] | None

V = TypeVar("V")
M_contra = TypeVar("M_contra", contravariant=True)
R_co = TypeVar("R_co", covariant=True)

_STATES: dict[int, RuntimeState] = {number: state for state, number in STATES.items()}
_BOUNDARIES: dict[int, RunApplyBoundary] = {number: boundary for boundary, number in BOUNDARIES.items()}


def commit(response: RuntimeWriteResponse) -> Commit:
    """Return the acknowledgement of a write to a runtime."""
    return Commit(response.revision, response.replayed)


def oauth_commit(response: OAuthWriteResponse) -> OAuthCommit:
    """Return the acknowledgement of a write of the OAuth flow snapshot."""
    return OAuthCommit(response.version, response.replayed)


def acquisition(response: admin_pb.AcquireRuntimeResponse) -> tuple[Acquisition, bool]:
    """Return the right to drive a runtime, and whether it was given before: the answer to a repeat."""
    previous_owner = response.previous_owner if response.HasField("previous_owner") else None
    return Acquisition(response.fence, previous_owner), response.replayed


def authority_key(response: pb.AuthAuthorityKeyResponse) -> str | None:
    """Return the authority key, if there is one."""
    return response.authority_key if response.HasField("authority_key") else None


def oauth_flow_snapshot(response: pb.LoadAuthOAuthFlowSnapshotResponse) -> OAuthFlowSnapshot:
    """Return the OAuth flow snapshot and its version."""
    return OAuthFlowSnapshot(response.snapshot_json if response.HasField("snapshot_json") else None, response.version)


def boundary_receipt(response: pb.LoadBoundaryReceiptResponse) -> Loaded[RunBoundaryReceipt | None]:
    """Return one boundary's receipt, if it has one."""
    if not response.HasField("receipt"):
        return Loaded(None, response.revision)
    committed_revision = response.committed_revision if response.HasField("committed_revision") else None
    return Loaded(_receipt(response.receipt, committed_revision), response.revision)


def input_state(response: pb.LoadInputStateResponse) -> Loaded[InputState | None]:
    """Return one input, if it is there."""
    return Loaded(_input_state(response.state) if response.HasField("state") else None, response.revision)


def runtime_state(response: pb.LoadRuntimeStateResponse) -> Loaded[RuntimeState | None]:
    """Return the runtime's state, if one was ever committed."""
    state = _known(_STATES, response.state, RuntimeState) if response.HasField("state") else None
    return Loaded(state, response.revision)


def ops_lifecycle(response: pb.LoadOpsLifecycleResponse) -> Loaded[str | None]:
    """Return the registry of background operations, if it was ever written."""
    return Loaded(response.snapshot.snapshot_json if response.HasField("snapshot") else None, response.revision)


def session_versions(response: admin_pb.ListSessionVersionsResponse) -> SessionVersions:
    """Return a page of a session's versions."""
    return SessionVersions([_session_version(version) for version in response.versions], response.next_page_token)


def _session_version(version: admin_pb.SessionVersion) -> SessionVersion:
    return SessionVersion(
        revision=version.revision,
        committed_at=version.committed_at.ToDatetime(dt.UTC) if version.HasField("committed_at") else None,
        size_bytes=version.size_bytes,
        sha256=version.sha256,
        run_id=version.run_id if version.HasField("run_id") else None,
        sequence=version.sequence if version.HasField("sequence") else None,
    )


def server_info(response: admin_pb.GetServerInfoResponse) -> ServerInfo:
    """Return what the server is."""
    limits, commits = response.limits, response.commits
    return ServerInfo(
        server_version=response.server_version,
        engine=response.engine,
        schema_revision=response.schema_revision,
        limits=Limits(
            max_message_bytes=limits.max_message_bytes,
            max_session_snapshot_bytes=limits.max_session_snapshot_bytes,
            max_document_bytes=limits.max_document_bytes,
            max_waiting_writes=limits.max_waiting_writes,
            max_waiting_bytes=limits.max_waiting_bytes,
            max_waiting_reads=limits.max_waiting_reads,
            request_retention_seconds=limits.request_retention_seconds,
            session_history_seconds=limits.session_history_seconds,
        ),
        capabilities=frozenset(response.capabilities),
        commits=CommitCounters(
            transactions=commits.transactions,
            writes=commits.writes,
            refusals=commits.refusals,
            replays=commits.replays,
        ),
    )


class Assembler(Protocol[M_contra, R_co]):
    """Puts the messages of one stream together. A stream that breaks is thrown away and read again with a new one."""

    def add(self, message: M_contra) -> None:
        """Take in the next message."""

    def result(self, trailing_metadata: TrailingMetadata) -> R_co:
        """Return the value, once the stream has ended well."""


class _InputBatches:
    """The batches of `LoadInputStates`."""

    def __init__(self) -> None:
        self._states: list[InputState] = []
        self._corrupt: list[CorruptInput] = []
        self._revision: int | None = None

    def add(self, message: pb.LoadInputStatesResponse) -> None:
        """Take in the next batch; the first tells the revision."""
        if self._revision is None:
            self._revision = message.revision
        self._states.extend(map(_input_state, message.input_states))
        self._corrupt.extend(CorruptInput(corrupt.input_id, corrupt.description) for corrupt in message.corrupt_inputs)

    def _told_revision(self) -> int:
        if self._revision is None:
            # The first message is always sent: to read its absence as "no inputs" could lose a turn.
            raise CallFailed("the stream of inputs ended without a message", grpc.StatusCode.INTERNAL)
        return self._revision


class InputStatesAssembler(_InputBatches):
    """Puts the batches of `LoadInputStates` together."""

    def result(self, trailing_metadata: TrailingMetadata) -> Loaded[list[InputState]]:  # noqa: ARG002  (an Assembler)
        """Return all inputs, in the order of the stream."""
        return Loaded(self._states, self._told_revision())


class ReadableInputStatesAssembler(_InputBatches):
    """Puts the batches of a `LoadInputStates` that skips damaged inputs together."""

    def result(self, trailing_metadata: TrailingMetadata) -> ReadableInputStates:  # noqa: ARG002  (an Assembler)
        """Return the sound inputs and the names of the others, in the order of the stream."""
        return ReadableInputStates(self._states, self._corrupt, self._told_revision())


class _Session:
    """The bytes of a session that arrive in chunks, checked against their description."""

    def __init__(self, info: pb.SessionSnapshotInfo, known: KnownSession | None) -> None:
        self.info = info
        self._known = known
        self._chunks: list[bytes] = []
        self._size_bytes = 0
        self._digest = hashlib.sha256()

    def add(self, chunk: bytes) -> None:
        """Take in the next bytes."""
        self._chunks.append(chunk)
        self._size_bytes += len(chunk)
        self._digest.update(chunk)
        if self._size_bytes > self.info.size_bytes:
            raise self._corrupt(f"more than its {self.info.size_bytes} bytes arrived")

    def whole(self) -> KnownSession:
        """Return the session: what arrived, or what the caller has where the server says that it is unchanged."""
        if self.info.unchanged:
            if self._known is None or self._known.sha256 != self.info.sha256 or self._chunks:
                raise CallFailed(
                    "the server told of a snapshot that it is unchanged, and it is", grpc.StatusCode.INTERNAL
                )
            return self._known
        if self._size_bytes != self.info.size_bytes:
            raise self._corrupt(f"{self._size_bytes} of its {self.info.size_bytes} bytes arrived")
        if self._digest.digest() != self.info.sha256:
            raise self._corrupt("the bytes that arrived do not match its SHA-256")
        return KnownSession.of(b"".join(self._chunks), self.info.sha256)

    def _corrupt(self, what: str) -> StoredValueCorrupt:
        session_id = self.info.session_id
        return StoredValueCorrupt(f"the snapshot of session {session_id}: {what}", metadata={"session_id": session_id})


class SessionSnapshotAssembler:
    """Puts the chunks of `LoadSessionSnapshot` together and checks them against their description.

    `known` is the session whose digest was sent along, `as_of_revision` what was asked for.
    """

    def __init__(self, known: KnownSession | None = None, as_of_revision: int | None = None) -> None:
        self._known = known
        self._as_of_revision = as_of_revision
        self._session: _Session | None = None

    def add(self, message: pb.LoadSessionSnapshotResponse) -> None:
        """Take in the description or the next chunk."""
        if message.WhichOneof("part") == "info":
            if self._session is not None:
                raise CallFailed("the stream of the snapshot described it twice", grpc.StatusCode.INTERNAL)
            self._session = _Session(message.info, self._known)
            if self._as_of_revision is not None and not message.info.committed_revision:
                raise CallFailed(
                    "the server keeps no earlier sessions: it is an older one", grpc.StatusCode.UNIMPLEMENTED
                )
            return
        if self._session is None:
            raise CallFailed("the stream of the snapshot did not begin with its description", grpc.StatusCode.INTERNAL)
        self._session.add(message.chunk)

    def result(self, trailing_metadata: TrailingMetadata) -> Loaded[KnownSession | None]:
        """Return the snapshot; `None` if the stream was empty, with the revision from the trailing metadata."""
        if self._session is None:
            return Loaded(None, revision_of(trailing_metadata))
        return Loaded(self._session.whole(), self._session.info.revision)


class RuntimeAssembler:
    """Puts the parts of `LoadRuntime` together; `known` is the session whose digest was sent along."""

    def __init__(self, known: KnownSession | None) -> None:
        self._known = known
        self._runtime: admin_pb.RuntimeDescription | None = None
        self._inputs: list[InputState] = []
        self._receipts: list[RunBoundaryReceipt] = []
        self._ops: str | None = None
        self._session: _Session | None = None

    def add(self, message: admin_pb.LoadRuntimeResponse) -> None:
        """Take in the next part."""
        match message.WhichOneof("part"):
            case "runtime":
                self._runtime = message.runtime
            case "inputs":
                self._inputs.extend(map(_input_state, message.inputs.input_states))
            case "receipts":
                self._receipts.extend(
                    _receipt(found.receipt, found.committed_revision if found.HasField("committed_revision") else None)
                    for found in message.receipts.receipts
                )
            case "ops":
                self._ops = message.ops.snapshot_json
            case "session":
                self._session = _Session(message.session, self._known)
            case "session_chunk" if self._session is not None:
                self._session.add(message.session_chunk)
            case part:
                raise CallFailed(f"the stream of the runtime has a part {part} out of place", grpc.StatusCode.INTERNAL)

    def result(self, trailing_metadata: TrailingMetadata) -> tuple[LoadedRuntime, KnownSession | None]:  # noqa: ARG002  (an Assembler)
        """Return the runtime, whole, and its session."""
        if self._runtime is None:
            # It is always sent: to read its absence as "nothing there" could lose a turn.
            raise CallFailed("the stream of the runtime ended without its description", grpc.StatusCode.INTERNAL)
        told, session = self._runtime, self._session.whole() if self._session else None
        loaded = LoadedRuntime(
            revision=told.revision,
            state=_known(_STATES, told.state, RuntimeState) if told.HasField("state") else None,
            input_states=self._inputs,
            receipts=self._receipts,
            ops_snapshot=self._ops,
            session_snapshot=session.body if session else None,
        )
        return loaded, session


def _receipt(receipt: pb.RunBoundaryReceipt, committed_revision: int | None) -> RunBoundaryReceipt:
    return RunBoundaryReceipt(
        run_id=receipt.run_id,
        boundary=_known(_BOUNDARIES, receipt.boundary, RunApplyBoundary),
        contributing_input_ids=tuple(receipt.contributing_input_ids),
        message_count=receipt.message_count,
        sequence=receipt.sequence,
        conversation_digest=receipt.conversation_digest if receipt.HasField("conversation_digest") else None,
        committed_revision=committed_revision,
    )


def _input_state(stored: pb.StoredInputState) -> InputState:
    return InputState(stored.input_id, stored.state_json, _seed(stored.seed) if stored.HasField("seed") else None)


def _seed(seed: pb.InputStateSeed) -> InputStateSeed:
    return InputStateSeed(
        phase=seed.phase,
        last_run_id=seed.last_run_id if seed.HasField("last_run_id") else None,
        last_boundary_sequence=seed.last_boundary_sequence if seed.HasField("last_boundary_sequence") else None,
        attempt_count=seed.attempt_count if seed.HasField("attempt_count") else None,
    )


def _known(members: Mapping[int, V], number: int, enum: type[V]) -> V:
    member = members.get(number)
    if member is None:
        raise CallFailed(
            f"the server answered with {enum.__name__} {number}, which this client does not know",
            grpc.StatusCode.UNIMPLEMENTED,
        )
    return member
