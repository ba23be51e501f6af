"""Request ids are kept for as long as they are promised to be, and no longer."""

from __future__ import annotations

from typing import TYPE_CHECKING

import sqlalchemy as sa

from runtimestore.errors import RequestIdReused
from runtimestore_server.store import requests, tables
from runtimestore_server.store.commit import commit as commit_in
from runtimestore_server.store.values import Outcome
from runtimestore_server.store.writes import Write
from support.generators.store_writes import commit, new_id, rows, runtime

if TYPE_CHECKING:
    from runtimestore_server.store.engines import Database


def _commit_at(database: Database, now_ms: int, *batch: Write) -> None:
    with database.writers.begin() as tx:
        commit_in(database, tx, batch, now_ms=lambda: now_ms)


def _forget(database: Database, *, before_ms: int, most: int = 1000) -> int:
    with database.writers.begin() as tx:
        return requests.forget(tx, before_ms=before_ms, most=most)


def test_a_request_is_forgotten_after_its_retention_and_not_before(database: Database) -> None:
    old, young = (Write(runtime(), new_id(), runtime_state="idle") for _ in range(2))
    _commit_at(database, 1000, old)
    _commit_at(database, 2000, young)

    assert _forget(database, before_ms=1000) == 0
    assert commit(database, old, young) == [Outcome(1, replayed=True)] * 2
    assert _forget(database, before_ms=2000) == 1
    assert commit(database, young, old) == [Outcome(1, replayed=True), Outcome(2)]


def test_a_replay_does_not_make_a_request_younger(database: Database) -> None:
    write = Write(runtime(), new_id(), runtime_state="idle")
    _commit_at(database, 1000, write)

    _commit_at(database, 9000, write)

    assert [row["recorded_at_ms"] for row in rows(database, tables.requests)] == [1000]


def test_the_oldest_requests_are_forgotten_first_a_bounded_number_at_a_time(database: Database) -> None:
    kept = [Write(runtime(), new_id(), runtime_state="idle") for _ in range(5)]
    for number, write in enumerate(kept):
        _commit_at(database, 1000 - number, write)

    assert [_forget(database, before_ms=1001, most=2) for _ in range(2)] == [2, 2]
    assert [row["request_id"] for row in rows(database, tables.requests)] == [kept[0].request_id]
    assert [_forget(database, before_ms=1001, most=2) for _ in range(2)] == [1, 0]


def test_forgetting_a_request_leaves_what_it_wrote(database: Database) -> None:
    _commit_at(database, 1000, Write(runtime(), new_id(), runtime_state="idle"))

    _forget(database, before_ms=5000)

    assert [row["runtime_state"] for row in rows(database, tables.runtimes)] == ["idle"]


def test_a_request_id_of_one_realm_is_not_forgotten_with_that_of_another(database: Database) -> None:
    request_id = new_id()
    one, two = (Write(runtime(realm=realm), request_id, runtime_state="idle") for realm in ("one", "two"))
    _commit_at(database, 1000, one)
    _commit_at(database, 2000, two)

    _forget(database, before_ms=2000)

    assert [row["realm"] for row in rows(database, tables.requests)] == ["two"]


def test_a_request_that_a_version_without_seals_recorded_is_recognised(database: Database) -> None:
    write = Write(runtime(), new_id(), runtime_state="idle")
    commit(database, write)
    with database.writers.begin() as tx:
        tx.execute(sa.update(tables.requests).values(fingerprint=write.fingerprint()))

    assert commit(database, write) == [Outcome(1, replayed=True)]
    assert isinstance(commit(database, Write(runtime(), write.request_id))[0], RequestIdReused)
