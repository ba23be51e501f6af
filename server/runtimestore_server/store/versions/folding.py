"""Makes a new base of a version once the edits since the last one outweigh that; never within a commit.

A fold changes one row: the version becomes a base, and what it comes to stays the same. So nothing has to be locked but
that row, it does not matter how many versions came after it, and a fold that is cut off has not happened.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import TYPE_CHECKING, NamedTuple

import sqlalchemy as sa

from runtimestore.errors import StoredValueCorrupt
from runtimestore_server.store.tables import session_versions
from runtimestore_server.store.versions.chains import load_session
from runtimestore_server.store.versions.rows import BASE, DESCRIPTION, EDITS, damage_of, sealed, version_of

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

    from runtimestore_server.store.engines import Database
    from runtimestore_server.store.values import RuntimeKey
    from runtimestore_server.store.versions.recent import RecentSession, RecentSessions
    from runtimestore_server.store.versions.rows import Version

MOST_PENDING = 10_000
"""How many runtimes may wait for their fold; of more the next load or write tells again."""

PAGE_BYTES = 4096
"""What a sweep counts as one row."""


class Folded(NamedTuple):
    """A version that became a base."""

    runtime: RuntimeKey
    version: Version


class Folding:
    """The versions that are to become bases; one is made at a time, as a sweep of maintenance."""

    def __init__(self, database: Database, recent: RecentSessions) -> None:
        self._database = database
        self._recent = recent
        self._lock = threading.Lock()
        self._pending: OrderedDict[RuntimeKey, RecentSession] = OrderedDict()
        self._at: tuple[RuntimeKey, RecentSession] | None = None
        self._made: Folded | None = None
        self.folded: list[Folded] = []
        """What was made and nobody has looked at yet; taken by the thread that does maintenance."""
        self.count = 0
        """How many bases were made since the server started."""

    def add(self, runtime: RuntimeKey, session: RecentSession) -> None:
        """Have a version made a base; not its document, but what is known of it, is held until then."""
        with self._lock:
            if runtime in self._pending or len(self._pending) < MOST_PENDING:
                self._pending[runtime] = session._replace(body=b"")

    @property
    def pending(self) -> bool:
        """Whether there is something to do."""
        return bool(self._pending)

    def sweep(self, tx: Connection, most: int) -> int:
        """Make one version a base; about how many pages were written."""
        del most
        with self._lock:
            if not self._pending:
                return 0
            self._at = runtime, session = next(iter(self._pending.items()))
            self._pending.move_to_end(runtime)  # should it fail, the others have their turn before
        self._made = None
        try:
            return self._fold(tx, runtime, session)
        except StoredValueCorrupt:
            return 0  # whoever reads it is told

    def _fold(self, tx: Connection, runtime: RuntimeKey, session: RecentSession) -> int:
        table = session_versions
        named = (table.c.realm == runtime.realm, table.c.runtime_id == runtime.runtime_id)
        its = (*named, table.c.revision == session.revision)
        # Locked: what is pruned meanwhile must not come back.
        row = tx.execute(sa.select(*DESCRIPTION, table.c.seal).where(*its).with_for_update()).one_or_none()
        if row is None:
            return 0
        version = version_of(row)
        if version.kind != EDITS or version.sha256 != session.sha256 or damage_of(runtime, version, row.seal):
            return 0
        body = self._document(tx, runtime, version)
        if body is None:
            return 0
        base = version._replace(kind=BASE)
        self._database.upsert(tx, table, [(*runtime, *base, sealed(runtime, base), body)])
        self._made = Folded(runtime, base)
        return 1 + len(body) // PAGE_BYTES

    def _document(self, tx: Connection, runtime: RuntimeKey, version: Version) -> bytes | None:
        recent = self._recent.get(runtime)
        if recent is not None and recent.sha256 == version.sha256:
            return recent.body
        _, stored = load_session(tx, runtime, as_of_revision=version.revision)
        return stored.body if stored is not None and stored.revision == version.revision else None

    def settle(self) -> None:
        """Take note that the transaction of the last sweep was committed."""
        if self._at is None:
            return
        runtime, session = self._at
        self._at = None
        with self._lock:
            if self._pending.get(runtime) == session:
                del self._pending[runtime]
        if self._made is not None:
            self._recent.rebased(runtime, base_bytes=self._made.version.size_bytes, edits_bytes=session.edits_bytes)
            self.folded.append(self._made)
            self.count += 1
