"""A COMMIT that is not answered: the truth is told, and where it cannot be had, that is told."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn

import psycopg
import pytest
import sqlalchemy as sa
from sqlalchemy import event

from runtimestore.errors import CommitOutcomeUnknown, RequestIdReused
from runtimestore_server.store import commit_outcome, tables, transaction
from runtimestore_server.store.commit_gate import CommitStop
from runtimestore_server.store.engines import CommitState
from runtimestore_server.store.engines.answers import Began
from runtimestore_server.store.engines.direct import Answer
from runtimestore_server.store.engines.sqlite_driver import sqlite3
from runtimestore_server.store.transaction import commit_batch
from runtimestore_server.store.values import DEFERRED, Outcome
from runtimestore_server.store.writes import Write
from support.faults.unanswered_commits import at_next_commit, terminated
from support.generators.store_writes import boundary, commit, new_id, oauth, rows, runtime, snapshot

if TYPE_CHECKING:
    from collections.abc import Callable

    from runtimestore_server.store.engines import Database
    from runtimestore_server.store.writes import AnyWrite


with_and_without_ids = pytest.mark.parametrize("identified", [True, False], ids=["with ids", "without ids"])
truth = pytest.mark.parametrize("committed", [True, False], ids=["committed", "not committed"])


def _batch(*, identified: bool) -> list[AnyWrite]:
    return [
        Write(runtime(), new_id() if identified else None, snapshot=snapshot(), receipt=boundary()),
        Write(runtime(), new_id() if identified else None, runtime_state="idle"),
        oauth(b"flow", request_id=new_id() if identified else None),
    ]


def _revisions(database: Database) -> list[int]:
    return [row["revision"] for row in rows(database, tables.runtimes)]


@truth
@with_and_without_ids
def test_a_backend_that_dies_at_commit_never_makes_the_answer_a_lie(
    postgres_database: Database, monkeypatch: pytest.MonkeyPatch, identified: bool, committed: bool
) -> None:
    called = at_next_commit(postgres_database, monkeypatch, terminated(postgres_database, committed=committed))

    decisions = commit(postgres_database, *_batch(identified=identified))

    assert called
    assert decisions == [Outcome(1)] * 3
    assert _revisions(postgres_database) == [1, 1]
    assert [row["version"] for row in rows(postgres_database, tables.oauth_flow_snapshots)] == [1]


@truth
@with_and_without_ids
def test_the_refusals_of_a_batch_whose_commit_was_not_answered_stand(
    postgres_database: Database, monkeypatch: pytest.MonkeyPatch, identified: bool, committed: bool
) -> None:
    used = Write(runtime(), new_id(), runtime_state="idle")
    commit(postgres_database, used)
    called = at_next_commit(postgres_database, monkeypatch, terminated(postgres_database, committed=committed))

    replayed, reused, *landed = commit(
        postgres_database, used, Write(runtime(), used.request_id, receipt=boundary()), *_batch(identified=identified)
    )

    assert called
    assert replayed == Outcome(1, replayed=True)
    assert isinstance(reused, RequestIdReused)
    assert landed == [Outcome(1)] * 3


def test_a_replay_is_told_when_a_commit_was_answered(
    postgres_database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What it repeats may be committed here and not have reached a standby: the answer of COMMIT tells that it has.
    write = Write(runtime(), new_id(), runtime_state="idle")
    commit(postgres_database, write)
    commits: list[int] = []
    event.listen(postgres_database.writers, "commit", lambda _connection: commits.append(1))
    called = at_next_commit(postgres_database, monkeypatch, terminated(postgres_database, committed=True))

    assert commit(postgres_database, write) == [Outcome(1, replayed=True)]
    assert (len(called), len(commits)) == (1, 2)


@truth
def test_an_engine_that_stays_away_after_commit_leaves_the_outcome_unknown_and_the_id_settles_it(
    postgres_database: Database, monkeypatch: pytest.MonkeyPatch, committed: bool
) -> None:
    monkeypatch.setattr(commit_outcome, "UNKNOWN_LIMIT_SECONDS", 0.3)
    away: list[bool] = []
    terminate = terminated(postgres_database, committed=committed)

    def fault(connection: Any, real: Callable[[Any], None]) -> None:
        away.append(True)
        terminate(connection, real)

    def refuse(_dialect: Any, _record: Any, _arguments: Any, parameters: dict[str, Any]) -> None:
        if away:
            parameters["host"] = "/nowhere"

    event.listen(postgres_database.writers, "do_connect", refuse)
    at_next_commit(postgres_database, monkeypatch, fault)
    batch = _batch(identified=True)

    decisions = commit(postgres_database, *batch)
    assert [type(decision) for decision in decisions] == [CommitOutcomeUnknown] * 3

    away.clear()
    assert commit(postgres_database, *batch) == [Outcome(1, replayed=committed)] * 3
    assert _revisions(postgres_database) == [1, 1]


def test_a_deferred_write_stays_deferred_though_what_became_of_its_neighbours_is_unknown(
    postgres_database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transaction, "find_out", lambda *_: CommitState.UNKNOWN)
    held = Write(runtime(), runtime_state="idle")
    commit(postgres_database, held)
    with postgres_database.writers.begin() as other:
        other.execute(sa.select(tables.runtimes).with_for_update())
        at_next_commit(postgres_database, monkeypatch, terminated(postgres_database, committed=True))
        gate = CommitStop().gate()
        decisions, _ = commit_batch(postgres_database, [held, *_batch(identified=True)], gate, lock_wait_seconds=0.01)

    assert decisions[0] is DEFERRED
    assert [type(decision) for decision in decisions[1:]] == [CommitOutcomeUnknown] * 3


def _forgetful(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have transactions told by an id from before a restart."""
    real = database.began
    forgotten = "3/12345.6789/12346.7"
    monkeypatch.setattr(type(database), "began", lambda _self, tx: Answer.found(Began(forgotten, real(tx)().now_ms)))


