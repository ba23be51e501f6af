"""Checks rows together: nothing without its runtime, each projection as its snapshot says, no lost input."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from runtimestore.errors import StoredValueCorrupt
from runtimestore_server.documents import receipt as boundary_receipt
from runtimestore_server.store import reads, schema
from runtimestore_server.store.by_key import select_by_key
from runtimestore_server.store.digests import SHA256_BYTES
from runtimestore_server.store.tables import (
    fences,
    inputs,
    oauth_flow_snapshots,
    ops_snapshots,
    receipts,
    requests,
    runtimes,
    session_versions,
    sessions,
    store_identity,
)
from runtimestore_server.store.values import RuntimeKey
from runtimestore_server.store.versions.rows import Version, current_of, damage_of
from runtimestore_server.verify.findings import Finding, Severity
from runtimestore_server.verify.rows import NUMBERS_OF_A_SESSION, finding, listed_session, session_of
from runtimestore_server.verify.versions import version_in

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from sqlalchemy.engine import Connection

    from runtimestore_server.store.engines import Database
    from runtimestore_server.verify.rows import Row

KEYS_AT_ONCE = 2_000
"""How many inputs are asked for in one statement; a receipt may name a hundred thousand."""


def raw(table: sa.Table, *columns: sa.Column[Any]) -> list[sa.ColumnElement[Any]]:
    """Columns as the driver hands them out: a damaged value must not stop whoever looks for it."""
    return [sa.type_coerce(column, sa.types.NullType()).label(column.name) for column in columns or table.columns]


def _same(one: sa.FromClause, other: sa.FromClause) -> sa.ColumnElement[bool]:
    """Tell whether two rows are of the same runtime."""
    return sa.and_(one.c.realm == other.c.realm, one.c.runtime_id == other.c.runtime_id)


def _rows(tx: Connection, statement: sa.Select[Any]) -> Iterator[Row]:
    """Yield what a statement finds, however much that is: a part of it is in memory."""
    for row in tx.execute(statement.execution_options(yield_per=1000)).mappings():
        yield dict(row)


def without_a_runtime(tx: Connection) -> Iterator[Finding]:
    """Find rows of a runtime that has no row of its own: every write makes that one first, and nothing deletes it."""
    for table in (session_versions, inputs, receipts, ops_snapshots, sessions):
        statement = (
            sa.select(*raw(table, *table.primary_key))
            .select_from(table.outerjoin(runtimes, _same(table, runtimes)))
            .where(runtimes.c.realm.is_(None))
            .order_by(*table.primary_key)
        )
        for row in _rows(tx, statement):
            yield finding("no_runtime", table, row, "there is no such runtime in the table runtimes")


def fewer_writes_than_receipts(tx: Connection) -> Iterator[Finding]:
    """Find runtimes at a revision that is less than the number of their receipts, each of which came with a write."""
    written = (
        sa.select(receipts.c.realm, receipts.c.runtime_id, sa.func.count().label("count"))
        .group_by(receipts.c.realm, receipts.c.runtime_id)
        .subquery()
    )
    statement = (
        sa.select(*raw(runtimes, *runtimes.primary_key))
        .select_from(runtimes.join(written, _same(written, runtimes)))
        .where(runtimes.c.revision >= 1, runtimes.c.revision < written.c.count)
        .order_by(*runtimes.primary_key)
    )
    for row in _rows(tx, statement):
        yield finding("revision_out_of_order", runtimes, row, "its revision is less than its receipts are many")


def sessions_without_a_snapshot(tx: Connection) -> Iterator[Finding]:
    """Find rows in `sessions` whose runtime is there and no snapshot of it: they are written together and kept."""
    of_it = _same(sessions, session_versions)
    statement = (
        sa.select(*raw(sessions, *sessions.primary_key))
        .select_from(sessions.join(runtimes, _same(sessions, runtimes)).outerjoin(session_versions, of_it))
        .where(session_versions.c.realm.is_(None))
        .order_by(*sessions.primary_key)
    )
    for row in _rows(tx, statement):
        yield finding("no_snapshot", sessions, row, "its runtime has no session snapshot at all")


def newest_versions(tx: Connection) -> Iterator[Finding]:
    """Find runtimes whose newest version is not there, or is another one than they name."""
    key = (session_versions.c.realm, session_versions.c.runtime_id)
    latest = sa.func.max(session_versions.c.revision).label("revision")
    newest = sa.select(*key, latest).group_by(*key).subquery()
    named = sa.and_(_same(runtimes, session_versions), session_versions.c.revision == newest.c.revision)
    columns = raw(runtimes, *runtimes.primary_key, runtimes.c.session_revision, runtimes.c.session_sha256)
    described = raw(session_versions, *(session_versions.c[name] for name in (*Version._fields, "seal")))
    statement = (
        sa.select(*columns, newest.c.revision.label("newest_revision"), *described)
        .select_from(runtimes.outerjoin(newest, _same(runtimes, newest)).outerjoin(session_versions, named))
        .where(sa.or_(runtimes.c.session_revision.is_not(None), newest.c.revision.is_not(None)))
        .order_by(*runtimes.primary_key)
    )
    for row in _rows(tx, statement):
        digest = row["session_sha256"]
        if not _names_a_version(row):
            continue  # told where the row itself is looked at
        if row["session_revision"] != row["newest_revision"]:
            told = "session_revision is not that of the newest version of its session"
            yield finding("version_missing", runtimes, row, told)
        elif not _is_described(row):
            continue  # told where that row is looked at
        elif not isinstance(digest, bytes) or digest[:SHA256_BYTES] != row["sha256"]:
            yield finding("column_mismatch", runtimes, row, "session_sha256 is not that of its newest version")


def _is_described(row: Any) -> bool:
    """Tell whether what a row says of a version is as it was written; its digest, without a seal, may be damaged."""
    runtime = RuntimeKey(row["realm"], row["runtime_id"])
    return row["seal"] is not None and damage_of(runtime, version_in(row), row["seal"]) is None


def _names_a_version(row: Any) -> bool:
    key = RuntimeKey(row["realm"], row["runtime_id"])
    try:
        current_of(key, row["session_revision"], row["session_sha256"])
    except StoredValueCorrupt:
        return False
    return True


def identity(tx: Connection) -> Iterator[Finding]:
    """Check the store's own id, which names its authority."""
    try:
        schema.store_id(tx)
    except StoredValueCorrupt:
        yield Finding("column_mismatch", store_identity.name, {}, "store_id is not one UUID")


