"""The loads: one function of `tx` each, one statement each, so that each is one consistent snapshot.

Whatever is read is checked against the SHA-256 stored beside it before it is handed out.
"""

from __future__ import annotations

import re
from hashlib import sha256
from typing import TYPE_CHECKING, Any, NamedTuple, TypeGuard

import sqlalchemy as sa

from runtimestore.errors import StoredValueCorrupt
from runtimestore_server.integers import INT64_MAX
from runtimestore_server.store.tables import (
    inputs,
    oauth_flow_snapshots,
    ops_snapshots,
    receipts,
    runtimes,
)

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

    from runtimestore_server.store.values import RuntimeKey


# What is no UTF-8 is read as surrogates, which no text from the wire holds.
_TEXT = re.compile(r"[^\0\ud800-\udfff]+")


class StoredInput(NamedTuple):
    """An input's document as it was written."""

    input_id: str
    state_json: bytes


class StoredReceipt(NamedTuple):
    """A receipt as it was written, and with which revision; None where the store did not keep that yet."""

    receipt: bytes
    committed_revision: int | None


class CorruptInput(NamedTuple):
    """An input that is damaged, and what is wrong with it."""

    input_id: str
    description: str


class StoredOps(NamedTuple):
    """An ops document as it was written."""

    epoch_id: str
    snapshot_json: bytes


def load_input_states(
    tx: Connection, runtime: RuntimeKey, *, skip_corrupt: bool = False
) -> tuple[int, list[StoredInput | CorruptInput]]:
    """The revision and all inputs of a runtime, `input_id` ascending; corrupt ones among them only if asked for."""
    table = inputs
    statement = _of_runtime(table, runtime, table.c.input_id, table.c.sha256, table.c.state_json)
    rows = tx.execute(statement.order_by(table.c.input_id)).all()
    revision = revision_of(rows[0] if rows else None, runtime)
    stored: list[StoredInput | CorruptInput] = []
    for row in rows:
        if row.sha256 is None:
            continue
        try:
            if stored and stored[-1].input_id == row.input_id:
                raise corrupt(table.name, "is there more than once", **runtime._asdict(), input_id=row.input_id)
            verify(row.state_json, row.sha256, table, **runtime._asdict(), input_id=row.input_id)
        except StoredValueCorrupt as refusal:
            if not skip_corrupt:
                raise
            stored.append(CorruptInput(refusal.metadata["input_id"], refusal.message))
        else:
            stored.append(StoredInput(row.input_id, row.state_json))
    return revision, stored


def load_input_state(tx: Connection, runtime: RuntimeKey, input_id: str) -> tuple[int, StoredInput | None]:
    """The revision of a runtime and one of its inputs."""
    table = inputs
    statement = _of_runtime(
        table, runtime, table.c.input_id, table.c.sha256, table.c.state_json, also=table.c.input_id == input_id
    )
    row = tx.execute(statement).one_or_none()
    if row is None or row.sha256 is None:
        return revision_of(row, runtime), None
    verify(row.state_json, row.sha256, table, **runtime._asdict(), input_id=input_id)
    return revision_of(row, runtime), StoredInput(row.input_id, row.state_json)


def load_boundary_receipt(
    tx: Connection, runtime: RuntimeKey, run_id: str, sequence: int
) -> tuple[int, StoredReceipt | None]:
    """The revision of a runtime and one of its receipts."""
    table = receipts
    statement = _of_runtime(
        table,
        runtime,
        table.c.sha256,
        table.c.receipt,
        table.c.committed_revision,
        also=sa.and_(table.c.run_id == run_id, table.c.sequence == sequence),
    )
    row = tx.execute(statement).one_or_none()
    revision = revision_of(row, runtime)
    if row is None or row.sha256 is None:
        return revision, None
    return revision, checked_receipt(row, runtime, revision, run_id=run_id, sequence=str(sequence))


def checked_receipt(row: Any, runtime: RuntimeKey, revision: int, **key: str) -> StoredReceipt:
    """The receipt in a row of a runtime at `revision`.

    Raises:
        StoredValueCorrupt: it is damaged.
    """
    verify(row.receipt, row.sha256, receipts, **runtime._asdict(), **key)
    committed = row.committed_revision
    if committed is not None and not (is_count(committed) and committed <= revision):
        raise corrupt(receipts.name, "was committed with no revision", **runtime._asdict(), **key)
    return StoredReceipt(row.receipt, committed)


