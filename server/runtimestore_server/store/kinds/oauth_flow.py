"""Replaces, or compares and swaps, the OAuth flow snapshot of a realm: one row, whose bytes hold secrets."""

from __future__ import annotations

from typing import TYPE_CHECKING

from runtimestore.errors import OAuthFlowSnapshotChanged
from runtimestore_server.store.by_key import lock_by_key
from runtimestore_server.store.digests import sealed_flow
from runtimestore_server.store.engines import RowTaken
from runtimestore_server.store.engines.direct import Answer
from runtimestore_server.store.kinds.kind import Lock
from runtimestore_server.store.reads import corrupt, is_count
from runtimestore_server.store.tables import oauth_flow_snapshots
from runtimestore_server.store.values import Outcome

if TYPE_CHECKING:
    from collections.abc import Sequence

    from runtimestore.errors import RuntimeStoreError
    from runtimestore_server.store.kinds.kind import Transaction
    from runtimestore_server.store.writes import OAuthFlowWrite

_KEY = (oauth_flow_snapshots.c.realm,)


class OAuthFlowKind:
    """Writes to OAuth flow snapshots: one row a realm."""

    def __init__(self, transaction: Transaction) -> None:
        self._database, self._tx, self._skip_held = transaction.database, transaction.tx, transaction.skip_held
        self._versions: dict[str, int] = {}
        self._existing: set[str] = set()
        self._rows: dict[str, tuple[int, bytes, bytes]] = {}
        self._inserted: Answer[None] = Answer.found(None)

    def lock(self, writes: Sequence[OAuthFlowWrite]) -> Answer[Lock]:
        """Lock the rows of the realms."""
        keys = sorted({(write.realm,) for write in writes})
        asked = lock_by_key(
            self._database, self._tx, _KEY, (oauth_flow_snapshots.c.version,), keys, skip_held=self._skip_held
        )

        def locked() -> Lock:
            self._versions = {row.realm: row.version for row in asked().rows}
            self._existing = set(self._versions)
            return Lock({realm for (realm,) in asked().held})

        return Answer(locked)

    def ask(self, writes: Sequence[OAuthFlowWrite]) -> None:
        """Ask nothing: the version is all that decides."""

    def refusal(self, write: OAuthFlowWrite) -> RuntimeStoreError | None:
        """Refuse what is not allowed, damaged, or at another version than expected."""
        if write.disallowed:
            return write.disallowed.refusal
        version = self._versions.get(write.realm, 0)
        if write.realm in self._versions and not is_count(version):
            return corrupt(oauth_flow_snapshots.name, "has no version", realm=write.realm)
        if write.expected_version not in (None, version):
            return OAuthFlowSnapshotChanged(
                f"the OAuth flow snapshot is at version {version}, not at {write.expected_version}; "
                "load it again and compute anew",
                metadata={"expected_version": str(write.expected_version), "current_version": str(version)},
            )
        return None

    def land(self, write: OAuthFlowWrite) -> Outcome:
        """Give the next version."""
        version = self._versions[write.realm] = self._versions.get(write.realm, 0) + 1
        self._rows[write.realm] = (version, sealed_flow(write.sha256, version), write.snapshot_json)
        return Outcome(version)

    def write_down(self) -> None:
        """Write the rows; one that was not there could not be locked: there the key decides."""
        rows = [(realm, *row) for realm, row in sorted(self._rows.items())]
        first = [row for row in rows if row[0] not in self._existing]
        self._inserted = self._database.insert_new(self._tx, oauth_flow_snapshots, first, taken=RowTaken())
        self._database.upsert(self._tx, oauth_flow_snapshots, [row for row in rows if row[0] in self._existing])

    def confirm(self) -> None:
        """Raise RowTaken where the key was not free."""
        self._inserted()
