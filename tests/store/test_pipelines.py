"""The pipeline in which Postgres gets a commit's statements and COMMIT itself: what goes wrong in it is told truly."""

from __future__ import annotations

import itertools
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa
from psycopg.errors import CheckViolation
from psycopg.pq import TransactionStatus

from runtimestore.errors import InternalError, RequestIdReused
from runtimestore_server.store import tables, transaction
from runtimestore_server.store.commit import commit as commit_in
from runtimestore_server.store.commit_gate import CommitStop
from runtimestore_server.store.commit_outcome import find_out
from runtimestore_server.store.engines import CommitState, open_database
from runtimestore_server.store.timeouts import BRIEF_LOCK_SECONDS
from runtimestore_server.store.transaction import commit_batch
from runtimestore_server.store.values import DEFERRED, Outcome
from runtimestore_server.store.writes import Write
from support.faults.unanswered_commits import at_next_commit
from support.generators.store_writes import boundary, commit, document, new_id, ops, rows, runtime, snapshot
from support.servers.listening import listening

if TYPE_CHECKING:
    from pathlib import Path

    from runtimestore_server.store.engines import Database

WAIT_SECONDS = 20
OFTEN = 8
"""Runs after which a statement is prepared where statements are."""

_PREPARED = sa.text("SELECT count(*) FROM pg_prepared_statements WHERE name LIKE 'runtimestore%'")
_OPEN = sa.text(
    "SELECT count(*) FROM pg_stat_activity"
    " WHERE datname = current_database() AND state LIKE 'idle in transaction%' AND pid <> pg_backend_pid()"
)
_WARN_AT_COMMIT = (
    "CREATE FUNCTION warned() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RAISE WARNING ''late''; RETURN NULL; END'",
    (
        "CREATE CONSTRAINT TRIGGER late AFTER INSERT OR UPDATE ON runtimes DEFERRABLE INITIALLY DEFERRED"
        " FOR EACH ROW EXECUTE FUNCTION warned()"
    ),
)
_WAITING = sa.text("SELECT pid FROM pg_locks WHERE NOT granted")


def _prepared(database: Database) -> int:
    with database.writers.connect() as connection:
        found: int = connection.execute(_PREPARED).scalar_one()
        return found


def _whole() -> Write:
    return Write(runtime(), new_id(), snapshot=snapshot(), receipt=boundary(), inputs=(document(),), ops=ops())


def test_a_commit_is_two_round_trips_and_commit_comes_with_the_second(
    postgres_database: Database, tmp_path: Path
) -> None:
    known = runtime()

    def batch() -> list[Write]:
        return [Write(known, new_id(), snapshot=snapshot(), receipt=boundary(), inputs=(document(),), ops=ops())]

    commit(postgres_database, *batch())
    with postgres_database.writers.connect() as connection, (tmp_path / "trace").open("w+b") as trace:
        connection.rollback()
        driver: Any = connection.connection.driver_connection
        driver.pgconn.trace(trace.fileno())
        with connection.begin(), postgres_database.pipelined(connection, carried_bytes=0):
            assert commit_in(postgres_database, connection, batch(), now_ms=lambda: 1) == [Outcome(2)]
        driver.pgconn.untrace()
        trace.seek(0)
        senders = [line.split(b"\t")[1] for line in trace.read().splitlines() if line.count(b"\t") > 1]

    assert [row["revision"] for row in rows(postgres_database, tables.runtimes)] == [2]
    round_trips = sum(1 for before, after in itertools.pairwise(senders) if (before, after) == (b"F", b"B"))
    assert round_trips == 2  # 16 where each statement is answered before the next one is sent


@pytest.mark.parametrize("ends", [False, True], ids=["the row is free", "the backend ends"])
def test_a_write_whose_last_statements_wait_behind_another_server_lands_once(
    postgres_database: Database, ends: bool
) -> None:
    write = _whole()
    with postgres_database.writers.connect() as other, ThreadPoolExecutor(1) as thread:
        with other.begin() as begun:  # its request is not seen when it is asked for, and met when it is inserted
            values = {"realm": write.realm, "request_id": write.request_id, "fingerprint": b"f" * 32}
            other.execute(tables.requests.insert(), values | {"revision": 1, "recorded_at_ms": 1})
            committing = thread.submit(commit, postgres_database, write)
            waiting = _one_that_waits(postgres_database)
            if ends:
                _terminate(postgres_database, waiting)
            begun.rollback()
        assert committing.result(WAIT_SECONDS) == [Outcome(1)]

    assert [row["revision"] for row in rows(postgres_database, tables.runtimes)] == [1]
    assert commit(postgres_database, write) == [Outcome(1, replayed=True)]


def test_a_write_that_another_server_was_first_with_is_told_so_and_leaves_no_transaction_open(
    postgres_database: Database,
) -> None:
    write, first = _whole(), Write(runtime(), new_id(), runtime_state="idle")
    with postgres_database.writers.connect() as other, ThreadPoolExecutor(1) as thread:
        with other.begin():
            values = {"realm": write.realm, "request_id": write.request_id, "fingerprint": first.fingerprint()}
            other.execute(tables.requests.insert(), values | {"revision": 1, "recorded_at_ms": 1})
            committing = thread.submit(commit, postgres_database, write)
            _one_that_waits(postgres_database)
        (decision,) = committing.result(WAIT_SECONDS)

    assert isinstance(decision, RequestIdReused)
    assert rows(postgres_database, tables.runtimes) == []
    with postgres_database.readers.connect() as connection:
        assert connection.execute(_OPEN).scalar_one() == 0


