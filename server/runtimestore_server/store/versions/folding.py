"""Compacts versions: writes one whole as a new base once the edits since the last base outweigh it. Never in a commit.

A fold changes one row: the version becomes a base, and what it comes to stays the same. So nothing has to be locked but
that row, it does not matter how many versions came after it, and a fold that is cut off has not happened. The document
is made on a thread of its own, one at a time; maintenance writes it, if the row is still the one that it was made of.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, NamedTuple

import sqlalchemy as sa
import structlog

from runtimestore.errors import StoredValueCorrupt
from runtimestore_server.store.engines import Fault, error_name
from runtimestore_server.store.tables import BASE, EDITS, session_versions
from runtimestore_server.store.versions.chains import load_session
from runtimestore_server.store.versions.packing import packed
from runtimestore_server.store.versions.recent import Fold
from runtimestore_server.store.versions.rows import DESCRIPTION, damage_of, sealed, version_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy.engine import Connection

    from runtimestore_server.store.engines import Database
    from runtimestore_server.store.values import RuntimeKey
    from runtimestore_server.store.versions.recent import RecentSession, RecentSessions
    from runtimestore_server.store.versions.rows import Version
    from runtimestore_server.supervision import Supervision

MOST_PENDING = 10_000
"""How many runtimes may wait for their fold; of more the next load or write tells again."""

PAGE_BYTES = 4096
"""What a sweep counts as one row."""

FAILED_PAUSE_SECONDS = 1.0
"""How long no document is made after one could not be read."""

_log = structlog.get_logger(__name__)


class _Prepared(NamedTuple):
    """A document that is to be written as a base."""

    runtime: RuntimeKey
    session: RecentSession
    version: Version
    """What the row said that it was made of."""
    body: bytes
    """As it is stored."""


class Folding:
    """The versions that are to become bases: their documents are made one at a time, and written by maintenance."""

    def __init__(self, database: Database, recent: RecentSessions) -> None:
        self._database = database
        self._recent = recent
        self._changed = threading.Condition()
        self._pending: OrderedDict[RuntimeKey, RecentSession] = OrderedDict()
        self._prepared: _Prepared | None = None
        self._made: Version | None = None
        self._closing = False
        self._thread: threading.Thread | None = None
        self.folded: list[tuple[RuntimeKey, Version]] = []
        """The bases that were made and nobody has looked at yet; taken by the thread that does maintenance."""
        self.count = 0
        """How many bases were made since the server started."""

    def start(self, supervision: Supervision, *, prepared: Callable[[], None]) -> None:
        """Make documents on a thread, which tells when one is to be written."""
        self._thread = supervision.thread("folding", lambda: self._run(prepared))

    def close(self) -> None:
        """Have the thread end after the document that it is at."""
        with self._changed:
            self._closing = True
            self._changed.notify()

    @property
    def alive(self) -> bool:
        """Whether there is a thread that has not ended yet."""
        return self._thread is not None and self._thread.is_alive()

    def add(self, runtime: RuntimeKey, session: RecentSession) -> None:
        """Have a version made a base; not its document, but what is known of it, is held until then."""
        with self._changed:
            if runtime in self._pending or len(self._pending) < MOST_PENDING:
                self._pending[runtime] = session._replace(body=b"", checked=None)
                self._changed.notify()

    @property
    def pending(self) -> bool:
        """Whether there is a document to be written."""
        return self._prepared is not None

    def _run(self, prepared: Callable[[], None]) -> None:
        failing = False
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closing or (self._pending and self._prepared is None))
                if self._closing:
                    return
            try:
                self.prepare()
            except Exception as error:  # noqa: BLE001  (whatever it is, it is tried again)
                passing = self._database.classify(error) in (Fault.TRANSIENT, Fault.UNAVAILABLE)
                if not passing and not failing:
                    failing = True
                    _log.warning("a new base of a session cannot be made; it is tried again", error=error_name(error))
                with self._changed:
                    self._changed.wait_for(lambda: self._closing, FAILED_PAUSE_SECONDS)
            else:
                failing = False
                if self.pending:
                    prepared()

    def prepare(self) -> None:
        """Make the document of the next version that is to become a base, if it still is to."""
        with self._changed:
            if not self._pending or self._prepared is not None:
                return
            runtime, session = next(iter(self._pending.items()))
            self._pending.move_to_end(runtime)  # should it fail, the others have their turn before
        try:
            found = self._read(runtime, session)
        except StoredValueCorrupt:
            found = None  # whoever reads it is told
        with self._changed:
            if found is not None:
                self._prepared = found
            elif self._pending.get(runtime) == session:
                del self._pending[runtime]

    def _read(self, runtime: RuntimeKey, session: RecentSession) -> _Prepared | None:
        # Of one moment: what is pruned meanwhile is no failure.
        with self._database.readers.connect() as connection, self._database.one_moment(connection):
            row = connection.execute(_row_of(runtime, session.revision)).one_or_none()
            if row is None:
                return None
            version = version_of(row)
            if version.kind != EDITS or version.sha256 != session.sha256 or damage_of(runtime, version, row.seal):
                return None
            recent = self._recent.get(runtime)
            if recent is not None and recent.sha256 == version.sha256:
                return _Prepared(runtime, session, version, _stored(recent.body))
            _, stored = load_session(connection, runtime, as_of_revision=version.revision)
            if stored is None or stored.body is None or stored.revision != version.revision:
                return None
            self._database.release_buffers(connection, len(stored.body))
            return _Prepared(runtime, session, version, _stored(stored.body))

    def sweep(self, tx: Connection, most: int) -> int:
        """Write the document that was made, if its row is still the one that it was made of; about how many pages."""
        del most
        self._made = None
        if (prepared := self._prepared) is None:
            return 0
        runtime, version, body = prepared.runtime, prepared.version, prepared.body
        # Locked: what is pruned meanwhile must not come back.
        row = tx.execute(_row_of(runtime, version.revision).with_for_update()).one_or_none()
        if row is None or version_of(row) != version or row.seal != sealed(runtime, version):
            return 0
        base = version._replace(kind=BASE)
        self._database.upsert(tx, session_versions, [(*runtime, *base, sealed(runtime, base), body)])
        self._made = base
        return 1 + len(body) // PAGE_BYTES

    def settle(self) -> None:
        """Take note that the transaction of the last sweep was committed."""
        if (prepared := self._prepared) is None:
            return
        runtime, session = prepared.runtime, prepared.session
        fold = None
        if (version := self._made) is not None:
            fold = Fold(version.revision, version.size_bytes, session.base_revision, session.edits_bytes)
            self._recent.rebased(runtime, fold)
            self.folded.append((runtime, version))
            self.count += 1
        with self._changed:
            newest = self._pending.pop(runtime, session)
            if newest.revision > session.revision and newest.after(fold).outweighed:
                self._pending[runtime] = newest.after(fold)
            self._prepared = None
            self._changed.notify()


def _stored(document: bytes) -> bytes:
    made = packed(document)
    return document if made is None else made


def _row_of(runtime: RuntimeKey, revision: int) -> sa.Select[Any]:
    table = session_versions
    named = (table.c.realm == runtime.realm, table.c.runtime_id == runtime.runtime_id, table.c.revision == revision)
    return sa.select(*DESCRIPTION, table.c.seal).where(*named)
