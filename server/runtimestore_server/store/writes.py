"""The write path: a batch of writes to runtimes, put into the store as if they had come one after the other."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

import sqlalchemy as sa

from runtimestore.errors import BoundaryReceiptExists, RevisionMismatch, RuntimeStoreError
from runtimestore_server.store import fences, keyed, tables
from runtimestore_server.store.keyed import select_by_key
from runtimestore_server.store.reads import corrupt, is_count
from runtimestore_server.store.requests import Decision, RequestMemory
from runtimestore_server.store.values import Outcome, RuntimeKey, Write

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from sqlalchemy.engine import Connection

    from runtimestore_server.store.engines import Database


class _RuntimeRow(NamedTuple):
    revision: int
    runtime_state: str | None = None
    """What this batch sets; None leaves what is stored, which other writes need not know and which may be damaged."""


_NEVER_WRITTEN = _RuntimeRow(0)

InputKey = tuple[str, str, str]
BoundaryKey = tuple[str, str, str, int]


def commit(database: Database, tx: Connection, batch: Sequence[Write], *, now_ms: int) -> list[Decision]:
    """Put a batch of writes into the store: each lands whole or is refused whole.

    Rows are locked in one order everywhere, fences before runtimes and by their keys, so that no two transactions wait
    for each other in a circle. The order of the decisions is that of the questions: was this request seen before, may
    it land here at all, does the writer hold the newest fence, is the runtime at the expected revision, is the boundary
    still free? What passes all is written. The second write to a runtime sees what the first one left. Nothing is
    decided by anything outside `tx`, so that the transaction can be run again.

    Raises:
        RowTaken: another transaction recorded a request id of this batch meanwhile; run again.
    """
    held = fences.held_by_writers(database, tx, batch)
    rows, made = _lock_runtimes(database, tx, {write.runtime for write in batch})
    memory = RequestMemory(database, tx, batch)
    boundaries = _taken_boundaries(database, tx, batch)
    landing = _Landing()
    decisions: list[Decision] = []
    for write in batch:
        row = rows.get(write.runtime, _NEVER_WRITTEN)
        decision = (
            memory.recall(write)
            or (write.forbidden and write.forbidden.refusal)
            or _damage(write.runtime, rows, made)
            or fences.refusal(write, held)
            or _refusal(write, row, boundaries)
        )
        if decision is None:
            row = _RuntimeRow(row.revision + 1, write.runtime_state or row.runtime_state)
            rows[write.runtime] = landing.runtimes[write.runtime] = row
            landing.add(write)
            if write.receipt:
                boundaries.add(_boundary(write))
            memory.remember(write, row.revision)
            decision = Outcome(row.revision)
        decisions.append(decision)
    landing.write_down(database, tx)
    memory.record(now_ms)
    _drop_unwritten(database, tx, [key for key in made if rows[key].revision == 0])
    return decisions


def _damage(key: RuntimeKey, rows: dict[RuntimeKey, _RuntimeRow], made: set[RuntimeKey]) -> RuntimeStoreError | None:
    """The refusal to count on from a row whose revision no write left."""
    if key not in rows or key in made or is_count(rows[key].revision):
        return None
    return corrupt(tables.runtimes.name, "has no revision", **key._asdict())


def _refusal(write: Write, row: _RuntimeRow, boundaries: set[BoundaryKey]) -> RuntimeStoreError | None:
    """Why this write may not land, if so."""
    if write.if_revision is not None and write.if_revision != row.revision:
        return RevisionMismatch(
            f"the runtime is at revision {row.revision}, not at {write.if_revision}; load it again and decide anew",
            metadata={"if_revision": str(write.if_revision), "current_revision": str(row.revision)},
        )
    if write.receipt and _boundary(write) in boundaries:
        run_id, sequence = write.receipt.run_id, str(write.receipt.sequence)
        return BoundaryReceiptExists(
            f"boundary {sequence} of run {run_id} has its receipt already; nothing of this request was applied",
            metadata={"runtime_id": write.runtime.runtime_id, "run_id": run_id, "sequence": sequence},
        )
    return None


def _boundary(write: Write) -> BoundaryKey:
    assert write.receipt is not None  # noqa: S101  (for the type checker; callers have asked)
    return (*write.runtime, write.receipt.run_id, write.receipt.sequence)


class _Landing:
    """The rows of all writes that land, by key, so that the last writer wins within a batch too."""

    def __init__(self) -> None:
        self.runtimes: dict[RuntimeKey, _RuntimeRow] = {}
        self._snapshots: dict[RuntimeKey, tuple[Any, ...]] = {}
        self._sessions: dict[tuple[str, str], tuple[Any, ...]] = {}
        self._ops: dict[RuntimeKey, tuple[Any, ...]] = {}
        self._inputs: dict[InputKey, tuple[bytes, bytes]] = {}
        self._receipts: dict[BoundaryKey, tuple[bytes, bytes]] = {}

    def add(self, write: Write) -> None:
        """Take in the rows of one write."""
        realm, runtime_id = write.runtime
        if snapshot := write.snapshot:
            self._snapshots[write.runtime] = (snapshot.session_id, snapshot.sha256, snapshot.body)
            self._sessions[realm, snapshot.session_id] = (
                runtime_id,
                snapshot.created_at_ms,
                snapshot.updated_at_ms,
                snapshot.message_count,
                snapshot.total_tokens,
            )
        if write.receipt:
            self._receipts[_boundary(write)] = (write.receipt.sha256, write.receipt.receipt)
        for document in write.inputs:
            self._inputs[realm, runtime_id, document.input_id] = (document.sha256, document.state_json)
        if ops := write.ops:
            self._ops[write.runtime] = (ops.epoch_id, ops.sha256, ops.snapshot_json)

    def write_down(self, database: Database, tx: Connection) -> None:
        """One statement a table, rows in key order, so that two transactions cannot wait for each other in a circle."""
        unchanged = _stored_digests(database, tx, self._inputs)
        for key in [key for key, (digest, _) in self._inputs.items() if unchanged.get(key) == digest]:
            del self._inputs[key]
        database.upsert(tx, tables.runtimes, _sorted_rows(self.runtimes))
        database.upsert(tx, tables.session_snapshots, _sorted_rows(self._snapshots))
        database.upsert(tx, tables.sessions, _sorted_rows(self._sessions))
        # Under the runtime's lock the key is free; if it is not after all, better an error than a second receipt.
        _insert_receipts(database, tx, _sorted_rows(self._receipts))
        database.upsert(tx, tables.inputs, _sorted_rows(self._inputs))
        database.upsert(tx, tables.ops_snapshots, _sorted_rows(self._ops))


def _sorted_rows(rows: dict[Any, Any]) -> list[tuple[Any, ...]]:
    return [(*key, *rest) for key, rest in sorted(rows.items(), key=lambda item: item[0])]


def _insert_receipts(database: Database, tx: Connection, rows: list[tuple[Any, ...]]) -> None:
    if database.insert_new(tx, tables.receipts, rows) != len(rows):
        raise RuntimeError("a receipt appeared under a locked runtime")


def _lock_runtimes(
    database: Database, tx: Connection, runtimes: Iterable[RuntimeKey]
) -> tuple[dict[RuntimeKey, _RuntimeRow], set[RuntimeKey]]:
    """The runtimes' rows, locked until the transaction ends: nobody else changes them or their boundaries.

    Beside them the keys of those that were made only to be locked.
    """
    keys = sorted(runtimes)
    found = _select_runtimes(database, tx, keys)
    made: set[RuntimeKey] = set()
    if database.concurrent_writers and len(found) < len(keys):
        # A row that is not there cannot be locked: make it, then look at what the key decided.
        missing = [(*key, 0, None) for key in keys if key not in found]
        database.insert_new(tx, tables.runtimes, missing)
        made = {RuntimeKey(*row[:2]) for row in missing}
        found |= _select_runtimes(database, tx, sorted(made))
    return found, made


def held_by_others(database: Database, tx: Connection, batch: Sequence[Write]) -> set[RuntimeKey]:
    """The runtimes that these writes would have to wait for, because another session holds their rows now."""
    columns = (tables.runtimes.c.realm, tables.runtimes.c.runtime_id)
    held = keyed.held_by_others(database, tx, columns, sorted({write.runtime for write in batch}))
    return {RuntimeKey(*key) for key in held} | fences.held_from_writers(database, tx, batch)


def _select_runtimes(database: Database, tx: Connection, keys: Sequence[RuntimeKey]) -> dict[RuntimeKey, _RuntimeRow]:
    columns = (tables.runtimes.c.realm, tables.runtimes.c.runtime_id)
    rows = tx.execute(_runtimes_for_update(database), database.keys(columns, keys))
    return {RuntimeKey(row.realm, row.runtime_id): _RuntimeRow(row.revision) for row in rows}


def _drop_unwritten(database: Database, tx: Connection, unwritten: Sequence[RuntimeKey]) -> None:
    """Take back the rows made for locking if nothing was written: a refused request leaves nothing."""
    if unwritten:
        columns = (tables.runtimes.c.realm, tables.runtimes.c.runtime_id)
        tx.execute(_delete_unwritten(database), database.keys(columns, unwritten))


def _taken_boundaries(database: Database, tx: Connection, batch: Sequence[Write]) -> set[BoundaryKey]:
    keys = sorted({_boundary(write) for write in batch if write.receipt})
    if not keys:
        return set()
    columns = (
        tables.receipts.c.realm,
        tables.receipts.c.runtime_id,
        tables.receipts.c.run_id,
        tables.receipts.c.sequence,
    )
    return {
        (row.realm, row.runtime_id, row.run_id, row.sequence)
        for row in tx.execute(select_by_key(database, columns, columns), database.keys(columns, keys))
    }


def _stored_digests(database: Database, tx: Connection, inputs: Iterable[InputKey]) -> dict[InputKey, bytes]:
    """What is stored of these inputs already, by digest: a runtime sends every input it ever accepted at every turn.

    Only what is sound: a damaged row counts as another one, so that writing its bytes again mends it.
    """
    keys = sorted(inputs)
    if not keys:
        return {}
    columns = (tables.inputs.c.realm, tables.inputs.c.runtime_id, tables.inputs.c.input_id)
    rows = tx.execute(_sound_inputs(database), database.keys(columns, keys))
    return {(row.realm, row.runtime_id, row.input_id): row.sha256 for row in rows}


@cache
def _sound_inputs(database: Database) -> sa.Select[Any]:
    table = tables.inputs
    columns = (table.c.realm, table.c.runtime_id, table.c.input_id)
    selected = select_by_key(database, columns, (*columns, table.c.sha256))
    return selected.where(table.c.sha256 == database.sha256_of(table.c.state_json))


@cache
def _runtimes_for_update(database: Database) -> sa.Select[Any]:
    table = tables.runtimes
    return (
        select_by_key(
            database, (table.c.realm, table.c.runtime_id), (table.c.realm, table.c.runtime_id, table.c.revision)
        )
        .order_by(table.c.realm, table.c.runtime_id)
        .with_for_update(of=table)
    )


@cache
def _delete_unwritten(database: Database) -> sa.Delete:
    table = tables.runtimes
    given = database.given(table.c.realm, table.c.runtime_id)
    named = sa.tuple_(table.c.realm, table.c.runtime_id).in_(sa.select(given.c.realm, given.c.runtime_id))
    return sa.delete(table).where(table.c.revision == 0, named)
