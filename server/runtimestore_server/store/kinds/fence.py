"""Gives whoever acquires a runtime a fence greater than all before it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from runtimestore_server.store.engines import RowTaken
from runtimestore_server.store.engines.direct import Answer
from runtimestore_server.store.fences import NEVER_ACQUIRED, Held, damage
from runtimestore_server.store.kinds.kind import Lock
from runtimestore_server.store.tables import fences
from runtimestore_server.store.values import Outcome

if TYPE_CHECKING:
    from collections.abc import Sequence

    from runtimestore.errors import StoredValueCorrupt
    from runtimestore_server.store.kinds.kind import Transaction
    from runtimestore_server.store.values import RuntimeKey
    from runtimestore_server.store.writes import Acquisition


class FenceKind:
    """Acquisitions: one row a runtime."""

    def __init__(self, transaction: Transaction) -> None:
        self._database, self._tx, self._now_ms = transaction.database, transaction.tx, transaction.now_ms
        self._fences = transaction.fences
        self._held: dict[RuntimeKey, Held] = {}
        self._existing: set[RuntimeKey] = set()
        self._inserted: Answer[None] = Answer.found(None)
        self._rows: dict[RuntimeKey, tuple[int, str, int]] = {}

    def lock(self, writes: Sequence[Acquisition]) -> Answer[Lock]:
        """Lock nothing: all fences of a batch are locked together, before everything else."""
        del writes

        def locked() -> Lock:
            self._held = dict(self._fences.held)
            self._existing = set(self._held)
            return Lock(set())

        return Answer(locked)

    def ask(self, writes: Sequence[Acquisition]) -> None:
        """Ask nothing: the fences are all that decides."""

    def refusal(self, write: Acquisition) -> StoredValueCorrupt | None:
        """Refuse for damage alone: nothing else keeps anybody from acquiring a runtime."""
        held = self._held.get(write.runtime)
        return damage(write.runtime, held) if held else None

    def land(self, write: Acquisition) -> Outcome:
        """Give the next fence."""
        before = self._held.get(write.runtime, NEVER_ACQUIRED)
        now = self._held[write.runtime] = Held(before.fence + 1, write.owner)
        self._rows[write.runtime] = (now.fence, write.owner, self._now_ms())
        return Outcome(now.fence, previous_owner=before.owner)

    def write_down(self) -> None:
        """Write the rows; one that was not there could not be locked: there the key decides."""
        rows = [(*key, *row) for key, row in sorted(self._rows.items())]
        first = [row for row in rows if row[:2] not in self._existing]
        self._inserted = self._database.insert_new(self._tx, fences, first, taken=RowTaken())
        self._database.upsert(self._tx, fences, [row for row in rows if row[:2] in self._existing])

    def confirm(self) -> None:
        """Raise RowTaken where the key was not free."""
        self._inserted()
