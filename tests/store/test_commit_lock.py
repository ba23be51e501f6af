"""Servers on one SQLite file: a checkpoint and a commit never run at the same time, whatever SQLite each of them uses.

Where they do, SQLite up to 3.51.2 may lose what was acknowledged: a checkpoint that has read the index of the log, and
not yet how far checkpoints came, takes a log that was begun anew meanwhile for the old one. Between the two it reads
shared memory and makes no call of the system, so nothing outside can hold it there, and these tests hold what can be:
the checkpoint as a whole, and the commit.
"""

from __future__ import annotations

import fcntl
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as StillWaiting
from typing import TYPE_CHECKING, Any

import pytest

from runtimestore_server.store import tables
from runtimestore_server.store.engines import Fault, open_database, sqlite
from runtimestore_server.store.engines.checkpoints import CHECKPOINT_BYTES
from runtimestore_server.store.engines.commit_lock import CheckpointUnderWay, CommitLock
from runtimestore_server.store.engines.sqlite_driver import has_reset_defect
from runtimestore_server.store.values import Outcome
from runtimestore_server.store.writes import Write
from support.generators.store_writes import commit, new_id, rows, runtime

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from runtimestore_server.store.engines import Database

WAIT_SECONDS = 20
A_MOMENT_SECONDS = 0.3


@pytest.fixture
def other(sqlite_database: Database, tmp_path: Path) -> Iterator[Database]:
    """Another server's view of the same file."""
    del sqlite_database
    found = open_database(f"sqlite:///{tmp_path}/store.db", committer_threads=1, reader_threads=1)
    yield found
    found.dispose()


def _write() -> Write:
    return Write(runtime(), new_id(), runtime_state="idle")


def _traced(database: Database, told: Callable[[str], object]) -> None:
    """Tell of each statement of the connection that commits, before it runs."""
    with database.writers.connect() as connection:
        driver: Any = connection.connection.driver_connection
        driver.set_trace_callback(told)


def _owe_a_checkpoint(database: Database) -> None:
    with database.writers.begin() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = version_num")
    with database.writers.connect() as connection:
        database.after_commit(connection, writes=0, carried_bytes=CHECKPOINT_BYTES)


def test_no_checkpoint_is_made_while_another_server_commits_and_it_is_made_afterwards(
    sqlite_database: Database, other: Database
) -> None:
    commit(sqlite_database, _write())
    done: list[str] = []
    _traced(sqlite_database, done.append)

    with sqlite_database.writers.connect() as connection:
        with other.writers.begin() as tx:
            tx.execute(tables.runtimes.delete())
            sqlite_database.after_commit(connection, writes=0, carried_bytes=CHECKPOINT_BYTES)
            assert [statement for statement in done if "wal_checkpoint" in statement] == []
            assert sqlite_database.untidy

        assert sqlite_database.untidy
    sqlite_database.tidy()

    assert [statement for statement in done if "wal_checkpoint" in statement] == ["PRAGMA wal_checkpoint(PASSIVE)"]
    assert not sqlite_database.untidy


def test_no_commit_lands_while_another_server_makes_a_checkpoint_and_it_lands_afterwards(
    sqlite_database: Database, other: Database
) -> None:
    reached, go_on = threading.Event(), threading.Event()

    def hold(statement: str) -> None:
        if "wal_checkpoint" in statement:
            reached.set()
            assert go_on.wait(WAIT_SECONDS)

    commit(other, _write())
    _traced(other, hold)
    write = _write()
    with ThreadPoolExecutor(2) as threads:
        checkpoint = threads.submit(_owe_a_checkpoint, other)
        try:
            assert reached.wait(WAIT_SECONDS)
            committing = threads.submit(commit, sqlite_database, write)
            with pytest.raises(StillWaiting):
                committing.result(A_MOMENT_SECONDS)
            assert write.runtime.runtime_id not in {row["runtime_id"] for row in rows(other, tables.runtimes)}
        finally:
            go_on.set()
        checkpoint.result(WAIT_SECONDS)

        assert committing.result(WAIT_SECONDS) == [Outcome(1)]


