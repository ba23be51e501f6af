"""Sessions as versions, written and read beneath the server."""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING

from runtimestore_server.store import tables
from runtimestore_server.store.values import Outcome, SessionSnapshot, SnapshotEdits
from runtimestore_server.store.versions import edits
from runtimestore_server.store.versions.chains import load_session
from runtimestore_server.store.versions.folding import Folding
from runtimestore_server.store.versions.recent import RecentSession, RecentSessions
from runtimestore_server.store.writes import Write
from support.generators.store_writes import commit, new_id, rows

if TYPE_CHECKING:
    from runtimestore_server.store.engines import Database
    from runtimestore_server.store.values import RuntimeKey

SESSION = new_id()


def made_of(base: bytes | None, body: bytes, *, required: bool = True) -> SessionSnapshot:
    """A session, as edits of the one before it if there is one."""
    found = SessionSnapshot(SESSION, body, sha256(body).digest(), 1, 2, 3, 4)
    if base is None:
        return found
    encoded = edits.encode(edits.find(base, body))
    return found._replace(edits=SnapshotEdits(sha256(base).digest(), encoded, required))


def write_all(database: Database, key: RuntimeKey, bodies: list[bytes]) -> None:
    """Each of the sessions, as edits of the one before."""
    for base, body in zip([None, *bodies], bodies, strict=False):
        (outcome,) = commit(database, Write(key, snapshot=made_of(base, body)))
        assert isinstance(outcome, Outcome)


def read(database: Database, key: RuntimeKey, as_of_revision: int | None = None) -> bytes | None:
    """The session of a revision."""
    with database.readers.connect() as connection:
        _, stored = load_session(connection, key, as_of_revision=as_of_revision)
        return None if stored is None else stored.body


def kinds(database: Database, key: RuntimeKey) -> dict[int, str]:
    found = rows(database, tables.session_versions)
    return {row["revision"]: row["kind"] for row in found if row["runtime_id"] == key.runtime_id}


def folded(database: Database, key: RuntimeKey, recent: RecentSessions | None = None) -> Folding:
    """Make the newest version of a session a base."""
    folding = Folding(database, recent or RecentSessions(0))
    with database.readers.connect() as connection:
        _, stored = load_session(connection, key)
    assert stored is not None
    folding.add(key, RecentSession(stored.sha256, b"", stored.revision, stored.base_bytes, stored.edits_bytes))
    folding.prepare()
    with database.writers.begin() as tx:
        assert folding.sweep(tx, 100) > 0
    folding.settle()
    assert not folding._pending
    return folding
