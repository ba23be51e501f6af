"""All that a runtime recovers from: one consistent look at its state, inputs, receipts, ops and session."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, TypeVar

from runtimestore.v1 import runtime_store_admin_pb2 as pb
from runtimestore_server.documents import input as inputs
from runtimestore_server.documents import ops, receipt, runtime_state, session
from runtimestore_server.documents.identifiers import canonical_uuid
from runtimestore_server.store import reads
from runtimestore_server.store.by_key import select_by_key
from runtimestore_server.store.tables import receipts

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from sqlalchemy.engine import Connection

    from runtimestore_server.documents.input import ReadableInput
    from runtimestore_server.store import RuntimeKey
    from runtimestore_server.store.engines import Database
    from runtimestore_server.store.versions.chains import StoredSession
    from runtimestore_server.store.versions.recent import RecentSession

BATCH_BYTES = 1024 * 1024
RECEIPTS_AT_ONCE = 500
"""How many receipts are asked for in one statement."""

_KEY = (receipts.c.realm, receipts.c.runtime_id, receipts.c.run_id, receipts.c.sequence)
_COLUMNS = (*_KEY, receipts.c.sha256, receipts.c.receipt, receipts.c.committed_revision)

Boundary = tuple[str, int]
T = TypeVar("T")


class Recovery(NamedTuple):
    """What a runtime recovers from."""

    runtime: RuntimeKey
    revision: int
    state: str | None
    inputs: list[ReadableInput]
    receipts: list[tuple[Boundary, reads.StoredReceipt]]
    ops: reads.StoredOps | None
    session: StoredSession | None

    @property
    def size_bytes(self) -> int:
        """How many bytes of documents it holds."""
        return (
            sum(len(found.stored.state_json) for found in self.inputs)
            + sum(len(found.receipt) for _, found in self.receipts)
            + (len(self.ops.snapshot_json) if self.ops else 0)
            + (len(self.session.body or b"") if self.session else 0)
        )


def load(
    tx: Connection,
    runtime: RuntimeKey,
    database: Database,
    *,
    known_sha256: bytes | None = None,
    held: RecentSession | None = None,
) -> Recovery:
    """Read what a runtime recovers from; a session of `known_sha256` without its bytes, one that is `held` compared.

    Raises:
        StoredValueCorrupt: a part of it is damaged.
    """
    with database.one_moment(tx):
        revision, state = reads.load_runtime_state(tx, runtime)
        _, found = inputs.load_all(tx, runtime, skip_corrupt=False)
        readable = [item for item in found if not isinstance(item, reads.CorruptInput)]
        named = _receipts(tx, runtime, database, revision, readable)
        _, stored_ops = ops.load(tx, runtime)
        _, stored_session = session.load(tx, runtime, known_sha256=known_sha256, held=held)
    return Recovery(runtime, revision, state, readable, named, stored_ops, stored_session)


def _receipts(
    tx: Connection, runtime: RuntimeKey, database: Database, revision: int, found: Iterable[ReadableInput]
) -> list[tuple[Boundary, reads.StoredReceipt]]:
    """The receipts that inputs name, each once, by run and number."""
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


def messages(found: Recovery) -> Iterator[pb.LoadRuntimeResponse]:
    """Make the messages of what a runtime recovers from, in the order in which the stream has them.

    Raises:
        StoredValueCorrupt: the state is none, or a receipt is another boundary's.
    """
    state = runtime_state.message(found.runtime, found.state)
    yield pb.LoadRuntimeResponse(runtime=pb.RuntimeDescription(revision=found.revision, state=state))
    for some in _batches((item, len(item.stored.state_json)) for item in found.inputs):
        answer = pb.LoadRuntimeResponse()
        for item in some:
            inputs.fill(answer.inputs.input_states.add(), item)
        yield answer
    committed = (
        (
            pb.CommittedReceipt(
                receipt=receipt.message(found.runtime, *boundary, stored.receipt),
                committed_revision=stored.committed_revision,
            ),
            len(stored.receipt),
        )
        for boundary, stored in found.receipts
    )
    for several in _batches(committed):
        yield pb.LoadRuntimeResponse(receipts=pb.RuntimeReceipts(receipts=several))
    if found.ops is not None:
        yield pb.LoadRuntimeResponse(ops=ops.message(found.ops))
    if found.session is not None:
        yield pb.LoadRuntimeResponse(session=session.info(found.revision, found.session))
        for chunk in session.chunks(found.session):
            yield pb.LoadRuntimeResponse(session_chunk=chunk)


def _batches(items: Iterable[tuple[T, int]]) -> Iterator[list[T]]:
    """Items with their sizes, as many at once as come to a message."""
    batch: list[T] = []
    size_bytes = 0
    for item, item_bytes in items:
        if batch and size_bytes + item_bytes > BATCH_BYTES:
            yield batch
            batch, size_bytes = [], 0
        batch.append(item)
        size_bytes += item_bytes
    if batch:
        yield batch
