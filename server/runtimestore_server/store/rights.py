"""The rights that the engine's role needs to serve, table by table, and what is told where one is missing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from runtimestore.errors import StoreForbidden
from runtimestore_server.store import tables

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy.engine import Connection

    from runtimestore_server.store.engines import Database, Lacking

_READ = ("SELECT",)
_ADD = ("SELECT", "INSERT")
_CHANGE = ("SELECT", "INSERT", "UPDATE")

NEEDED: dict[str, tuple[str, ...]] = {
    "alembic_version": _READ,
    tables.store_identity.name: _READ,
    tables.runtimes.name: (*_CHANGE, "DELETE"),  # of the row that held a place for a write that was refused
    tables.fences.name: _CHANGE,
    tables.requests.name: (*_ADD, "DELETE"),  # of what is past its retention
    tables.session_versions.name: (*_CHANGE, "DELETE"),  # of what nobody can ask for any more
    tables.sessions.name: _CHANGE,
    tables.inputs.name: _CHANGE,
    tables.receipts.name: _ADD,
    tables.ops_snapshots.name: _CHANGE,
    tables.oauth_flow_snapshots.name: _CHANGE,
}
"""What serving does to each table. Docs list the same, and a test serves with exactly these."""


def problem(database: Database, connection: Connection) -> str | None:
    """Tell which rights are missing, in one sentence; None if none is."""
    lacking = database.missing_rights(connection, NEEDED)
    if not lacking:
        return None
    return f"the database role lacks {_told(lacking)}: grant it; docs/operations.md has the GRANTs"


def looked_up(database: Database) -> Sequence[Lacking]:
    """Look up the rights that are missing, once the engine has refused something; empty if that cannot be seen."""
    try:
        with database.readers.connect() as connection:
            return database.missing_rights(connection, NEEDED)
    except Exception:  # noqa: BLE001  (that a right is missing is known; which one, whoever looks next will see)
        return ()


def refusal(lacking: Sequence[Lacking], *, store_error: str) -> StoreForbidden:
    """Return what a caller is told: the first right that is missing in the metadata, all of them in the message."""
    told = _told(lacking) if lacking else "a right"
    # None is seen to be missing where it was granted meanwhile, or a policy refused.
    right, table = lacking[0] if lacking else ("unknown", "unknown")
    return StoreForbidden(
        f"the storage engine's role lacks {told}; nothing was committed, let the operator grant it",
        metadata={"store_error": store_error, "table": table, "right": right},
    )


def _told(lacking: Sequence[Lacking]) -> str:
    return ", ".join(f"{right} on {table}" for right, table in lacking)
