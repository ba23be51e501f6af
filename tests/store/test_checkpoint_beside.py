"""The checkpoint of a large commit is made beside the next commits, and what fails of it is made anew."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as StillWaiting
from typing import TYPE_CHECKING

import pytest

from runtimestore_server.store import tables
from runtimestore_server.store.engines import checkpoints, open_database, sqlite
from runtimestore_server.store.engines.sqlite import SqliteDatabase
from runtimestore_server.store.engines.sqlite_driver import has_reset_defect, sqlite3
from runtimestore_server.store.values import Outcome
from runtimestore_server.store.writes import Write
from support.generators.store_writes import commit, document, new_id, rows, runtime

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from runtimestore_server.store.engines import Database

WAIT_SECONDS = 20
A_MOMENT_SECONDS = 0.3
LARGE_BYTES = checkpoints.LARGE_COMMIT_BYTES + checkpoints.CHECKPOINT_BYTES

needs_sound_sqlite = pytest.mark.skipif(has_reset_defect(), reason="with this SQLite all checkpoints come between")


class _Held:
    """A checkpoint beside the commits that does not begin before it is told to."""

    def __init__(self, bring: Callable[[SqliteDatabase], None]) -> None:
        self._bring = bring
        self.begun = threading.Event()
        self.go_on = threading.Event()
        self.count = 0
        self.done: list[str] = []

    def __call__(self, database: SqliteDatabase) -> None:
        self.count += 1
        self.begun.set()
        assert self.go_on.wait(WAIT_SECONDS)
        self._bring(database)
        self.done.append("brought")


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Iterator[_Held]:
    """Made before the databases, whose methods it takes the place of."""
    found = _Held(SqliteDatabase._bring_log)

    def bring(database: SqliteDatabase) -> None:
        found(database)

    monkeypatch.setattr(SqliteDatabase, "_bring_log", bring)
    yield found
    found.go_on.set()


@pytest.fixture
def database(held: _Held, sqlite_database: Database) -> Database:
    del held
    return sqlite_database


def _small() -> Write:
    return Write(runtime(), new_id(), runtime_state="idle")


def _large() -> Write:
    return Write(runtime(), inputs=(document()._replace(state_json=bytes(LARGE_BYTES)),))


def _ended(database: Database) -> None:
    assert isinstance(database, SqliteDatabase)
    database._checkpoints.wait(WAIT_SECONDS)


@needs_sound_sqlite
def test_commits_go_on_and_those_of_other_servers_wait(database: Database, held: _Held, tmp_path: Path) -> None:
    other = open_database(f"sqlite:///{tmp_path}/store.db", committer_threads=1, reader_threads=1)
    with ThreadPoolExecutor() as threads:
        assert commit(database, _large()) == [Outcome(1)]
        assert held.begun.wait(WAIT_SECONDS)
        for _ in range(3):  # each on a connection that was opened anew or not
            assert commit(database, _small()) == [Outcome(1)]
        database.tidy()
        assert database.checkpoint_counts["made"] == 0
        waiting = threads.submit(commit, other, _small())
        with pytest.raises(StillWaiting):
            waiting.result(A_MOMENT_SECONDS)

        held.go_on.set()
        assert waiting.result(WAIT_SECONDS) == [Outcome(1)]
    other.dispose()

    _ended(database)
    assert not _is_short(database)  # it is brought, and begun anew by the next commit
    assert commit(database, _small()) == [Outcome(1)]
    assert _is_short(database)
    assert not database.untidy
    assert database.checkpoint_counts["made"] == 1
    assert held.count == 1
    assert len(rows(database, tables.runtimes)) == 6


@needs_sound_sqlite
def test_a_packed_document_that_makes_a_checkpoint_due_by_itself_has_it_made_beside_too(
    database: Database, held: _Held
) -> None:
    body = bytes(checkpoints.CHECKPOINT_BYTES + 1)
    assert commit(database, Write(runtime(), inputs=(document()._replace(state_json=body),))) == [Outcome(1)]

    assert held.begun.wait(WAIT_SECONDS)
    assert database.checkpoint_counts["made"] == 0


@needs_sound_sqlite
def test_a_commit_that_began_within_it_keeps_other_servers_checkpoints_out_to_its_end(
    database: Database, held: _Held, tmp_path: Path
) -> None:
    other = open_database(f"sqlite:///{tmp_path}/store.db", committer_threads=1, reader_threads=1)
    assert isinstance(other, SqliteDatabase)
    commit(database, _large())

    with database.writers.begin() as tx:
        tx.execute(tables.runtimes.delete())
        held.go_on.set()
        _ended(database)
        assert not other._lock.alone()
    assert other._lock.alone()
    other._lock.release()
    other.dispose()


@needs_sound_sqlite
@pytest.mark.parametrize("fails", ["checkpoint", "sync"])
def test_after_one_that_failed_the_next_begins_with_the_whole_log(
    sqlite_database: Database, monkeypatch: pytest.MonkeyPatch, fails: str
) -> None:
    def failing(*_: object) -> None:
        raise OSError(5, "Input/output error")

    anew: list[object] = []
    forget = checkpoints.forget_progress

    def told(driver: sqlite3.Connection) -> None:
        anew.append(driver)
        forget(driver)

    monkeypatch.setattr(checkpoints, "forget_progress", told)
    with monkeypatch.context() as patched:
        if fails == "sync":
            patched.setattr(os, "fdatasync", failing)
        else:
            patched.setattr(SqliteDatabase, "_bring_log", failing)
            sqlite_database = _opened_anew(sqlite_database)
        commit(sqlite_database, _large())
        _ended(sqlite_database)
    assert sqlite_database.checkpoint_counts["failed"] == 1
    assert anew == []

    commit(sqlite_database, _small())

    assert len(anew) == 1
    assert sqlite_database.checkpoint_counts["made"] == 1
    assert _is_short(sqlite_database)
    assert len(rows(sqlite_database, tables.inputs)) == 1


def test_with_an_sqlite_that_may_lose_commits_no_checkpoint_is_made_beside_them(
    sqlite_database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "has_reset_defect", lambda: True)
    database = _opened_anew(sqlite_database)

    commit(database, _large())

    assert "checkpoint" not in {thread.name for thread in threading.enumerate()}
    assert database.untidy
    commit(database, _small())
    assert database.checkpoint_counts["made"] == 1
    assert _is_short(database)
    database.dispose()


def _is_short(database: Database) -> bool:
    return (database.log_bytes or 0) <= checkpoints.LARGE_LOG_BYTES


def _opened_anew(database: Database) -> Database:
    assert isinstance(database, SqliteDatabase)
    database.dispose()
    return open_database(f"sqlite:///{database.file}", committer_threads=1, reader_threads=1)


@needs_sound_sqlite
def test_whoever_closes_the_store_waits_for_it(
    database: Database, held: _Held, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit(database, _large())
    assert held.begun.wait(WAIT_SECONDS)
    dispose = database.writers.dispose

    def disposed() -> None:
        held.done.append("closing")
        dispose()

    monkeypatch.setattr(database.writers, "dispose", disposed)
    with ThreadPoolExecutor() as threads:
        closing = threads.submit(database.dispose)
        with pytest.raises(StillWaiting):
            closing.result(A_MOMENT_SECONDS)

        held.go_on.set()
        closing.result(WAIT_SECONDS)
    assert held.done == ["brought", "closing"]
