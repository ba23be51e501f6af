"""Decides about writes to runtimes, and puts what they carry into the tables."""

from __future__ import annotations

from functools import cache, cached_property
from operator import itemgetter
from typing import TYPE_CHECKING, Any, NamedTuple

import sqlalchemy as sa

from runtimestore.errors import BoundaryReceiptExists, RevisionMismatch, RuntimeStoreError, StoredValueCorrupt
from runtimestore_server.store import tables
from runtimestore_server.store.by_key import lock_by_key, select_by_key
from runtimestore_server.store.digests import sealed_receipt
from runtimestore_server.store.engines import KeyNotFree
from runtimestore_server.store.engines.direct import Answer
from runtimestore_server.store.kinds.kind import Lock
from runtimestore_server.store.reads import is_count, no_revision
from runtimestore_server.store.values import Outcome, RuntimeKey
from runtimestore_server.store.versions.landing import next_version, other_base, with_versions
from runtimestore_server.store.versions.rows import (
    UNKNOWN,
    Current,
    before_its_session,
    current_of,
    sealed,
    sealed_current,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from sqlalchemy.engine import Connection

    from runtimestore_server.store.by_key import Locked
    from runtimestore_server.store.engines import Database
    from runtimestore_server.store.kinds.kind import Transaction
    from runtimestore_server.store.writes import Write


class _RuntimeRow(NamedTuple):
    """What this batch sets; None leaves what is stored, which other writes need not know and which may be damaged."""

    revision: int
    runtime_state: str | None = None
    session_revision: int | None = None
    session_sha256: bytes | None = None


_NEVER_WRITTEN = _RuntimeRow(0)

InputKey = tuple[str, str, str]
BoundaryKey = tuple[str, str, str, int]

_KEY = (tables.runtimes.c.realm, tables.runtimes.c.runtime_id)
_INPUT = tuple(tables.inputs.primary_key)
_BOUNDARY = tuple(tables.receipts.primary_key)
_VALUES = (tables.runtimes.c.revision, tables.runtimes.c.session_revision, tables.runtimes.c.session_sha256)


class RuntimeKind:
    """Writes to runtimes: whichever of a snapshot, a receipt, inputs, a state and an ops snapshot they carry."""

    def __init__(self, transaction: Transaction) -> None:
        self._database, self._tx, self._skip_held = transaction.database, transaction.tx, transaction.skip_held
        self._fences, self._now_ms = transaction.fences, transaction.now_ms
        self._rows: dict[RuntimeKey, _RuntimeRow] = {}
        self._made: set[RuntimeKey] = set()
        """Those whose rows were made only to be locked."""
        self._sessions: dict[RuntimeKey, Current | None] = {}
        """The newest versions of sessions; None where there is none, or where damage hides which one is."""
        self._unknown: set[RuntimeKey] = set()
        self._written: set[RuntimeKey] = set()
        """Those whose session is to be written."""
        self._taken: Answer[set[BoundaryKey]] = Answer.found(set())
        """The boundaries that have a receipt, from here or from before."""
        self._digests: Answer[dict[InputKey, bytes]] = Answer.found({})
        """What is stored of the inputs that the writes carry."""
        self._landing = _Landing()

    def lock(self, writes: Sequence[Write]) -> Answer[Lock]:
        """Lock the runtimes' rows: nobody else changes them or their boundaries."""
        keys = sorted({write.runtime for write in writes})
        asked = lock_by_key(self._database, self._tx, _KEY, _VALUES, keys, skip_held=self._skip_held)
        return Answer(lambda: self._locked(keys, asked()))

    def _locked(self, keys: Sequence[RuntimeKey], found: Locked) -> Lock:
        rows, held = found
        self._take(rows)
        if self._database.concurrent_writers and len(rows) + len(held) < len(keys):
            # A row that is not there cannot be locked: make it, then look at what the key decided.
            missing = [key for key in keys if key not in self._rows and key not in held]
            self._database.insert_missing(self._tx, tables.runtimes, [(*key, *_NEVER_WRITTEN) for key in missing])
            self._made = set(missing)
            self._take(lock_by_key(self._database, self._tx, _KEY, _VALUES, missing)().rows)
        return Lock({RuntimeKey(*key) for key in held}, made=bool(self._made))

    def _take(self, rows: Sequence[Any]) -> None:
        for row in rows:
            key = RuntimeKey(row.realm, row.runtime_id)
            self._rows[key] = _RuntimeRow(row.revision)
            try:
                self._sessions[key] = current_of(key, row.session_revision, row.session_sha256)
            except StoredValueCorrupt:
                self._sessions[key] = None  # edits of it are refused, and a whole document mends it
                self._unknown.add(key)

    def ask(self, writes: Sequence[Write]) -> None:
        """Ask for the boundaries that have a receipt already, and for the digests of what is stored of the inputs."""
        self._taken = _taken_boundaries(self._database, self._tx, writes)
        self._written = {write.runtime for write in writes if write.snapshot}
        inputs = {(*write.runtime, document.input_id) for write in writes for document in write.inputs}
        self._digests = _stored_digests(self._database, self._tx, inputs)

    def refusal(self, write: Write) -> RuntimeStoreError | None:
        """Refuse what is not allowed or damaged, of an older fence, of another revision, session or boundary."""
        return (
            (write.disallowed and write.disallowed.refusal)
            or self._damage(write.runtime)
            or self._fences.refusal(write)
            or self._mismatch(write)
            or self._other_base(write)
        )

    def _damage(self, key: RuntimeKey) -> RuntimeStoreError | None:
        """Make the refusal to continue from a row with a revision that no write can have written."""
        if key not in self._rows or key in self._made:
            return None
        revision, current = self._rows[key].revision, self._sessions.get(key)
        if not is_count(revision):
            return no_revision(key)
        return before_its_session(key, revision, current) if current else None

    def _mismatch(self, write: Write) -> RuntimeStoreError | None:
        row = self._rows.get(write.runtime, _NEVER_WRITTEN)
        if write.if_revision is not None and write.if_revision != row.revision:
            return RevisionMismatch(
                f"the runtime is at revision {row.revision}, not at {write.if_revision}; load it again and decide anew",
                metadata={"if_revision": str(write.if_revision), "current_revision": str(row.revision)},
            )
        if write.receipt and _boundary(write) in self._taken():
            run_id, sequence = write.receipt.run_id, str(write.receipt.sequence)
            return BoundaryReceiptExists(
                f"boundary {sequence} of run {run_id} has its receipt already; nothing of this request was applied",
                metadata={"runtime_id": write.runtime.runtime_id, "run_id": run_id, "sequence": sequence},
            )
        return None

    def _other_base(self, write: Write) -> RuntimeStoreError | None:
        """Make the refusal of edits that were made of another snapshot than the current one, or of one not at hand."""
        if write.snapshot is None or (edits := write.snapshot.edits) is None or not edits.required:
            return None
        current = self._sessions.get(write.runtime)
        if current is not None and edits.encoded is not None and edits.base_sha256 == current.sha256:
            return None
        return other_base(current.sha256 if current else b"")

    def land(self, write: Write) -> Outcome:
        """Give the next revision."""
        runtime = write.runtime
        before = self._rows.get(runtime, _NEVER_WRITTEN)
        row = before._replace(revision=before.revision + 1, runtime_state=write.runtime_state or before.runtime_state)
        as_edits = False
        if write.snapshot:
            current = self._sessions.get(runtime)
            previous = current.revision if current else UNKNOWN if self._hides_its_session(runtime) else None
            version, body = next_version(write.snapshot, row.revision, current, write.receipt, self._now_ms())
            version = version._replace(previous_revision=previous)
            self._landing.versions[*runtime, row.revision] = (*version[1:], sealed(runtime, version), body)
            now = self._sessions[runtime] = Current(row.revision, version.sha256)
            row = row._replace(session_revision=row.revision, session_sha256=sealed_current(runtime, now))
            as_edits = version.kind == tables.EDITS
        self._rows[runtime] = self._landing.runtimes[runtime] = row
        self._landing.add(write, row.revision)
        if write.receipt:
            self._taken().add(_boundary(write))
        return Outcome(row.revision, as_edits=as_edits)

    def _hides_its_session(self, key: RuntimeKey) -> bool:
        """Tell whether damage hides which version of a session is the newest: another is written, and not the first."""
        stored = key in self._rows and key not in self._made
        return stored and (key in self._unknown or key in self._hidden)

    @cached_property
    def _hidden(self) -> set[RuntimeKey]:
        """Those of which there are versions of a session, and whose rows name none: asked for once, as all rows are."""
        none = sorted(key for key in self._written & self._rows.keys() if self._sessions.get(key) is None)
        return with_versions(self._database, self._tx, none)()

    def write_down(self) -> None:
        """Write the rows of all tables, and none for a runtime of which everything was refused: that leaves nothing."""
        self._landing.write_down(self._database, self._tx, self._digests)
        if unwritten := sorted(key for key in self._made if self._rows[key].revision == 0):
            self._database.ask(self._tx, _delete_unwritten(self._database), _KEY, unwritten)

    def confirm(self) -> None:
        """Raise where a boundary was taken: under the runtime's lock its key is free, and an error beats a second."""
        self._landing.confirm()


def _boundary(write: Write) -> BoundaryKey:
    assert write.receipt is not None  # noqa: S101  (for the type checker; callers have asked)
    return (*write.runtime, write.receipt.run_id, write.receipt.sequence)


class _Landing:
    """The rows of all writes that land, by key, so that the last writer wins within a batch too."""

    def __init__(self) -> None:
        self.runtimes: dict[RuntimeKey, _RuntimeRow] = {}
        self.versions: dict[tuple[str, str, int], tuple[Any, ...]] = {}
        self._sessions: dict[tuple[str, str], tuple[Any, ...]] = {}
        self._ops: dict[RuntimeKey, tuple[Any, ...]] = {}
        self._inputs: dict[InputKey, tuple[bytes, bytes]] = {}
        self._receipts: dict[BoundaryKey, tuple[bytes, bytes, int]] = {}
        self._inserted: Answer[None] = Answer.found(None)

    def add(self, write: Write, revision: int) -> None:
        """Take in the rows of one write that lands with `revision`."""
        realm, runtime_id = write.runtime
        if snapshot := write.snapshot:
            self._sessions[realm, snapshot.session_id] = (
                runtime_id,
                snapshot.created_at_ms,
                snapshot.updated_at_ms,
                snapshot.message_count,
                snapshot.total_tokens,
            )
        if write.receipt:
            digest = sealed_receipt(write.receipt.sha256, revision)
            self._receipts[_boundary(write)] = (digest, write.receipt.receipt, revision)
        for document in write.inputs:
            self._inputs[realm, runtime_id, document.input_id] = (document.sha256, document.state_json)
        if ops := write.ops:
            self._ops[write.runtime] = (ops.epoch_id, ops.sha256, ops.snapshot_json)

    def write_down(self, database: Database, tx: Connection, stored: Answer[dict[InputKey, bytes]]) -> None:
        """Run one statement a table, rows in key order, so that no two transactions wait for each other in a circle.

        An input that is stored already is left out.
        """
        if self._inputs:
            digests = stored()
            for key in [key for key, (digest, _) in self._inputs.items() if digests.get(key) == digest]:
                del self._inputs[key]
        database.upsert(tx, tables.runtimes, _sorted_rows(self.runtimes))
        database.upsert(tx, tables.session_versions, _sorted_rows(self.versions))
        database.upsert(tx, tables.sessions, _sorted_rows(self._sessions))
        database.upsert(tx, tables.inputs, _sorted_rows(self._inputs))
        database.upsert(tx, tables.ops_snapshots, _sorted_rows(self._ops))
        taken = KeyNotFree("a receipt appeared under a locked runtime")
        self._inserted = database.insert_new(tx, tables.receipts, _sorted_rows(self._receipts), taken=taken)

    def confirm(self) -> None:
        self._inserted()


def _sorted_rows(rows: dict[Any, Any]) -> list[tuple[Any, ...]]:
    return [(*key, *rest) for key, rest in sorted(rows.items(), key=itemgetter(0))]


def _taken_boundaries(database: Database, tx: Connection, batch: Sequence[Write]) -> Answer[set[BoundaryKey]]:
    keys = sorted({_boundary(write) for write in batch if write.receipt})
    if not keys:
        return Answer.found(set())
    asked = database.ask(tx, select_by_key(database, _BOUNDARY, _BOUNDARY), _BOUNDARY, keys)
    return Answer(lambda: {(row.realm, row.runtime_id, row.run_id, row.sequence) for row in asked()})


def _stored_digests(database: Database, tx: Connection, inputs: Iterable[InputKey]) -> Answer[dict[InputKey, bytes]]:
    """Ask what is stored of these inputs already, by digest: a runtime sends every input at every turn.

    Only what is sound: a damaged row counts as another one, so that writing its bytes again mends it.
    """
    keys = sorted(inputs)
    if not keys:
        return Answer.found({})
    asked = database.ask(tx, _sound_inputs(database), _INPUT, keys)
    return Answer(lambda: {(row.realm, row.runtime_id, row.input_id): row.sha256 for row in asked()})


@cache
def _sound_inputs(database: Database) -> sa.Select[Any]:
    digest = tables.inputs.c.sha256
    selected = select_by_key(database, _INPUT, (*_INPUT, digest))
    return selected.where(digest == database.sha256_of(tables.inputs.c.state_json))


@cache
def _delete_unwritten(database: Database) -> sa.Executable:
    table = tables.runtimes
    given = database.given(table.c.realm, table.c.runtime_id)
    named = sa.tuple_(table.c.realm, table.c.runtime_id).in_(sa.select(given.c.realm, given.c.runtime_id))
    return sa.delete(table).where(table.c.revision == 0, named).returning(table.c.realm)
