"""From the arguments of a client's method to the request message."""

from __future__ import annotations

import threading
import uuid
from typing import TYPE_CHECKING

from runtimestore.types import InputState, RunApplyBoundary, RunBoundaryReceipt, RuntimeState
from runtimestore.v1 import runtime_store_admin_pb2 as admin_pb
from runtimestore.v1 import runtime_store_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["BOUNDARIES", "STATES", "RequestId", "Requests"]

RequestId = str | uuid.UUID | None
"""A write's request id: `None` has one chosen, the empty text sends none."""

STATES: dict[RuntimeState, pb.RuntimeState.ValueType] = {
    RuntimeState.INITIALIZING: pb.RUNTIME_STATE_INITIALIZING,
    RuntimeState.IDLE: pb.RUNTIME_STATE_IDLE,
    RuntimeState.ATTACHED: pb.RUNTIME_STATE_ATTACHED,
    RuntimeState.RUNNING: pb.RUNTIME_STATE_RUNNING,
    RuntimeState.RETIRED: pb.RUNTIME_STATE_RETIRED,
    RuntimeState.STOPPED: pb.RUNTIME_STATE_STOPPED,
    RuntimeState.DESTROYED: pb.RUNTIME_STATE_DESTROYED,
}

BOUNDARIES: dict[RunApplyBoundary, pb.RunApplyBoundary.ValueType] = {
    RunApplyBoundary.IMMEDIATE: pb.RUN_APPLY_BOUNDARY_IMMEDIATE,
    RunApplyBoundary.RUN_START: pb.RUN_APPLY_BOUNDARY_RUN_START,
    RunApplyBoundary.RUN_CHECKPOINT: pb.RUN_APPLY_BOUNDARY_RUN_CHECKPOINT,
}