def test_a_checkpoint_that_does_not_end_makes_a_commit_fail_as_transient_and_leaves_no_transaction(
    sqlite_database: Database, other: Database, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(sqlite, "BUSY_TIMEOUT_SECONDS", 0.05)
    lock = CommitLock(str(tmp_path / "store.db"))
    assert lock.alone()
    try:
        with pytest.raises(CheckpointUnderWay) as raised, sqlite_database.writers.begin():
            raise AssertionError
        assert sqlite_database.classify(raised.value) is Fault.TRANSIENT
    finally:
        lock.close()

    assert commit(other, _write()) == [Outcome(1)]
    assert commit(sqlite_database, _write()) == [Outcome(1)]


def test_a_lock_that_another_process_holds_counts_and_ends_with_that_process(
    sqlite_database: Database, tmp_path: Path
) -> None:
    commit(sqlite_database, _write())
    program = (
        "import sys\nfrom runtimestore_server.store.engines.commit_lock import CommitLock\n"
        "lock = CommitLock(sys.argv[1])\nlock.share(within_seconds=5)\nprint('held', flush=True)\nsys.stdin.read()\n"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", program, tmp_path / "store.db"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with holder:
        assert holder.stdout
        assert holder.stdout.readline() == b"held\n"
        _owe_a_checkpoint(sqlite_database)
        assert sqlite_database.untidy
        holder.kill()

    sqlite_database.tidy()
    assert not sqlite_database.untidy


def test_a_lock_whose_file_was_removed_is_taken_on_the_one_that_others_find(tmp_path: Path) -> None:
    (tmp_path / "store.db").touch()
    one, another = (CommitLock(str(tmp_path / "store.db")) for _ in range(2))
    one.share(within_seconds=0)
    one.release()
    (tmp_path / "store.db-lock").unlink()
    another.share(within_seconds=0)

    assert not one.alone()
    another.release()
    assert one.alone()
    one.close()
    another.close()


def test_the_last_server_that_ends_takes_the_file_of_the_lock_along(tmp_path: Path) -> None:
    file = tmp_path / "store.db"
    file.touch(mode=0o640)
    file.chmod(0o640)
    one, another = CommitLock(str(file)), CommitLock(str(file))
    one.share(within_seconds=0)
    another.share(within_seconds=0)
    beside = tmp_path / "store.db-lock"

    one.close()
    assert beside.stat().st_mode & 0o777 == 0o640
    with beside.open() as handle, pytest.raises(BlockingIOError):
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    another.close()
    assert not beside.exists()


@pytest.mark.parametrize(
    ("version", "has_it"),
    [
        ("3.40.1", True),
        ("3.44.5", True),
        ("3.44.6", False),
        ("3.45.0", True),
        ("3.50.6", True),
        ("3.50.7", False),
        ("3.51.2", True),
        ("3.51.3", False),
        ("3.53.4", False),
        ("4.0.0", False),
    ],
)
def test_the_versions_of_sqlite_that_may_lose_commits_are_known(version: str, has_it: bool) -> None:
    assert has_reset_defect(version) is has_it


def test_a_lock_that_is_kept_anew_by_a_commit_that_began_within_the_last_keeping_stays_kept(tmp_path: Path) -> None:
    file = tmp_path / "store.db"
    file.touch()
    lock, other = CommitLock(str(file)), CommitLock(str(file))
    lock.share(within_seconds=WAIT_SECONDS)
    assert lock.keep()
    lock.release()

    lock.share(within_seconds=WAIT_SECONDS)
    lock.end_keeping()
    assert not other.alone()  # the commit is not over
    assert lock.keep()  # it is large, too
    lock.release()
    assert not other.alone()
    lock.end_keeping()

    assert other.alone()
    other.release()
    for one in (lock, other):
        one.close()
