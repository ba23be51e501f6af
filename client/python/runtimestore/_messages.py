"""Makes the parts of requests that several methods send, and knows the numbers of the enums."""

from __future__ import annotations

from collections.abc import Iterable

from runtimestore._arguments import member
from runtimestore.types import InputState, RunApplyBoundary, RunBoundaryReceipt, RuntimeState
from runtimestore.v1 import runtime_store_pb2 as pb

__all__ = ["BOUNDARIES", "STATES", "input_state", "input_states", "lifecycle", "receipt", "stored_input"]

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


def lifecycle(value: object) -> pb.MachineLifecycleCommit:
    """Return the state of a runtime to write."""
    return pb.MachineLifecycleCommit(runtime_state=STATES[member("commit", RuntimeState, value)])


def input_state(name: str, value: object) -> InputState:
    """Return one input to write."""
    if not isinstance(value, InputState):
        raise TypeError(f"{name} must be an InputState, not {type(value).__name__}")
    return value


def input_states(name: str, values: object) -> list[InputState]:
    """Return the inputs to write, in their order. Messages are made of those alone that are sent."""
    if not isinstance(values, Iterable):
        raise TypeError(f"{name} must be a sequence of InputState, not {type(values).__name__}")
    return [
        value if isinstance(value, InputState) else input_state(f"{name}[{number}]", value)
        for number, value in enumerate(values)
    ]


def stored_input(state: InputState) -> pb.StoredInputState:
    """Return the message of an input to write, without what the server reads out of its document."""
    return pb.StoredInputState(input_id=state.input_id, state_json=state.state_json)


def receipt(value: object) -> pb.RunBoundaryReceipt:
    """Return the receipt of a boundary to write."""
    if not isinstance(value, RunBoundaryReceipt):
        raise TypeError(f"receipt must be a RunBoundaryReceipt, not {type(value).__name__}")
    return pb.RunBoundaryReceipt(
        run_id=value.run_id,
        boundary=BOUNDARIES[value.boundary],
        contributing_input_ids=value.contributing_input_ids,
        conversation_digest=value.conversation_digest,
        message_count=value.message_count,
        sequence=value.sequence,
    )