class Requests:
    """The requests of one client, all with its realm. A write gets its request id here, once for all attempts.

    It also gets the fence of its runtime, if the client acquired it.
    """

    def __init__(self, realm: str) -> None:
        self._realm = realm
        self._fences: dict[str, int] = {}
        self._holding = threading.Lock()

    def held(self, runtime_id: str) -> int | None:
        """The fence that is sent with writes to the runtime; `None` if the client did not acquire it."""
        return self._fences.get(runtime_id)

    def hold(self, runtime_id: str, fence: int, *, instead_of: int | None) -> None:
        """Send this fence with every write to the runtime from now on; `instead_of` was held when it was asked for.

        Without `instead_of` it takes the place of older ones only.
        """
        with self._holding:
            held = self._fences.get(runtime_id)
            # Of two that were asked for at once the greater is the newer, whichever was answered last. But not the
            # greatest ever seen: a store that was restored from a backup counts from there.
            self._fences[runtime_id] = fence if held is None or held == instead_of else max(fence, held)

    def auth_authority_key(self) -> pb.AuthAuthorityKeyRequest:
        """Ask for the authority key."""
        return pb.AuthAuthorityKeyRequest(realm=self._realm)

    def persist_auth_oauth_flow_snapshot(
        self, snapshot_json: bytes, request_id: RequestId
    ) -> pb.PersistAuthOAuthFlowSnapshotRequest:
        """Replace the OAuth flow snapshot."""
        return pb.PersistAuthOAuthFlowSnapshotRequest(
            realm=self._realm, request_id=_request_id(request_id), snapshot_json=_flow_snapshot(snapshot_json)
        )

    def load_auth_oauth_flow_snapshot(self) -> pb.LoadAuthOAuthFlowSnapshotRequest:
        """Ask for the OAuth flow snapshot."""
        return pb.LoadAuthOAuthFlowSnapshotRequest(realm=self._realm)

    def update_auth_oauth_flow_snapshot(
        self, expected_version: int, snapshot_json: bytes
    ) -> pb.UpdateAuthOAuthFlowSnapshotRequest:
        """Replace the OAuth flow snapshot if it is at the version; always under a fresh request id."""
        return pb.UpdateAuthOAuthFlowSnapshotRequest(
            realm=self._realm,
            request_id=_request_id(None),
            expected_version=expected_version,
            snapshot_json=_flow_snapshot(snapshot_json),
        )

    def commit_session_snapshot(
        self, runtime_id: str, session_delta: bytes, if_revision: int | None, request_id: RequestId
    ) -> pb.CommitSessionSnapshotRequest:
        """Write a session snapshot."""
        return pb.CommitSessionSnapshotRequest(
            realm=self._realm,
            runtime_id=runtime_id,
            request_id=_request_id(request_id),
            if_revision=if_revision,
            fence=self._fences.get(runtime_id),
            session_delta=pb.SessionDelta(session_snapshot=session_delta),
        )

    def atomic_apply(
        self,
        runtime_id: str,
        session_delta: bytes | None,
        receipt: RunBoundaryReceipt | None,
        input_updates: Iterable[InputState],
        session_store_key: str | None,
        if_revision: int | None,
        request_id: RequestId,
    ) -> pb.AtomicApplyRequest:
        """Commit a run boundary."""
        if receipt is None:
            raise TypeError("atomic_apply() needs a receipt")
        return pb.AtomicApplyRequest(
            realm=self._realm,
            runtime_id=runtime_id,
            request_id=_request_id(request_id),
            if_revision=if_revision,
            fence=self._fences.get(runtime_id),
            session_delta=None if session_delta is None else pb.SessionDelta(session_snapshot=session_delta),
            receipt=_receipt(receipt),
            input_updates=map(_input_state, input_updates),
            session_store_key=session_store_key,
        )

    def load_input_states(self, runtime_id: str, *, skip_corrupt: bool = False) -> pb.LoadInputStatesRequest:
        """Ask for all inputs."""
        return pb.LoadInputStatesRequest(realm=self._realm, runtime_id=runtime_id, skip_corrupt=skip_corrupt)

    def load_boundary_receipt(self, runtime_id: str, run_id: str, sequence: int) -> pb.LoadBoundaryReceiptRequest:
        """Ask for one boundary's receipt."""
        return pb.LoadBoundaryReceiptRequest(realm=self._realm, runtime_id=runtime_id, run_id=run_id, sequence=sequence)

    def load_session_snapshot(self, runtime_id: str) -> pb.LoadSessionSnapshotRequest:
        """Ask for the session snapshot."""
        return pb.LoadSessionSnapshotRequest(realm=self._realm, runtime_id=runtime_id)

    def persist_input_state(
        self, runtime_id: str, state: InputState, if_revision: int | None, request_id: RequestId
    ) -> pb.PersistInputStateRequest:
        """Write one input."""
        return pb.PersistInputStateRequest(
            realm=self._realm,
            runtime_id=runtime_id,
            request_id=_request_id(request_id),
            if_revision=if_revision,
            fence=self._fences.get(runtime_id),
            state=_input_state(state),
        )

    def load_input_state(self, runtime_id: str, input_id: str) -> pb.LoadInputStateRequest:
        """Ask for one input."""
        return pb.LoadInputStateRequest(realm=self._realm, runtime_id=runtime_id, input_id=input_id)

    def load_runtime_state(self, runtime_id: str) -> pb.LoadRuntimeStateRequest:
        """Ask for the runtime's state."""
        return pb.LoadRuntimeStateRequest(realm=self._realm, runtime_id=runtime_id)

    def commit_machine_lifecycle(
        self,
        runtime_id: str,
        commit: RuntimeState,
        input_states: Iterable[InputState],
        if_revision: int | None,
        request_id: RequestId,
    ) -> pb.CommitMachineLifecycleRequest:
        """Commit a lifecycle change."""
        return pb.CommitMachineLifecycleRequest(
            realm=self._realm,
            runtime_id=runtime_id,
            request_id=_request_id(request_id),
            if_revision=if_revision,
            fence=self._fences.get(runtime_id),
            commit=pb.MachineLifecycleCommit(runtime_state=STATES[commit]),
            input_states=map(_input_state, input_states),
        )

    def persist_ops_lifecycle(
        self, runtime_id: str, snapshot: str, if_revision: int | None, request_id: RequestId
    ) -> pb.PersistOpsLifecycleRequest:
        """Write the registry of background operations."""
        return pb.PersistOpsLifecycleRequest(
            realm=self._realm,
            runtime_id=runtime_id,
            request_id=_request_id(request_id),
            if_revision=if_revision,
            fence=self._fences.get(runtime_id),
            snapshot=pb.PersistedOpsSnapshot(snapshot_json=snapshot),
        )

    def load_ops_lifecycle(self, runtime_id: str) -> pb.LoadOpsLifecycleRequest:
        """Ask for the registry of background operations."""
        return pb.LoadOpsLifecycleRequest(realm=self._realm, runtime_id=runtime_id)

    def acquire_runtime(self, runtime_id: str, owner: str, request_id: RequestId) -> admin_pb.AcquireRuntimeRequest:
        """Ask to be the one who drives a runtime."""
        return admin_pb.AcquireRuntimeRequest(
            realm=self._realm, runtime_id=runtime_id, owner=owner, request_id=_request_id(request_id)
        )

    def get_server_info(self) -> admin_pb.GetServerInfoRequest:
        """Ask what the server is."""
        return admin_pb.GetServerInfoRequest(realm=self._realm)


def _request_id(request_id: RequestId) -> str:
    return str(uuid.uuid4() if request_id is None else request_id)


def _input_state(state: InputState) -> pb.StoredInputState:
    return pb.StoredInputState(input_id=state.input_id, state_json=state.state_json)


def _receipt(receipt: RunBoundaryReceipt) -> pb.RunBoundaryReceipt:
    return pb.RunBoundaryReceipt(
        run_id=receipt.run_id,
        boundary=BOUNDARIES[receipt.boundary],
        contributing_input_ids=receipt.contributing_input_ids,
        conversation_digest=receipt.conversation_digest,
        message_count=receipt.message_count,
        sequence=receipt.sequence,
    )


def _flow_snapshot(snapshot_json: object) -> bytes:
    """A forgotten `return` must not empty the snapshot: to protobuf None is a field that is not set."""
    if not isinstance(snapshot_json, bytes):
        raise TypeError(f"the OAuth flow snapshot must be bytes, not {type(snapshot_json).__name__}")
    return snapshot_json