def projection(tx: Connection, row: Row, document: bytes) -> Iterator[Finding]:
    """Check the row in `sessions` that was written with a runtime's newest version, if that itself is sound."""
    session = session_of(document)
    if session is None or not _is_newest(tx, row):
        return
    of_session = (sessions.c.realm == row["realm"], sessions.c.session_id == session.session_id)
    found = tx.execute(sa.select(*raw(sessions)).where(*of_session)).mappings().one_or_none()
    if found is None:
        yield finding("no_projection", session_versions, row, "there is no row of this session in the table sessions")
    elif not reads.is_text(found["runtime_id"]):
        yield finding("projection_mismatch", sessions, dict(found), "runtime_id is no text")
    elif found["runtime_id"] != row["runtime_id"]:
        yield from _moved_on(tx, dict(found))
    elif not list(listed_session(dict(found))):  # else it is told where that row is looked at
        wrong = [name for name in NUMBERS_OF_A_SESSION if found[name] != getattr(session, name)]
        if wrong:
            yield finding(
                "projection_mismatch", sessions, dict(found), f"not what the snapshot says: {', '.join(wrong)}"
            )


def _is_newest(tx: Connection, row: Row) -> bool:
    """Tell whether a version is the one that its runtime names."""
    its = sa.and_(runtimes.c.realm == row["realm"], runtimes.c.runtime_id == row["runtime_id"])
    columns = raw(runtimes, *runtimes.primary_key, runtimes.c.session_revision, runtimes.c.session_sha256)
    found = tx.execute(sa.select(*columns).where(its)).mappings().one_or_none()
    return found is not None and _names_a_version(found) and found["session_revision"] == row["revision"]


