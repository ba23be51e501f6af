"""Decides how a new session snapshot is stored: as edits of the version before it, or whole."""

from __future__ import annotations

from typing import TYPE_CHECKING

from runtimestore.errors import SnapshotBaseMismatch
from runtimestore_server.store.by_key import select_by_key
from runtimestore_server.store.engines.direct import Answer
from runtimestore_server.store.tables import BASE, EDITS, session_versions
from runtimestore_server.store.values import RuntimeKey
from runtimestore_server.store.versions.rows import Version

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy.engine import Connection

    from runtimestore_server.store.engines import Database
    from runtimestore_server.store.values import ReceiptDocument, SessionSnapshot
    from runtimestore_server.store.versions.rows import Current


def next_version(
    snapshot: SessionSnapshot,
    revision: int,
    current: Current | None,
    receipt: ReceiptDocument | None,
    now_ms: int,
) -> tuple[Version, bytes]:
    """Make the version that a snapshot comes to, and its body: as edits if made of the current one, or packed."""
    edits = snapshot.edits
    as_edits = (
        edits is not None and edits.encoded is not None and current is not None and edits.base_sha256 == current.sha256
    )
    version = Version(
        revision,
        EDITS if as_edits else BASE,
        snapshot.session_id,
        snapshot.sha256,
        len(snapshot.body),
        current.revision if current else None,
        now_ms,
        receipt.run_id if receipt else None,
        receipt.sequence if receipt else None,
    )
    if as_edits and edits and edits.encoded is not None:
        return version, edits.encoded
    return version, snapshot.body if snapshot.packed is None else snapshot.packed


def other_base(current_sha256: bytes) -> SnapshotBaseMismatch:
    """Make the refusal of edits that were made of another snapshot than the runtime's current one."""
    return SnapshotBaseMismatch(
        "the edits are not of the runtime's current session snapshot; send the whole document",
        metadata={"current_sha256": current_sha256.hex()},
    )


def with_versions(database: Database, tx: Connection, keys: Sequence[RuntimeKey]) -> Answer[set[RuntimeKey]]:
    """Find those of the runtimes that have any version of a session."""
    columns = (session_versions.c.realm, session_versions.c.runtime_id)
    asked = database.ask(tx, select_by_key(database, columns, columns), columns, keys)
    return Answer(lambda: {RuntimeKey(row.realm, row.runtime_id) for row in asked()})
