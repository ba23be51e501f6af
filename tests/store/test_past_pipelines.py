"""Rows in a pipeline of Postgres that are larger than what it was opened for, and statements past it."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest
import sqlalchemy as sa

from runtimestore_server.store import tables
from runtimestore_server.store.engines.database import LARGE_BYTES
from runtimestore_server.store.values import Outcome, SnapshotEdits
from runtimestore_server.store.versions import edits
from runtimestore_server.store.writes import Write
from support.generators.store_writes import commit, new_id, rows, runtime, snapshot

if TYPE_CHECKING:
    from collections.abc import Callable

    from runtimestore_server.store.engines import Database

WAIT_SECONDS = 20
_END_WRITERS = sa.text(
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
    " WHERE datname = current_database() AND query LIKE 'INSERT%' AND pid <> pg_backend_pid()"
)


def test_edits_that_are_larger_than_all_they_come_to_land(postgres_database: Database) -> None:
    known, first = runtime(), snapshot("before")
    assert commit(postgres_database, Write(known, new_id(), snapshot=first)) == [Outcome(1)]
    nothing = edits.encode([edits.Edit(0, 0, b"")])[len(edits.FORMAT) :]
    encoded = edits.FORMAT + nothing * (LARGE_BYTES // len(nothing) + 1)
    second = snapshot("after", session_id=first.session_id)
    second = second._replace(edits=SnapshotEdits(first.sha256, encoded, required=True))

    with ThreadPoolExecutor(1) as thread:
        committing = thread.submit(commit, postgres_database, Write(known, new_id(), snapshot=second))
        try:
            assert committing.result(WAIT_SECONDS) == [Outcome(2, as_edits=True)]
        finally:
            if not committing.done():  # it would wait for ever, on the second connection too
                _terminate_until(postgres_database, committing.done)

    assert [row["body"] for row in rows(postgres_database, tables.session_versions)] == [first.body, encoded]


def test_a_row_larger_than_what_was_announced_goes_through_the_pipeline_that_is_open(
    postgres_database: Database,
) -> None:
    known, large = runtime(), bytes(LARGE_BYTES)
    with postgres_database.writers.begin() as tx, postgres_database.pipelined(tx, 0):
        postgres_database.upsert(tx, tables.ops_snapshots, [(*known, "epoch", b"s" * 32, large)])
    assert [row["snapshot_json"] for row in rows(postgres_database, tables.ops_snapshots)] == [large]


def test_a_statement_past_the_pipeline_that_is_open_is_an_error_and_waits_for_no_answer(
    postgres_database: Database,
) -> None:
    one = sa.text("SELECT 1")
    with postgres_database.writers.connect() as tx:
        begun = tx.begin()
        with pytest.raises(sa.exc.StatementError, match="past the pipeline"), postgres_database.pipelined(tx, 0):
            tx.execute(one)
        begun.rollback()
        assert tx.execute(one).scalar_one() == 1
    assert commit(postgres_database, Write(runtime(), new_id(), snapshot=snapshot())) == [Outcome(1)]


def test_edits_that_are_larger_than_all_they_come_to_count_for_what_a_write_holds_in_memory() -> None:
    body = snapshot("document")
    large = b"e" * (len(body.body) + 1000)
    sizes = []
    for encoded in (b"e", large):
        edited = body._replace(edits=SnapshotEdits(body.sha256, encoded, required=True))
        write = Write(runtime(), new_id(), snapshot=edited)
        sizes.append((write.size_bytes, write.stored_bytes))
    assert sizes == [(len(body.body), 1), (len(large), len(large))]


def _terminate_until(database: Database, ended: Callable[[], bool]) -> None:
    while not ended():
        with database.readers.connect() as connection:
            connection.execute(_END_WRITERS)
        time.sleep(0.1)