def _moved_on(tx: Connection, listed: Row) -> Iterator[Finding]:
    """Check a session that is listed under another runtime than the one whose snapshot of it is looked at.

    That other one has written it since. It may have gone on to another session after that, which leaves no trace: then
    nobody can tell its row from one whose runtime was changed. It cannot be without any snapshot; where it is,
    `sessions_without_a_snapshot` and `without_a_runtime` say so.
    """
    of_it = (session_versions.c.realm == listed["realm"], session_versions.c.runtime_id == listed["runtime_id"])
    newest_first = session_versions.c.revision.desc()
    statement = sa.select(*raw(session_versions, session_versions.c.session_id)).where(*of_it).order_by(newest_first)
    has = tx.execute(statement.limit(1)).scalars().all()
    if has and has[0] != listed["session_id"]:
        told = "runtime_id has a snapshot of another session, and a runtime that is not listed has one of this"
        yield finding("projection_mismatch", sessions, listed, told, Severity.WARNING)


def lost_inputs(database: Database, tx: Connection, rows: Sequence[Row]) -> Iterator[Finding]:
    """Find receipts that name inputs which are not there. Every row is a sound receipt."""
    named = [(row, boundary_receipt.read(row["receipt"]).contributing_input_ids) for row in rows]
    columns = tuple(inputs.primary_key)
    keys = sorted({(row["realm"], row["runtime_id"], input_id) for row, ids in named for input_id in ids})
    statement = select_by_key(database, columns, columns)
    there = {
        tuple(row)
        for start in range(0, len(keys), KEYS_AT_ONCE)
        for row in database.ask(tx, statement, columns, keys[start : start + KEYS_AT_ONCE])()
    }
    for row, ids in named:
        lost = [input_id for input_id in ids if (row["realm"], row["runtime_id"], input_id) not in there]
        if lost:
            # No error, though no call deletes an input: AtomicApply takes a receipt that names inputs which were never
            # sent, so a store that nobody damaged may hold it. A runtime sends all its inputs with every receipt.
            told = f"names inputs that are not stored: {', '.join(lost)}"
            yield finding("input_missing", receipts, row, told, Severity.WARNING)


def requests_from_the_future(tx: Connection) -> Iterator[Finding]:
    """Find requests whose answer no runtime or fence of their realm, and no OAuth snapshot, has come to."""
    reached = (
        sa.union_all(
            sa.select(runtimes.c.realm, runtimes.c.revision),
            sa.select(oauth_flow_snapshots.c.realm, oauth_flow_snapshots.c.version.label("revision")),
            sa.select(fences.c.realm, fences.c.fence.label("revision")),
        )
    ).subquery()
    largest = (
        sa.select(reached.c.realm, sa.func.max(reached.c.revision).label("revision"))
        .group_by(reached.c.realm)
        .subquery()
    )
    statement = (
        sa.select(*raw(requests, *requests.primary_key))
        .select_from(requests.outerjoin(largest, requests.c.realm == largest.c.realm))
        .where(requests.c.revision > sa.func.coalesce(largest.c.revision, 0))
        .order_by(*requests.primary_key)
    )
    told = "its answer is a revision that nothing in its realm has reached"
    for row in _rows(tx, statement):
        yield finding("revision_out_of_order", requests, row, told)


OF_ALL = (
    without_a_runtime,
    sessions_without_a_snapshot,
    fewer_writes_than_receipts,
    newest_versions,
    requests_from_the_future,
    identity,
)
"""What is asked of whole tables, once the rows have been looked at."""