def test_what_became_of_a_commit_is_found_out_where_postgres_warned_of_it(
    postgres_database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    with postgres_database.writers.begin() as connection:
        for statement in _WARN_AT_COMMIT:
            connection.exec_driver_sql(statement)
    found: list[CommitState] = []

    def noted(*given: Any) -> CommitState:
        found.append(find_out(*given))
        return found[-1]

    monkeypatch.setattr(transaction, "find_out", noted)

    assert commit(postgres_database, _whole()) == [Outcome(1)]
    assert found == [CommitState.COMMITTED]


def test_what_postgres_refuses_behind_the_questions_leaves_its_neighbours_and_nothing_of_itself(
    postgres_database: Database,
) -> None:
    refused = Write(runtime(), new_id(), snapshot=snapshot(session_id="\0"), receipt=boundary(), inputs=(document(),))
    before, after = _whole(), _whole()

    decisions = commit(postgres_database, before, refused, after)

    assert [decisions[0], decisions[2]] == [Outcome(1)] * 2
    assert isinstance(decisions[1], InternalError)
    landed = {before.runtime.runtime_id, after.runtime.runtime_id}
    for table in (tables.runtimes, tables.receipts, tables.inputs, tables.sessions, tables.session_versions):
        assert {row["runtime_id"] for row in rows(postgres_database, table)} == landed
    assert len(rows(postgres_database, tables.requests)) == 2


def test_statements_that_somebody_let_go_of_are_prepared_anew(postgres_database: Database) -> None:
    for _ in range(OFTEN):
        assert commit(postgres_database, _whole()) == [Outcome(1)]
    assert _prepared(postgres_database)
    with postgres_database.writers.connect() as connection:
        connection.exec_driver_sql("DEALLOCATE ALL")

    assert commit(postgres_database, _whole()) == [Outcome(1)]


def test_statements_stay_prepared_when_a_transaction_is_rolled_back(postgres_database: Database) -> None:
    for _ in range(OFTEN):
        assert commit(postgres_database, _whole()) == [Outcome(1)]
    prepared = _prepared(postgres_database)
    refused = Write(runtime(), new_id(), snapshot=snapshot(total_tokens=2**63))

    for _ in range(OFTEN):
        assert isinstance(commit(postgres_database, refused)[0], InternalError)
        assert commit(postgres_database, _whole()) == [Outcome(1)]

    assert 0 < prepared == _prepared(postgres_database)


def test_nothing_is_prepared_where_a_pooler_is_named(postgres_database: Database) -> None:
    url = postgres_database.writers.url.update_query_dict({"prepare_threshold": "0"})
    pooled = open_database(
        url.set(drivername="postgresql").render_as_string(hide_password=False), committer_threads=1, reader_threads=1
    )
    try:
        for _ in range(OFTEN):
            assert commit(pooled, _whole()) == [Outcome(1)]
        assert _prepared(pooled) == 0
    finally:
        pooled.dispose()


def test_more_than_a_socket_takes_at_once_lands_whole(postgres_database: Database) -> None:
    written = snapshot("x" * 5_000_000)

    assert commit(postgres_database, Write(runtime(), new_id(), snapshot=written)) == [Outcome(1)]

    assert [row["body"] for row in rows(postgres_database, tables.session_versions)] == [written.body]


def test_what_postgres_refuses_behind_the_questions_costs_no_connection(postgres_database: Database) -> None:
    assert commit(postgres_database, _whole()) == [Outcome(1)]
    held, made = [_whole() for _ in range(3)], []
    with postgres_database.writers.connect() as other, other.begin() as begun:
        for write in held:
            values = {"realm": write.realm, "request_id": write.request_id, "fingerprint": b"f" * 32}
            other.execute(tables.requests.insert(), values | {"revision": 1, "recorded_at_ms": 1})
        assert commit(postgres_database, _whole()) == [Outcome(1)]  # on a connection that stays in the pool
        with listening(postgres_database.writers, connect=lambda *_: made.append(1)):
            gate = CommitStop().gate()
            decisions, _ = commit_batch(postgres_database, held, gate, lock_wait_seconds=BRIEF_LOCK_SECONDS)
            assert decisions == [DEFERRED] * 3
            refused = Write(runtime(), new_id(), snapshot=snapshot(session_id="\0"))
            assert isinstance(commit(postgres_database, refused)[0], InternalError)
            assert commit(postgres_database, _whole()) == [Outcome(1)]
        begun.rollback()

    assert made == []
    assert commit(postgres_database, *held) == [Outcome(1)] * 3
    with postgres_database.readers.connect() as connection:
        assert connection.execute(_OPEN).scalar_one() == 0


def test_a_transaction_that_is_open_after_an_error_of_its_commit_ends_with_its_connection(
    postgres_database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(connection: Any, _: Any) -> None:
        assert connection.driver_connection.info.transaction_status != TransactionStatus.IDLE
        raise CheckViolation

    called = at_next_commit(postgres_database, monkeypatch, refused)
    write = _whole()

    assert isinstance(commit(postgres_database, write)[0], InternalError)

    assert called
    with postgres_database.readers.connect() as connection:
        assert connection.execute(_OPEN).scalar_one() == 0
    assert commit(postgres_database, write) == [Outcome(1)]


def _one_that_waits(database: Database) -> int:
    deadline = time.monotonic() + WAIT_SECONDS
    while time.monotonic() < deadline:
        with database.readers.connect() as connection:
            if (found := connection.execute(_WAITING).scalars().first()) is not None:
                return int(found)
        time.sleep(0.01)
    raise AssertionError("nobody waits")


def _terminate(database: Database, pid: int) -> None:
    with database.readers.connect() as connection:
        connection.execute(sa.text("SELECT pg_terminate_backend(:pid, 5000)"), {"pid": pid})
