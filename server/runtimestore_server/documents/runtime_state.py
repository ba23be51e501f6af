"""The state of a runtime: its names on the wire and in the store."""

from __future__ import annotations

from typing import TYPE_CHECKING

from runtimestore.v1 import runtime_store_pb2 as pb
from runtimestore_server.documents.identifiers import bad_field
from runtimestore_server.store import reads

if TYPE_CHECKING:
    from runtimestore_server.store import RuntimeKey

RUNTIME_STATES = {
    pb.RUNTIME_STATE_INITIALIZING: "initializing",
    pb.RUNTIME_STATE_IDLE: "idle",
    pb.RUNTIME_STATE_ATTACHED: "attached",
    pb.RUNTIME_STATE_RUNNING: "running",
    pb.RUNTIME_STATE_RETIRED: "retired",
    pb.RUNTIME_STATE_STOPPED: "stopped",
    pb.RUNTIME_STATE_DESTROYED: "destroyed",
}
_BY_NAME = {name: number for number, name in RUNTIME_STATES.items()}


def check(commit: pb.MachineLifecycleCommit) -> str:
    """Check the state in `commit`, and name it as it is stored.

    Raises:
        InvalidRequest: it is unspecified or unknown.
    """
    state = RUNTIME_STATES.get(commit.runtime_state)
    if state is None:
        raise bad_field("commit.runtime_state", f"must be one of {', '.join(RUNTIME_STATES.values())}")
    return state


def message(runtime: RuntimeKey, stored: str | None) -> pb.RuntimeState.ValueType | None:
    """Make the answer of a stored state; None if the runtime has none.

    Raises:
        StoredValueCorrupt: it is no runtime state.
    """
    if stored is None:
        return None
    state = _BY_NAME.get(stored)
    if state is None:
        raise reads.corrupt("runtimes", "is no runtime state", **runtime._asdict())
    return state
