"""From what was read to messages. A digest vouches for a document; the document vouches for the columns beside it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from runtimestore.errors import StoredValueCorrupt
from runtimestore.v1 import runtime_store_pb2 as pb
from runtimestore_server import stored_documents
from runtimestore_server.receipts import receipt_message
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
_STATES_BY_NAME = {name: number for number, name in RUNTIME_STATES.items()}


def session_info(runtime: RuntimeKey, revision: int, stored: reads.StoredSnapshot) -> pb.SessionSnapshotInfo:
    """What stands before a session's bytes.

    Raises:
        StoredValueCorrupt: the stored session id is not the document's.
    """
    if not stored_documents.is_session(stored.body, stored.session_id):
        raise reads.corrupt("session_snapshots", "has the id of another session", **runtime._asdict())
    return pb.SessionSnapshotInfo(
        session_id=stored.session_id, size_bytes=len(stored.body), sha256=stored.sha256, revision=revision
    )


def input_message(runtime: RuntimeKey, stored: reads.StoredInput) -> pb.StoredInputState:
    """An input with its seed.

    Raises:
        StoredValueCorrupt: it is no input's document, or another input's.
    """
    key = {**runtime._asdict(), "input_id": stored.input_id}
    seed = stored_documents.input_seed(stored.state_json, stored_id=stored.input_id)
    if seed.input_id is None:
        raise reads.corrupt("inputs", "is no input's document", **key)
    if seed.input_id != stored.input_id:
        raise reads.corrupt("inputs", "has the id of another input", **key)
    return pb.StoredInputState(
        input_id=stored.input_id,
        state_json=stored.state_json.decode(),
        seed=pb.InputStateSeed(
            phase=seed.phase,
            last_run_id=seed.last_run_id,
            last_boundary_sequence=seed.last_boundary_sequence,
            attempt_count=seed.attempt_count,
        ),
    )


def readable_input(
    runtime: RuntimeKey, stored: reads.StoredInput | reads.CorruptInput, *, skip_corrupt: bool
) -> pb.StoredInputState | pb.CorruptInput:
    """An input, or, where corrupt ones are to be skipped, its id and what is wrong with it.

    Raises:
        StoredValueCorrupt: it is no input's document, or another input's, and is not to be skipped.
    """
    if isinstance(stored, reads.CorruptInput):
        return pb.CorruptInput(input_id=stored.input_id, description=stored.description)
    try:
        return input_message(runtime, stored)
    except StoredValueCorrupt as refusal:
        if not skip_corrupt:
            raise
        return pb.CorruptInput(input_id=refusal.metadata["input_id"], description=refusal.message)


def ops_message(runtime: RuntimeKey, stored: reads.StoredOps) -> pb.PersistedOpsSnapshot:
    """An ops document with its epoch.

    Raises:
        StoredValueCorrupt: it is no ops document, or its epoch is not the stored one.
    """
    if stored_documents.epoch_id(stored.snapshot_json, stored_id=stored.epoch_id) != stored.epoch_id:
        raise reads.corrupt("ops_snapshots", "has the epoch_id of another ops document", **runtime._asdict())
    return pb.PersistedOpsSnapshot(snapshot_json=stored.snapshot_json.decode(), epoch_id=stored.epoch_id)


def boundary_receipt(runtime: RuntimeKey, run_id: str, sequence: int, stored: bytes) -> pb.RunBoundaryReceipt:
    """The receipt of a boundary.

    Raises:
        StoredValueCorrupt: it cannot be decoded, or is another boundary's.
    """
    key = {**runtime._asdict(), "run_id": run_id, "sequence": str(sequence)}
    try:
        receipt = receipt_message(stored)
    except (ValueError, KeyError):
        raise reads.corrupt("receipts", "cannot be decoded", **key) from None
    if (receipt.run_id, receipt.sequence) != (run_id, sequence):
        raise reads.corrupt("receipts", "is the receipt of another boundary", **key)
    return receipt


def runtime_state(runtime: RuntimeKey, stored: str | None) -> pb.RuntimeState.ValueType | None:
    """The state of a runtime; None if it has none.

    Raises:
        StoredValueCorrupt: it is no runtime state.
    """
    if stored is None:
        return None
    state = _STATES_BY_NAME.get(stored)
    if state is None:
        raise reads.corrupt("runtimes", "is no runtime state", **runtime._asdict())
    return state