@truth
@with_and_without_ids
def test_a_postgres_that_was_restarted_meanwhile_is_asked_for_the_record(
    postgres_database: Database, monkeypatch: pytest.MonkeyPatch, identified: bool, committed: bool
) -> None:
    # After a restart the server's start time differs, and transaction ids say nothing any more.
    _forgetful(postgres_database, monkeypatch)
    at_next_commit(postgres_database, monkeypatch, terminated(postgres_database, committed=committed))

    decisions = commit(postgres_database, *_batch(identified=identified))

    if identified:
        assert decisions == [Outcome(1)] * 3
        assert _revisions(postgres_database) == [1, 1]
    else:
        assert [type(decision) for decision in decisions] == [CommitOutcomeUnknown] * 3
        assert _revisions(postgres_database) == ([1, 1] if committed else [])


def test_a_repeat_that_another_server_committed_meanwhile_is_not_taken_for_the_batch_that_was_lost(
    postgres_database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The record decides, and there is one of this request: of another transaction, which had the rest of the batch not.
    _forgetful(postgres_database, monkeypatch)
    repeated, alone = (Write(runtime(), new_id(), runtime_state=state) for state in ("idle", "running"))
    terminate = terminated(postgres_database, committed=False)

    def fault(connection: Any, real: Callable[[Any], None]) -> None:
        try:
            terminate(connection, real)
        finally:
            assert commit(postgres_database, repeated) == [Outcome(1)]

    called = at_next_commit(postgres_database, monkeypatch, fault)

    assert commit(postgres_database, repeated, alone) == [Outcome(1, replayed=True), Outcome(1)]
    assert called
    stored = {row["runtime_id"]: row["runtime_state"] for row in rows(postgres_database, tables.runtimes)}
    assert stored == {repeated.runtime.runtime_id: "idle", alone.runtime.runtime_id: "running"}


@with_and_without_ids
def test_a_commit_that_the_engine_is_still_working_on_is_waited_for(
    postgres_database: Database, monkeypatch: pytest.MonkeyPatch, identified: bool
) -> None:
    asked: list[int] = []
    held: list[Any] = []

    def fault(connection: Any, _real: Callable[[Any], None]) -> NoReturn:
        held.append(connection.driver_connection)
        connection.detach()  # the pool makes another one; on the server, this one's transaction stays open
        monkeypatch.setattr(held[0], "rollback", lambda: None)
        monkeypatch.setattr(held[0], "close", lambda: None)
        raise psycopg.errors.ConnectionFailure("the answer never came")

    def before(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if "pg_xact_status" in statement:
            asked.append(1)
            if len(asked) == 2:
                held[0].commit()

    event.listen(postgres_database.writers, "before_cursor_execute", before)
    at_next_commit(postgres_database, monkeypatch, fault)

    decisions = commit(postgres_database, *_batch(identified=identified))

    monkeypatch.undo()
    held[0].close()
    assert decisions == [Outcome(1)] * 3
    assert len(asked) >= 2
    assert _revisions(postgres_database) == [1, 1]


def _io_error() -> sqlite3.OperationalError:
    error = sqlite3.OperationalError("disk I/O error")
    error.sqlite_errorcode = sqlite3.SQLITE_IOERR_FSYNC
    error.sqlite_errorname = "SQLITE_IOERR_FSYNC"
    return error


@truth
@with_and_without_ids
def test_a_commit_whose_sync_failed_is_never_told_as_failed(
    sqlite_database: Database, monkeypatch: pytest.MonkeyPatch, identified: bool, committed: bool
) -> None:
    def fault(connection: Any, real: Callable[[Any], None]) -> NoReturn:
        if committed:
            real(connection)
        raise _io_error()

    at_next_commit(sqlite_database, monkeypatch, fault)
    batch = _batch(identified=identified)

    decisions = commit(sqlite_database, *batch)

    known = identified and committed
    if known:
        assert decisions == [Outcome(1)] * 3
    else:
        assert [type(decision) for decision in decisions] == [CommitOutcomeUnknown] * 3
    assert _revisions(sqlite_database) == ([1, 1] if committed else [])
    if identified:
        assert commit(sqlite_database, *batch) == [Outcome(1, replayed=committed)] * 3


@pytest.mark.parametrize("fault", [False, True], ids=["in the transaction", "at commit"])
def test_a_busy_database_is_tried_again_in_silence(
    sqlite_database: Database, monkeypatch: pytest.MonkeyPatch, fault: bool
) -> None:
    error = sqlite3.OperationalError("database is locked")
    error.sqlite_errorcode = sqlite3.SQLITE_BUSY
    raised: list[int] = []

    def busy(*_: Any) -> None:
        if len(raised) < 3:
            raised.append(1)
            raise error

    if fault:
        real = sqlite_database.writers.dialect.do_commit

        def do_commit(connection: Any) -> None:
            busy()
            real(connection)

        # SQLite leaves a transaction open whose COMMIT was BUSY; the next one must not find itself within it.
        monkeypatch.setattr(sqlite_database.writers.dialect, "do_commit", do_commit)
    else:
        event.listen(sqlite_database.writers, "begin", busy)

    assert commit(sqlite_database, *_batch(identified=False)) == [Outcome(1)] * 3
    assert len(raised) == 3
