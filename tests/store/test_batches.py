"""A batch behaves as if its writes had come one after the other."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from runtimestore.errors import BoundaryReceiptExists, OAuthFlowSnapshotChanged, RequestIdReused, RevisionMismatch
from runtimestore_server.store import tables
from runtimestore_server.store.values import Outcome
from runtimestore_server.store.writes import Write
from support.generators.store_writes import (
    boundary,
    commit,
    document,
    everything,
    new_id,
    oauth,
    ops,
    rows,
    runtime,
    snapshot,
    statements,
)

if TYPE_CHECKING:
    from runtimestore_server.store.engines import Database


def test_the_second_write_of_a_batch_sees_the_revision_that_the_first_one_left(database: Database) -> None:
    key = runtime()

    first, second, late = commit(
        database,
        Write(key, if_revision=0, runtime_state="idle"),
        Write(key, if_revision=1, runtime_state="running"),
        Write(key, if_revision=1, runtime_state="stopped"),
    )

    assert [first, second] == [Outcome(1), Outcome(2)]
    assert isinstance(late, RevisionMismatch)
    assert late.metadata["current_revision"] == "2"
    assert [(row["revision"], row["runtime_state"]) for row in rows(database, tables.runtimes)] == [(2, "running")]


def test_the_second_receipt_for_a_boundary_is_refused_within_a_batch_and_leaves_nothing(database: Database) -> None:
    key, run_id, kept = runtime(), new_id(), document()

    first, second, third = commit(
        database,
        Write(key, receipt=boundary(run_id), inputs=(kept,)),
        Write(key, receipt=boundary(run_id, text="another"), inputs=(document(),), snapshot=snapshot()),
        Write(key, receipt=boundary(run_id, 1)),
    )

    assert [first, third] == [Outcome(1), Outcome(2)]
    assert isinstance(second, BoundaryReceiptExists)
    assert [row["input_id"] for row in rows(database, tables.inputs)] == [kept.input_id]
    assert rows(database, tables.session_versions) == rows(database, tables.sessions) == []
    assert [(row["sequence"], row["receipt"]) for row in rows(database, tables.receipts)] == [
        (0, boundary(run_id).receipt),
        (1, boundary(run_id, 1).receipt),
    ]


def test_a_boundary_belongs_to_its_runtime_within_a_batch_too(database: Database) -> None:
    run_id = new_id()

    assert commit(database, *(Write(runtime(), receipt=boundary(run_id)) for _ in range(2))) == [Outcome(1), Outcome(1)]


def test_a_request_id_that_comes_twice_in_a_batch_is_answered_as_the_first_time(database: Database) -> None:
    write = Write(runtime(), request_id=new_id(), receipt=boundary())

    assert commit(database, write, Write(write.runtime, runtime_state="idle"), write) == [
        Outcome(1),
        Outcome(2),
        Outcome(1, replayed=True),
    ]
    assert [row["revision"] for row in rows(database, tables.runtimes)] == [2]
    assert len(rows(database, tables.requests)) == 1


def test_a_request_id_used_for_another_write_of_the_batch_is_refused(database: Database) -> None:
    request_id, first, second = new_id(), runtime(), runtime()

    landed, refused = commit(
        database, Write(first, request_id, runtime_state="idle"), Write(second, request_id, runtime_state="idle")
    )

    assert landed == Outcome(1)
    assert isinstance(refused, RequestIdReused)
    assert [row["runtime_id"] for row in rows(database, tables.runtimes)] == [first.runtime_id]


def test_a_request_id_is_free_again_within_the_batch_if_its_first_write_was_refused(database: Database) -> None:
    key, request_id = runtime(), new_id()

    refused, landed = commit(
        database, Write(key, request_id, if_revision=7), Write(key, request_id, runtime_state="idle")
    )

    assert isinstance(refused, RevisionMismatch)
    assert landed == Outcome(1)


def test_a_request_id_means_something_in_its_realm_only(database: Database) -> None:
    request_id = new_id()
    batch = [Write(runtime(realm=realm), request_id, runtime_state=realm) for realm in ("one", "two")]

    assert commit(database, *batch) == [Outcome(1), Outcome(1)]


def test_the_last_document_of_an_input_wins_across_a_batch_and_within_a_write(database: Database) -> None:
    key, input_id = runtime(), new_id()
    versions = [document(text, input_id=input_id) for text in ("first", "second", "third", "last")]

    commit(database, Write(key, inputs=tuple(versions[:2])), Write(key, inputs=tuple(versions[2:])))

    assert [row["state_json"] for row in rows(database, tables.inputs)] == [versions[-1].state_json]


def test_an_input_that_is_changed_and_changed_back_within_a_batch_is_as_before(database: Database) -> None:
    key, before = runtime(), document("before")
    commit(database, Write(key, inputs=(before,)))

    commit(
        database,
        Write(key, inputs=(document("between", input_id=before.input_id),)),
        Write(key, inputs=(before,)),
    )

    assert [row["state_json"] for row in rows(database, tables.inputs)] == [before.state_json]


def test_the_oauth_writes_of_a_batch_see_the_version_that_the_one_before_left(database: Database) -> None:
    first, second, late = commit(
        database,
        oauth(b"first", expected_version=0),
        oauth(b"second", expected_version=1),
        oauth(b"late", expected_version=1),
    )

    assert [first, second] == [Outcome(1), Outcome(2)]
    assert isinstance(late, OAuthFlowSnapshotChanged)
    assert [(row["version"], row["snapshot_json"]) for row in rows(database, tables.oauth_flow_snapshots)] == [
        (2, b"second")
    ]


def test_one_request_id_for_a_runtime_and_for_the_oauth_snapshot_lands_once(database: Database) -> None:
    request_id = new_id()

    decisions = commit(
        database, oauth(b"secret", request_id=request_id), Write(runtime(), request_id, runtime_state="idle")
    )

    assert sum(isinstance(decision, Outcome) for decision in decisions) == 1
    assert sum(isinstance(decision, RequestIdReused) for decision in decisions) == 1
    assert len(rows(database, tables.requests)) == 1


def test_a_write_that_is_refused_leaves_nothing_not_even_a_row_of_its_runtime(database: Database) -> None:
    whole = Write(
        runtime(),
        request_id=new_id(),
        if_revision=3,
        snapshot=snapshot(),
        receipt=boundary(),
        inputs=(document(),),
        runtime_state="running",
        ops=ops(),
    )

    (decision,) = commit(database, whole)

    assert isinstance(decision, RevisionMismatch)
    assert everything(database) == {}


def test_a_write_that_is_refused_takes_nothing_of_its_neighbours_along(database: Database) -> None:
    bad, good = runtime(), runtime()

    refused, landed = commit(
        database, Write(bad, if_revision=1, inputs=(document(),)), Write(good, inputs=(document("kept"),))
    )

    assert isinstance(refused, RevisionMismatch)
    assert landed == Outcome(1)
    assert [row["runtime_id"] for row in rows(database, tables.runtimes)] == [good.runtime_id]
    assert [row["runtime_id"] for row in rows(database, tables.inputs)] == [good.runtime_id]


def test_a_write_of_nothing_but_a_state_leaves_the_rest_of_the_runtime_as_it_was(database: Database) -> None:
    key = runtime()
    commit(database, Write(key, snapshot=snapshot(), inputs=(document(),), receipt=boundary(), ops=ops()))
    before = everything(database)

    assert commit(database, Write(key, runtime_state="retired")) == [Outcome(2)]

    after = everything(database)
    assert after.pop("runtimes") == [{**before.pop("runtimes")[0], "revision": 2, "runtime_state": "retired"}]
    assert after == before


def test_a_write_without_a_state_keeps_the_state(database: Database) -> None:
    key = runtime()
    commit(database, Write(key, runtime_state="running"))

    commit(database, Write(key, inputs=(document(),)))

    assert [row["runtime_state"] for row in rows(database, tables.runtimes)] == ["running"]


RUNTIMES, REQUESTS, RUNS, INPUTS = ("a", "A", "ä"), [new_id() for _ in range(3)], [new_id()], [new_id(), new_id()]


@pytest.mark.parametrize("count", [1, 200])
def test_a_batch_costs_a_statement_a_table_however_many_writes_it_holds(sqlite_database: Database, count: int) -> None:
    batch = [
        Write(runtime(), new_id(), snapshot=snapshot(), receipt=boundary(), inputs=(document(),), ops=ops())
        for _ in range(count)
    ]

    with statements(sqlite_database.writers) as seen:
        assert commit(sqlite_database, *batch) == [Outcome(1)] * count

    assert len(seen) == 12  # BEGIN, four questions, one statement for each of seven tables
