"""The OAuth flow snapshot of a realm: one row, replaced or compared and swapped. The bytes hold secrets."""

from __future__ import annotations

from typing import TYPE_CHECKING

import sqlalchemy as sa

from runtimestore.errors import OAuthFlowSnapshotChanged
from runtimestore_server.store import keyed
from runtimestore_server.store.reads import corrupt, is_count
from runtimestore_server.store.requests import Decision, RequestMemory, RowTaken
from runtimestore_server.store.tables import oauth_flow_snapshots
from runtimestore_server.store.values import OAuthFlowWrite, Outcome

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy.engine import Connection

    from runtimestore_server.store.engines import Database


def commit(database: Database, tx: Connection, batch: Sequence[OAuthFlowWrite], *, now_ms: int) -> list[Decision]:
    """Put a batch of writes to OAuth flow snapshots into the store, as if they had come one after the other.

    Raises:
        RowTaken: another transaction was first; run again.
    """
    versions = _lock_versions(tx, sorted({write.realm for write in batch}))
    existing = set(versions)
    memory = RequestMemory(database, tx, batch)
    rows: dict[str, tuple[int, bytes, bytes]] = {}
    decisions: list[Decision] = []
    for write in batch:
        version = versions.get(write.realm, 0)
        decision = memory.recall(write) or (write.forbidden and write.forbidden.refusal)
        if decision is None and write.realm in versions and not is_count(version):
            decision = corrupt(oauth_flow_snapshots.name, "has no version", realm=write.realm)
        if decision is None and write.expected_version not in (None, version):
            decision = OAuthFlowSnapshotChanged(
                f"the OAuth flow snapshot is at version {version}, not at {write.expected_version}; "
                "load it again and compute anew",
                metadata={"expected_version": str(write.expected_version), "current_version": str(version)},
            )
        if decision is None:
            versions[write.realm] = version + 1
            rows[write.realm] = (version + 1, write.sha256, write.snapshot_json)
            memory.remember(write, version + 1)
            decision = Outcome(version + 1)
        decisions.append(decision)
    _write_down(database, tx, rows, existing)
    memory.record(now_ms)
    return decisions


def held_by_others(database: Database, tx: Connection, batch: Sequence[OAuthFlowWrite]) -> set[str]:
    """The realms that these writes would have to wait for, because another session holds their rows now."""
    columns = (oauth_flow_snapshots.c.realm,)
    realms = sorted({(write.realm,) for write in batch})
    return {realm for (realm,) in keyed.held_by_others(database, tx, columns, realms)}


def _lock_versions(tx: Connection, realms: Sequence[str]) -> dict[str, int]:
    table = oauth_flow_snapshots
    statement = (
        sa.select(table.c.realm, table.c.version)
        .where(table.c.realm.in_(realms))
        .order_by(table.c.realm)
        .with_for_update()
    )
    return {row.realm: row.version for row in tx.execute(statement)}


def _write_down(
    database: Database, tx: Connection, rows: dict[str, tuple[int, bytes, bytes]], existing: set[str]
) -> None:
    # A row that was not there could not be locked: there the key decides.
    first = [(realm, *row) for realm, row in sorted(rows.items()) if realm not in existing]
    if database.insert_new(tx, oauth_flow_snapshots, first) != len(first):
        raise RowTaken
    database.upsert(
        tx, oauth_flow_snapshots, [(realm, *row) for realm, row in sorted(rows.items()) if realm in existing]
    )
