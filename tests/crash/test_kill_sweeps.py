"""SIGKILL at every step of a fold and of a prune: what is kept of a session reads the same, and nothing is half."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from runtimestore_server.store.engines import open_database
from runtimestore_server.store.engines.sqlite_driver import has_reset_defect
from runtimestore_server.store.schema import upgrade
from runtimestore_server.store.values import SessionSnapshot, SnapshotEdits
from runtimestore_server.store.versions import edits
from runtimestore_server.store.versions.folding import Folding
from runtimestore_server.store.versions.recent import RecentSession, RecentSessions
from runtimestore_server.store.writes import Write
from support.faults.killed_processes import run_killed
from support.generators.store_writes import commit, new_id, runtime
from support.servers.engines import DURABLE

if TYPE_CHECKING:
    from runtimestore_server.store.engines import Database
    from runtimestore_server.store.values import RuntimeKey

TESTS = Path(__file__).resolve().parents[1]
PROCESS_SECONDS = 120


def _write(database: Database, key: RuntimeKey, bodies: list[bytes]) -> None:
    session_id, base = new_id(), b""
    for body in bodies:
        changed = SnapshotEdits(sha256(base).digest(), edits.encode(edits.find(base, body)), required=bool(base))
        digest = sha256(body).digest()
        snapshot = SessionSnapshot(session_id, body, digest, 1, 2, 3, 4, changed if base else None)
        commit(database, Write(key, snapshot=snapshot))
        base = body


def _fold(database: Database, key: RuntimeKey, revision: int, body: bytes) -> None:
    folding = Folding(database, RecentSessions(0))
    folding.add(key, RecentSession(sha256(body).digest(), b"", revision, 0, 0))
    folding.prepare()
    with database.writers.begin() as tx:
        assert folding.sweep(tx, 1)


@pytest.mark.needs(DURABLE)
@pytest.mark.parametrize("errand", ["fold", "prune"])
def test_a_kill_at_any_step_of_a_sweep_leaves_every_version_that_is_kept(fresh_url: str, errand: str) -> None:
    key = runtime()
    bodies = [b"begin " * 50 + b"turn " * turn * 20 for turn in range(1, 8)]
    database = open_database(fresh_url, committer_threads=1, reader_threads=1)
    _write(database, key, bodies)
    _fold(database, key, 4, bodies[3])
    database.dispose()

    killed, last = run_killed(
        TESTS / "crash" / "sweeper.py", fresh_url, key.runtime_id, errand, within_seconds=PROCESS_SECONDS
    )

    assert len(killed) >= 3
    digests = {str(revision): sha256(body).hexdigest() for revision, body in enumerate(bodies, 1)}
    before = {"1": "base", "2": "edits", "3": "edits", "4": "base", "5": "edits", "6": "edits", "7": "edits"}
    for found in killed:
        assert found == {"kinds": before, "digests": digests}
    if errand == "fold":
        assert last == {"kinds": {**before, "7": "base"}, "digests": digests}
    else:
        kept = ("4", "5", "6", "7")
        left = {"kinds": {one: before[one] for one in kept}, "digests": {one: digests[one] for one in kept}}
        assert last == left


@pytest.mark.skipif(has_reset_defect(), reason="with this SQLite there is no checkpoint beside the commits")
def test_a_kill_at_any_step_of_a_checkpoint_beside_the_commits_loses_nothing_that_was_acknowledged(
    tmp_path: Path,
) -> None:
    url = f"sqlite:///{tmp_path}/store.db"
    upgrade(url)

    killed, last = run_killed(TESTS / "crash" / "checkpointer.py", url, str(tmp_path), within_seconds=PROCESS_SECONDS)

    assert len(killed) == 10
    for found in (*killed, last):
        assert found == {"lost": [0, 0], "whole": True, "checked": ["ok"]}
