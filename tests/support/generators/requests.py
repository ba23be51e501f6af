"""A good request of every method, for tests that spoil one field of it."""

from __future__ import annotations

from typing import Any

from runtimestore.v1 import runtime_store_pb2 as pb
from support.generators.documents import input_state, new_id, ops, session

RUNTIME = {"runtime_id": "rt:session:x"}


def _input() -> pb.StoredInputState:
    state = input_state()
    return pb.StoredInputState(input_id=state.input_id, state_json=state.state_json)


def _receipt() -> pb.RunBoundaryReceipt:
    return pb.RunBoundaryReceipt(run_id=new_id(), boundary=pb.RUN_APPLY_BOUNDARY_RUN_START)


def _fields() -> dict[str, dict[str, Any]]:
    delta = pb.SessionDelta(session_snapshot=session())
    return {
        "AuthAuthorityKey": {},
        "PersistAuthOAuthFlowSnapshot": {"snapshot_json": b"{}"},
        "LoadAuthOAuthFlowSnapshot": {},
        "UpdateAuthOAuthFlowSnapshot": {"snapshot_json": b"{}"},
        "CommitSessionSnapshot": {**RUNTIME, "session_delta": delta},
        "AtomicApply": {**RUNTIME, "session_delta": delta, "receipt": _receipt(), "input_updates": [_input()]},
        "LoadInputStates": RUNTIME,
        "LoadBoundaryReceipt": {**RUNTIME, "run_id": new_id()},
        "LoadSessionSnapshot": RUNTIME,
        "PersistInputState": {**RUNTIME, "state": _input()},
        "LoadInputState": {**RUNTIME, "input_id": new_id()},
        "LoadRuntimeState": RUNTIME,
        "CommitMachineLifecycle": {
            **RUNTIME,
            "commit": pb.MachineLifecycleCommit(runtime_state=pb.RUNTIME_STATE_IDLE),
            "input_states": [_input()],
        },
        "PersistOpsLifecycle": {**RUNTIME, "snapshot": pb.PersistedOpsSnapshot(snapshot_json=ops())},
        "LoadOpsLifecycle": RUNTIME,
    }


ALL = tuple(_fields())
OAUTH = tuple(name for name in ALL if "Auth" in name)
ABOUT_RUNTIMES = tuple(name for name in ALL if name not in OAUTH)
WRITES = tuple(name for name in ALL if not name.startswith("Load") and name != "AuthAuthorityKey")
LOADS = tuple(name for name in ALL if name.startswith("Load"))
RUNTIME_WRITES = tuple(name for name in WRITES if name in ABOUT_RUNTIMES)


def request_of(method: str, **changed: Any) -> Any:
    """A good request of a method, with some fields changed."""
    return getattr(pb, f"{method}Request")(**{**_fields()[method], **changed})