def load_runtime_state(tx: Connection, runtime: RuntimeKey) -> tuple[int, str | None]:
    """The revision and the state of a runtime."""
    statement = sa.select(runtimes.c.revision, runtimes.c.runtime_state).where(_is(runtime))
    row = tx.execute(statement).one_or_none()
    return revision_of(row, runtime), row.runtime_state if row else None


def load_ops_lifecycle(tx: Connection, runtime: RuntimeKey) -> tuple[int, StoredOps | None]:
    """The revision and the ops document of a runtime."""
    table = ops_snapshots
    row = tx.execute(_of_runtime(table, runtime, table.c.epoch_id, table.c.sha256, table.c.snapshot_json)).one_or_none()
    if row is None or row.sha256 is None:
        return revision_of(row, runtime), None
    verify(row.snapshot_json, row.sha256, table, **runtime._asdict())
    return revision_of(row, runtime), StoredOps(row.epoch_id, row.snapshot_json)


def load_oauth_flow_snapshot(tx: Connection, realm: str) -> tuple[int, bytes | None]:
    """The version and the bytes of a realm's OAuth flow snapshot."""
    table = oauth_flow_snapshots
    statement = sa.select(table.c.version, table.c.sha256, table.c.snapshot_json).where(table.c.realm == realm)
    row = tx.execute(statement).one_or_none()
    if row is None:
        return 0, None
    verify(row.snapshot_json, row.sha256, table, realm=realm)
    if not is_count(row.version):
        raise corrupt(table.name, "has no version", realm=realm)
    return row.version, row.snapshot_json


def verify(value: bytes, digest: bytes, table: sa.Table, **key: str) -> None:
    """Check a stored value against its digest.

    Raises:
        StoredValueCorrupt: they do not match; the metadata name the row.
    """
    # SQLite keeps whatever type was put into a column; what is not bytes was not put there by this store.
    if not isinstance(value, bytes) or sha256(value).digest() != digest:
        raise corrupt(table.name, "does not match its SHA-256", **key)


def is_count(value: object) -> bool:
    """Whether a stored value is a count that a write left, and that one more write can raise."""
    return isinstance(value, int) and 1 <= value < INT64_MAX


def is_text(value: object) -> TypeGuard[str]:
    """Whether a stored value is text that a write left: not empty, without NUL, and of whole characters."""
    return isinstance(value, str) and _TEXT.fullmatch(value) is not None


def revision_of(row: Any, runtime: RuntimeKey) -> int:
    """The revision in a row that has a runtime's; 0 if there is none."""
    if row is None:
        return 0
    if not is_count(row.revision):
        raise corrupt(runtimes.name, "has no revision", **runtime._asdict())
    return int(row.revision)


def corrupt(table: str, what: str, *, cure: str = "restore this row from a backup", **key: str) -> StoredValueCorrupt:
    """The refusal to hand out a damaged row, with its table and key."""
    # A damaged key may hold what is no text: it is told by its bytes.
    key = {
        name: str(value).encode(errors="surrogateescape").decode(errors="backslashreplace")
        for name, value in key.items()
    }
    named = ", ".join(f"{name} {value}" for name, value in key.items())
    return StoredValueCorrupt(
        f"a value stored in {table} ({named}) {what}; {cure}, every other row is served",
        metadata={"table": table, **key},
    )


def size_bytes(found: object) -> int:
    """How many bytes of documents a load has found."""
    if isinstance(found, bytes):
        return len(found)
    if isinstance(found, (tuple, list)):
        return sum(size_bytes(part) for part in found)
    return 0


def _is(runtime: RuntimeKey) -> sa.ColumnElement[bool]:
    return sa.and_(runtimes.c.realm == runtime.realm, runtimes.c.runtime_id == runtime.runtime_id)


def _of_runtime(
    table: sa.Table,
    runtime: RuntimeKey,
    *columns: sa.Column[Any],
    also: sa.ColumnElement[bool] | None = None,
) -> sa.Select[Any]:
    """The runtime's revision beside the columns of its rows in `table`, which are NULL where there is none."""
    same = sa.and_(table.c.realm == runtimes.c.realm, table.c.runtime_id == runtimes.c.runtime_id)
    if also is not None:
        same = sa.and_(same, also)
    joined = runtimes.outerjoin(table, same)
    return sa.select(runtimes.c.revision, *columns).select_from(joined).where(_is(runtime))
