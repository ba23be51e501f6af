"""Folds or prunes one session in forked processes, each of which kills itself one statement later than the last.

    python sweeper.py URL RUNTIME_ID fold|prune

Prints, after each process, what can be read: a JSON object a line.
"""

from __future__ import annotations

import sys
from hashlib import sha256

import sqlalchemy as sa

from runtimestore.errors import RevisionNotKept
from runtimestore_server.store.engines import Database, open_database
from runtimestore_server.store.tables import session_versions
from runtimestore_server.store.values import RuntimeKey
from runtimestore_server.store.versions.chains import load_session
from runtimestore_server.store.versions.folding import Folding
from runtimestore_server.store.versions.pruning import Pruning
from runtimestore_server.store.versions.recent import RecentSession, RecentSessions
from support.faults.killed_processes import die_before, kill_one_after_the_other

EVER = 2**60
MOST_STEPS = 50


def opened(url: str) -> Database:
    """The database, for one process."""
    return open_database(url, committer_threads=1, reader_threads=1)


def sweep(url: str, runtime: RuntimeKey, errand: str, *, step: int) -> None:
    """Do the errand, but die before the statement with this number, or before COMMIT."""
    database = opened(url)
    with database.readers.connect() as connection:
        _, stored = load_session(connection, runtime)
    assert stored is not None
    folding = Folding(database, RecentSessions(0))
    folding.add(runtime, RecentSession(stored.sha256, b"", stored.revision, stored.base_bytes, stored.edits_bytes))
    if errand == "fold":
        folding.prepare()
    die_before(database.writers, step)
    with database.writers.begin() as tx:
        if errand == "fold":
            folding.sweep(tx, 1000)
        else:
            Pruning(lambda _tx: EVER, folding).sweep(tx, 1000)
    database.dispose()


def readable(url: str, runtime: RuntimeKey) -> dict[str, object]:
    """The kind of each version, and the digest of what is read of each revision up to the newest."""
    database = opened(url)
    digests: dict[int, str | None] = {}
    with database.readers.connect() as connection:
        statement = (
            sa.select(session_versions.c.revision, session_versions.c.kind)
            .where(session_versions.c.runtime_id == runtime.runtime_id)
            .order_by(session_versions.c.revision)
        )
        kinds = {revision: kind for revision, kind in connection.execute(statement)}  # noqa: C416  (rows are no pairs)
        for revision in range(1, max(kinds) + 1):
            try:
                _, stored = load_session(connection, runtime, as_of_revision=revision)
            except RevisionNotKept:
                continue
            digests[revision] = sha256(stored.body or b"").hexdigest() if stored else None
    database.dispose()
    return {"kinds": kinds, "digests": digests}


def main(url: str, runtime_id: str, errand: str) -> None:
    """Kill one process after the other, until one comes through."""
    runtime = RuntimeKey("test", runtime_id)
    kill_one_after_the_other(
        range(1, MOST_STEPS),
        lambda step: sweep(url, runtime, errand, step=step),
        lambda: readable(url, runtime),
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
