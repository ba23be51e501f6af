"""Checks a single row: its digest, its document, and whether its columns say what the document says."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from runtimestore.errors import InvalidField, StoredValueCorrupt
from runtimestore_server.documents import input as inputs
from runtimestore_server.documents import ops, session
from runtimestore_server.documents import receipt as receipts
from runtimestore_server.documents.runtime_state import RUNTIME_STATES
from runtimestore_server.store import reads, requests, tables
from runtimestore_server.store.digests import digest_in, sealed_flow, sealed_receipt
from runtimestore_server.store.values import RuntimeKey
from runtimestore_server.store.versions.rows import current_of
from runtimestore_server.verify.findings import Finding, Severity

if TYPE_CHECKING:
    import sqlalchemy as sa

    from runtimestore_server.store.values import SessionSnapshot

Row = dict[str, Any]
Check = Callable[[Row], Iterator[Finding]]

NUMBERS_OF_A_SESSION = ("created_at_ms", "updated_at_ms", "message_count", "total_tokens")


def finding(kind: str, table: sa.Table, row: Row, description: str, severity: Severity = Severity.ERROR) -> Finding:
    """Return a finding in a row, which is named by its primary key."""
    names = (column.name for column in table.primary_key)
    key = {name: str(row[name]).encode(errors="backslashreplace").decode() for name in names}
    return Finding(kind, table.name, key, description, severity)


def sound(table: sa.Table, document: str, row: Row) -> Iterator[Finding]:
    """Check that a row passes the checks of every load."""
    try:
        sealed = table in (tables.receipts, tables.oauth_flow_snapshots)  # with a seal behind the digest
        reads.verify(row[document], digest_in(row["sha256"]) if sealed else row["sha256"], table)
    except StoredValueCorrupt:
        yield finding("digest_mismatch", table, row, f"{document} does not match its SHA-256")


def session_of(body: bytes) -> SessionSnapshot | None:
    """Return what the projection says of a snapshot's document; None if it cannot be read."""
    try:
        return session.read(body)
    except InvalidField:
        return None


def input_state(row: Row) -> Iterator[Finding]:
    """Check an input's document."""
    table = tables.inputs
    if damaged := list(sound(table, "state_json", row)):
        yield from damaged
        return
    told = inputs.seed_of(row["state_json"], stored_id=row["input_id"]).input_id
    yield from _named_as(table, row, "state_json", "input_id", told)


def ops_snapshot(row: Row) -> Iterator[Finding]:
    """Check an ops document."""
    table = tables.ops_snapshots
    if damaged := list(sound(table, "snapshot_json", row)):
        yield from damaged
        return
    told = ops.epoch_id(row["snapshot_json"])
    yield from _named_as(table, row, "snapshot_json", "epoch_id", told)


def _named_as(table: sa.Table, row: Row, document: str, column: str, told: str | None) -> Iterator[Finding]:
    if told is None:
        yield finding("document_invalid", table, row, f"{document} has no {column}, though its SHA-256 is right")
    elif told != row[column]:
        yield finding("column_mismatch", table, row, f"{column} is not the one of the document")


def receipt(row: Row) -> Iterator[Finding]:
    """Check a receipt."""
    table = tables.receipts
    if damaged := list(sound(table, "receipt", row)):
        yield from damaged
        return
    try:
        told = receipts.read(row["receipt"])
    except (ValueError, KeyError):
        yield finding("document_invalid", table, row, "receipt cannot be decoded, though its SHA-256 is right")
        return
    if (told.run_id, f"{told.sequence:0{tables.UINT64_DIGITS}d}") != (row["run_id"], row["sequence"]):
        yield finding("column_mismatch", table, row, "run_id or sequence is not the one of the receipt")
    elif not reads.is_sealed_with(row["sha256"], row["committed_revision"], sealed_receipt):
        yield finding("digest_mismatch", table, row, "committed_revision does not match its seal")


def oauth_flow_snapshot(row: Row) -> Iterator[Finding]:
    """Check an OAuth flow snapshot; the bytes are opaque."""
    table = tables.oauth_flow_snapshots
    damaged = [*sound(table, "snapshot_json", row), *_counted(table, "version", row)]
    yield from damaged
    if not damaged and not reads.is_sealed_with(row["sha256"], row["version"], sealed_flow):
        yield finding("digest_mismatch", table, row, "version does not match its seal")


def runtime(row: Row) -> Iterator[Finding]:
    """Check a runtime's own row."""
    yield from _counted(tables.runtimes, "revision", row)
    if row["runtime_state"] is not None and row["runtime_state"] not in RUNTIME_STATES.values():
        yield finding("unknown_state", tables.runtimes, row, "runtime_state is none of the seven")
    try:
        current = current_of(
            RuntimeKey(row["realm"], row["runtime_id"]), row["session_revision"], row["session_sha256"]
        )
    except StoredValueCorrupt:
        yield finding("column_mismatch", tables.runtimes, row, "session_revision and session_sha256 fit no seal")
    else:
        if current is not None and reads.is_count(row["revision"]) and row["revision"] < current.revision:
            told = "its revision is before that of its session"
            yield finding("revision_out_of_order", tables.runtimes, row, told)


def request(row: Row) -> Iterator[Finding]:
    """Check a remembered request."""
    yield from _counted(tables.requests, "revision", row)
    if not requests.is_sound(
        row["realm"], row["request_id"], row["fingerprint"], row["revision"], row["recorded_at_ms"]
    ):
        yield finding("seal_mismatch", tables.requests, row, "the row does not match its seal")


def fence(row: Row) -> Iterator[Finding]:
    """Check the newest fence of a runtime."""
    yield from _counted(tables.fences, "fence", row)
    if not reads.is_text(row["owner"]):
        yield finding("column_mismatch", tables.fences, row, "owner is no text")

    if not _is_number(row["acquired_at_ms"]):
        yield finding("column_mismatch", tables.fences, row, "acquired_at_ms is no number of milliseconds")


def listed_session(row: Row) -> Iterator[Finding]:
    """Check a row in the list of sessions; whether it is what a snapshot says is asked where that is looked at."""
    wrong = [name for name in NUMBERS_OF_A_SESSION if not _is_number(row[name])]
    if wrong:
        yield finding("column_mismatch", tables.sessions, row, f"no number that is written here: {', '.join(wrong)}")


def _is_number(value: object) -> bool:
    return isinstance(value, int) and value >= 0


def _counted(table: sa.Table, column: str, row: Row) -> Iterator[Finding]:
    if not reads.is_count(row[column]):
        yield finding(
            "revision_out_of_order", table, row, f"{column} is no count of writes from 1 on, though the row is there"
        )


CHECKS: dict[sa.Table, Check] = {
    tables.runtimes: runtime,
    tables.sessions: listed_session,
    tables.inputs: input_state,
    tables.receipts: receipt,
    tables.ops_snapshots: ops_snapshot,
    tables.oauth_flow_snapshots: oauth_flow_snapshot,
    tables.requests: request,
    tables.fences: fence,
}
"""The check of each table whose rows can be judged alone."""
