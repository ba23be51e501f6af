"""Answers all that a runtime recovers from: one consistent look at its state, inputs, receipts, ops and session."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from runtimestore.v1 import runtime_store_admin_pb2 as pb
from runtimestore_server.documents import input as inputs
from runtimestore_server.documents import ops, receipt, runtime_state, session, wire
from runtimestore_server.documents.identifiers import canonical_uuid
from runtimestore_server.integers import varint
from runtimestore_server.store import reads
from runtimestore_server.store.by_key import select_by_key
from runtimestore_server.store.tables import receipts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from sqlalchemy.engine import Connection

    from runtimestore_server.documents.input import ReadableInput
    from runtimestore_server.store import RuntimeKey
    from runtimestore_server.store.engines import Database
    from runtimestore_server.store.versions.chains import StoredSession
    from runtimestore_server.store.versions.recent import RecentSession

LARGE_BYTES = 256 * 1024
"""So much is sent while the session is being read; of less there is nothing to gain."""
RECEIPTS_AT_ONCE = 500
"""How many receipts are asked for in one statement."""

_KEY = tuple(receipts.primary_key)
_COLUMNS = (*_KEY, receipts.c.sha256, receipts.c.receipt, receipts.c.committed_revision)

Boundary = tuple[str, int]


@dataclass(frozen=True)
class Beginning:
    """What comes before the session of what a runtime recovers from."""

    revision: int
    messages: list[bytes]
    """Its messages, as they travel."""
    size_bytes: int
    """How many bytes of documents they have."""


@dataclass(frozen=True)
class Recovery(reads.Counted):
    """What a runtime recovers from."""

    beginning: Beginning
    session: StoredSession | None
    size_bytes: int
    """How many bytes of documents all of it has."""


def load(
    tx: Connection,
    runtime: RuntimeKey,
    database: Database,
    *,
    known_sha256: bytes | None = None,
    held: RecentSession | None = None,
    begun: Callable[[Beginning], None] | None = None,
) -> Recovery:
    """Read what a runtime recovers from; a session of `known_sha256` without its bytes, one that is `held` compared.

    What comes before the session is told to `begun` as soon as it is there, and where that takes a while.

    Raises:
        StoredValueCorrupt: a part of it is damaged, the state is none, or a receipt is another boundary's.
    """
    with database.one_moment(tx):
        beginning = _beginning(tx, runtime, database)
        if begun is not None and beginning.size_bytes >= LARGE_BYTES:
            begun(beginning)
        _, stored_session = session.load(tx, runtime, known_sha256=known_sha256, held=held)
    size_bytes = beginning.size_bytes + (len(stored_session.body or b"") if stored_session else 0)
    return Recovery(beginning, stored_session, size_bytes)


def _beginning(tx: Connection, runtime: RuntimeKey, database: Database) -> Beginning:
    """Read all that comes before the session, and make its messages: here, and not on the event loop."""
    revision, state = reads.load_runtime_state(tx, runtime)
    _, found = inputs.load_all(tx, runtime, skip_corrupt=False)
    readable = [item for item in found if not isinstance(item, reads.CorruptInput)]
    named = _receipts(tx, runtime, database, revision, readable)
    _, stored_ops = ops.load(tx, runtime)
    size_bytes = (
        sum(len(item.stored.state_json) for item in readable)
        + sum(len(stored.receipt) for _, stored in named)
        + (len(stored_ops.snapshot_json) if stored_ops else 0)
    )
    described = pb.RuntimeDescription(revision=revision, state=runtime_state.message(runtime, state))
    messages = [
        pb.LoadRuntimeResponse(runtime=described).SerializeToString(),
        *_of_inputs(readable),
        *_of_receipts(runtime, named),
    ]
    if stored_ops is not None:
        messages.append(pb.LoadRuntimeResponse(ops=ops.message(stored_ops)).SerializeToString())
    return Beginning(revision, messages, size_bytes)


def _receipts(
    tx: Connection, runtime: RuntimeKey, database: Database, revision: int, found: Iterable[ReadableInput]
) -> list[tuple[Boundary, reads.StoredReceipt]]:
    """Return the receipts that inputs name, each once, by run and number."""
    named = sorted({boundary for item in found if (boundary := _named_by(item)) is not None})
    stored: dict[Boundary, reads.StoredReceipt] = {}
    for start in range(0, len(named), RECEIPTS_AT_ONCE):
        keys = [(*runtime, *boundary) for boundary in named[start : start + RECEIPTS_AT_ONCE]]
        for row in database.ask(tx, select_by_key(database, _KEY, _COLUMNS), _KEY, keys)():
            key = {"run_id": row.run_id, "sequence": str(row.sequence)}
            stored[row.run_id, row.sequence] = reads.checked_receipt(row, runtime, revision, **key)
    return sorted(stored.items())


def _named_by(item: ReadableInput) -> Boundary | None:
    run_id, sequence = item.seed.last_run_id, item.seed.last_boundary_sequence
    if run_id is None or sequence is None or (canonical := canonical_uuid(run_id)) is None:
        return None
    return canonical, sequence


def _of_inputs(found: Iterable[ReadableInput]) -> Iterator[bytes]:
    begin = wire.key(pb.LoadRuntimeResponse.INPUTS_FIELD_NUMBER)
    return inputs.batches(found, pb.RuntimeInputs.INPUT_STATES_FIELD_NUMBER, lambda size: begin + varint(size))


def _of_receipts(runtime: RuntimeKey, named: Iterable[tuple[Boundary, reads.StoredReceipt]]) -> Iterator[bytes]:
    batch: list[pb.CommittedReceipt] = []
    size_bytes = 0
    for boundary, stored in named:
        if batch and size_bytes + len(stored.receipt) > wire.MESSAGE_BYTES:
            yield pb.LoadRuntimeResponse(receipts=pb.RuntimeReceipts(receipts=batch)).SerializeToString()
            batch, size_bytes = [], 0
        told = receipt.message(runtime, *boundary, stored.receipt)
        batch.append(pb.CommittedReceipt(receipt=told, committed_revision=stored.committed_revision))
        size_bytes += len(stored.receipt)
    if batch:
        yield pb.LoadRuntimeResponse(receipts=pb.RuntimeReceipts(receipts=batch)).SerializeToString()


def of_session(found: Recovery) -> Iterator[bytes]:
    """Make the messages of the session, as they travel, behind those of the beginning."""
    if found.session is not None:
        described = session.info(found.beginning.revision, found.session)
        yield pb.LoadRuntimeResponse(session=described).SerializeToString()
        yield from session.chunks(found.session, pb.LoadRuntimeResponse.SESSION_CHUNK_FIELD_NUMBER)
