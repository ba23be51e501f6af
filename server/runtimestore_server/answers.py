"""From the tables to messages. A digest vouches for a document; the document vouches for the columns beside it.

What takes a transaction runs on a reader thread, for to look into a large document may take long.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from runtimestore.errors import StoredValueCorrupt
from runtimestore.v1 import runtime_store_pb2 as pb
from runtimestore_server import stored_documents
from runtimestore_server.receipts import receipt_message
from runtimestore_server.store import reads

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

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


class ReadableInput(NamedTuple):
    """A sound input and its seed."""

    stored: reads.StoredInput
    seed: stored_documents.InputSeed


def session(tx: Connection, runtime: RuntimeKey) -> tuple[int, reads.StoredSnapshot | None]:
    """The revision and the session snapshot of a runtime.

    Raises:
        StoredValueCorrupt: it is damaged, or the stored session id is not the document's.
    """
    revision, stored = reads.load_session_snapshot(tx, runtime)
    if stored is not None and not stored_documents.is_session(stored.body, stored.session_id):
        raise reads.corrupt("session_snapshots", "has the id of another session", **runtime._asdict())
    return revision, stored


def input_state(tx: Connection, runtime: RuntimeKey, input_id: str) -> tuple[int, ReadableInput | None]:
    """The revision of a runtime and one of its inputs.

    Raises:
        StoredValueCorrupt: it is damaged, no input's document, or another input's.
    """
    revision, stored = reads.load_input_state(tx, runtime, input_id)
    return revision, _readable(runtime, stored) if stored is not None else None


def input_states(
    tx: Connection, runtime: RuntimeKey, *, skip_corrupt: bool
) -> tuple[int, list[ReadableInput | reads.CorruptInput]]:
    """The revision and all inputs of a runtime; corrupt ones among them only if asked for.

    Raises:
        StoredValueCorrupt: one is damaged, no input's document, or another input's, and none is to be skipped.
    """
    revision, found = reads.load_input_states(tx, runtime, skip_corrupt=skip_corrupt)
    checked: list[ReadableInput | reads.CorruptInput] = []
    for item in found:
        try:
            checked.append(item if isinstance(item, reads.CorruptInput) else _readable(runtime, item))
        except StoredValueCorrupt as refusal:
            if not skip_corrupt:
                raise
            checked.append(reads.CorruptInput(refusal.metadata["input_id"], refusal.message))
    return revision, checked


def _readable(runtime: RuntimeKey, stored: reads.StoredInput) -> ReadableInput:
    key = {**runtime._asdict(), "input_id": stored.input_id}
    seed = stored_documents.input_seed(stored.state_json, stored_id=stored.input_id)
    if seed.input_id is None:
        raise reads.corrupt("inputs", "is no input's document", **key)
    if seed.input_id != stored.input_id:
        raise reads.corrupt("inputs", "has the id of another input", **key)
    return ReadableInput(stored, seed)


def ops(tx: Connection, runtime: RuntimeKey) -> tuple[int, reads.StoredOps | None]:
    """The revision and the ops document of a runtime.

    Raises:
        StoredValueCorrupt: it is damaged, no ops document, or its epoch is not the stored one.
    """
    revision, stored = reads.load_ops_lifecycle(tx, runtime)
    if stored is not None:
        named = stored_documents.epoch_id(stored.snapshot_json, stored_id=stored.epoch_id)
        if named != stored.epoch_id:
            raise reads.corrupt("ops_snapshots", "has the epoch_id of another ops document", **runtime._asdict())
    return revision, stored


def session_info(revision: int, stored: reads.StoredSnapshot) -> pb.SessionSnapshotInfo:
    """What stands before a session's bytes."""
    return pb.SessionSnapshotInfo(
        session_id=stored.session_id, size_bytes=len(stored.body), sha256=stored.sha256, revision=revision
    )


def input_message(found: ReadableInput) -> pb.StoredInputState:
    """An input with its seed."""
    stored, seed = found
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


def ops_message(stored: reads.StoredOps) -> pb.PersistedOpsSnapshot:
    """An ops document with its epoch."""
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
