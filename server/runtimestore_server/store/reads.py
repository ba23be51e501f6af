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
from runtimestore_server.store.digests import SHA256_BYTES, digest_in, sealed_flow, sealed_receipt
from runtimestore_server.store.engines import direct
from runtimestore_server.store.tables import (
    UINT64_DIGITS,
    inputs,
    oauth_flow_snapshots,
    ops_snapshots,
    receipts,
    runtimes,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy.engine import Connection

    from runtimestore_server.store.values import RuntimeKey


# What is no UTF-8 is read as surrogates, which no text from the wire holds.
_TEXT = re.compile(r"[^\0\ud800-\udfff]+")
_OTHER_DIGEST = "does not match its SHA-256"


class Counted:
    """The result of a load, with its size in bytes."""

    __slots__ = ()

    size_bytes: int
    """How many bytes of documents it has."""


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
    """Load the revision and all inputs of a runtime, `input_id` ascending, corrupt ones among them if asked for."""
    rows = direct.find(tx, _INPUTS, runtime._asdict())
    revision = revision_of(rows[0] if rows else None, runtime)
    stored: list[StoredInput | CorruptInput] = []
    seen: set[object] = set()
    for _, input_id, digest, state_json in rows:
        if digest is None:
            continue
        twice = input_id in seen  # not beside each other, where it is the index that is damaged
        seen.add(input_id)
        if not twice and _is_sound(state_json, digest):
            stored.append(StoredInput(input_id, state_json))
            continue
        what = "is there more than once" if twice else _OTHER_DIGEST
        refusal = corrupt(inputs.name, what, **runtime._asdict(), input_id=input_id)
        if not skip_corrupt:
            raise refusal
        stored.append(CorruptInput(refusal.metadata["input_id"], refusal.message))
    return revision, stored


def load_input_state(tx: Connection, runtime: RuntimeKey, input_id: str) -> tuple[int, StoredInput | None]:
    """Load the revision of a runtime and one of its inputs."""
    row = _one(tx, _INPUT, runtime, input_id=input_id)
    if row is None or row.sha256 is None:
        return revision_of(row, runtime), None
    verify(row.state_json, row.sha256, inputs, **runtime._asdict(), input_id=input_id)
    return revision_of(row, runtime), StoredInput(row.input_id, row.state_json)


def load_boundary_receipt(
    tx: Connection, runtime: RuntimeKey, run_id: str, sequence: int
) -> tuple[int, StoredReceipt | None]:
    """Load the revision of a runtime and one of its receipts."""
    row = _one(tx, _RECEIPT, runtime, run_id=run_id, sequence=f"{sequence:0{UINT64_DIGITS}d}")
    revision = revision_of(row, runtime)
    if row is None or row.sha256 is None:
        return revision, None
    return revision, checked_receipt(row, runtime, revision, run_id=run_id, sequence=str(sequence))


def checked_receipt(row: Any, runtime: RuntimeKey, revision: int, **key: str) -> StoredReceipt:
    """Check the receipt in a row of a runtime at `revision`, and take it out.

    Raises:
        StoredValueCorrupt: it is damaged.
    """
    verify(row.receipt, digest_in(row.sha256), receipts, **runtime._asdict(), **key)
    committed = row.committed_revision
    if not is_sealed_with(row.sha256, committed, sealed_receipt):
        raise corrupt(receipts.name, "does not match its seal", **runtime._asdict(), **key)
    if committed is not None and not (is_count(committed) and committed <= revision):
        if len(row.sha256) > SHA256_BYTES:  # the seal says that it is the receipt's
            raise bad_revision(runtime, "has a revision before that of a receipt")
        raise corrupt(receipts.name, "was committed with no revision", **runtime._asdict(), **key)
    return StoredReceipt(row.receipt, committed)


def is_sealed_with(stored: object, number: object, sealed: Callable[[bytes, int], bytes]) -> bool:
    """Tell whether a digest is stored with the seal of this number, as `sealed` makes it, or without as it once was."""
    if not isinstance(stored, bytes) or len(stored) == SHA256_BYTES:
        return True
    return is_count(number) and stored == sealed(stored[:SHA256_BYTES], number)


def load_runtime_state(tx: Connection, runtime: RuntimeKey) -> tuple[int, str | None]:
    """Load the revision and the state of a runtime."""
    row = _one(tx, _STATE, runtime)
    return revision_of(row, runtime), row.runtime_state if row else None


def load_ops_lifecycle(tx: Connection, runtime: RuntimeKey) -> tuple[int, StoredOps | None]:
    """Load the revision and the ops document of a runtime."""
    row = _one(tx, _OPS, runtime)
    if row is None or row.sha256 is None:
        return revision_of(row, runtime), None
    verify(row.snapshot_json, row.sha256, ops_snapshots, **runtime._asdict())
    return revision_of(row, runtime), StoredOps(row.epoch_id, row.snapshot_json)


def load_oauth_flow_snapshot(tx: Connection, realm: str) -> tuple[int, bytes | None]:
    """Load the version and the bytes of a realm's OAuth flow snapshot."""
    table = oauth_flow_snapshots
    statement = sa.select(table.c.version, table.c.sha256, table.c.snapshot_json).where(table.c.realm == realm)
    row = tx.execute(statement).one_or_none()
    if row is None:
        return 0, None
    verify(row.snapshot_json, digest_in(row.sha256), table, realm=realm)
    if not is_count(row.version):
        raise corrupt(table.name, "has no version", realm=realm)
    if not is_sealed_with(row.sha256, row.version, sealed_flow):
        raise corrupt(table.name, "does not match its seal", realm=realm)
    return row.version, row.snapshot_json


def verify(value: object, digest: object, table: sa.Table, **key: str) -> None:
    """Check a stored value against its digest.

    Raises:
        StoredValueCorrupt: they do not match; the metadata name the row.
    """
    if not _is_sound(value, digest):
        raise corrupt(table.name, _OTHER_DIGEST, **key)


def _is_sound(value: object, digest: object) -> bool:
    # SQLite keeps whatever type was put into a column; what is not bytes was not put there by this store.
    return isinstance(value, bytes) and sha256(value).digest() == digest


def is_count(value: object) -> TypeGuard[int]:
    """Tell whether a stored value is a count that a write left, and that one more write can raise."""
    return isinstance(value, int) and 1 <= value < INT64_MAX


def is_text(value: object) -> TypeGuard[str]:
    """Tell whether a stored value is text that a write left: not empty, without NUL, and of whole characters."""
    return isinstance(value, str) and _TEXT.fullmatch(value) is not None


def revision_of(row: Any, runtime: RuntimeKey) -> int:
    """Return the revision in a row that has a runtime's; 0 if there is none."""
    if row is None:
        return 0
    if not is_count(row.revision):
        raise no_revision(runtime)
    return int(row.revision)


def no_revision(runtime: RuntimeKey) -> StoredValueCorrupt:
    """Make the refusal to answer for a runtime whose revision is damaged: every answer has the revision in it."""
    served = "until then nothing of the runtime is told but the versions of its session; every other one is served"
    return bad_revision(runtime, "has no revision", served=served)


def bad_revision(runtime: RuntimeKey, what: str, *, served: str = "every other row is served") -> StoredValueCorrupt:
    """Make the refusal of a damaged revision, which can neither be returned nor counted on from.

    None comes from a backup: to count through one that was told already would let a writer in that had read another
    state under it.
    """
    cure = "set it to a number greater than every revision of this runtime that was told"
    return corrupt(runtimes.name, what, cure=cure, served=served, **runtime._asdict())


def corrupt(
    table: str,
    what: str,
    *,
    cure: str = "restore this row from a backup",
    served: str = "every other row is served",
    **key: str,
) -> StoredValueCorrupt:
    """Make the refusal to hand out a damaged row, with its table and key."""
    # A damaged key may hold what is no text: it is told by its bytes.
    key = {
        name: str(value).encode(errors="surrogateescape").decode(errors="backslashreplace")
        for name, value in key.items()
    }
    named = ", ".join(f"{name} {value}" for name, value in key.items())
    return StoredValueCorrupt(
        f"a value stored in {table} ({named}) {what}; {cure}, {served}", metadata={"table": table, **key}
    )


def size_bytes(found: object) -> int:
    """Tell how many bytes of documents a load has found."""
    if isinstance(found, bytes):
        return len(found)
    if isinstance(found, Counted):
        return found.size_bytes
    total = 0
    if isinstance(found, (tuple, list)):
        for part in found:
            if isinstance(part, (bytes, tuple, list, Counted)):
                total += size_bytes(part)
    return total


def _one(tx: Connection, statement: sa.Select[Any], runtime: RuntimeKey, **key: str) -> Any:
    return direct.find_one(tx, statement, runtime._asdict() | key)


def _given(column: sa.Column[Any]) -> sa.ColumnElement[bool]:
    # As text: what is given goes to the driver as it is.
    return column == sa.bindparam(column.name, type_=sa.Text)


def _of_runtime(*columns: sa.Column[Any], key: tuple[sa.Column[Any], ...] = ()) -> sa.Select[Any]:
    """Select the runtime's revision beside these columns of its rows in their table; NULL where there is none."""
    table = columns[0].table
    same = (table.c.realm == runtimes.c.realm, table.c.runtime_id == runtimes.c.runtime_id, *map(_given, key))
    return _RUNTIME.add_columns(*columns).select_from(runtimes.outerjoin(table, sa.and_(*same)))


_RUNTIME = sa.select(runtimes.c.revision).where(_given(runtimes.c.realm), _given(runtimes.c.runtime_id))
_STATE = _RUNTIME.add_columns(runtimes.c.runtime_state)
_DOCUMENT = (inputs.c.input_id, inputs.c.sha256, inputs.c.state_json)
_INPUTS = _of_runtime(*_DOCUMENT).order_by(inputs.c.input_id)
_INPUT = _of_runtime(*_DOCUMENT, key=(inputs.c.input_id,))
_RECEIPT = _of_runtime(
    receipts.c.sha256, receipts.c.receipt, receipts.c.committed_revision, key=(receipts.c.run_id, receipts.c.sequence)
)
_OPS = _of_runtime(ops_snapshots.c.epoch_id, ops_snapshots.c.sha256, ops_snapshots.c.snapshot_json)
