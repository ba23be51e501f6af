"""Two servers on one database: what two transactions do to each other where several write at a time."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest
import sqlalchemy as sa
from sqlalchemy import event

from runtimestore.errors import BoundaryReceiptExists, RequestIdReused
from runtimestore_server.store import tables
from runtimestore_server.store.commit import commit as commit_in
from runtimestore_server.store.values import Deferred, Outcome, RuntimeKey
from runtimestore_server.store.writes import Acquisition, Write
from support.generators.store_writes import boundary, commit, document, new_id, oauth, rows, runtime, snapshot

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from concurrent.futures import Future

    from runtimestore_server.store.engines import Database
    from runtimestore_server.store.requests import Decision
    from runtimestore_server.store.writes import AnyWrite

WAIT_SECONDS = 20


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as found:
        yield found


def _race(
    database: Database, pool: ThreadPoolExecutor, first: AnyWrite, second: AnyWrite, *, first_commits: bool = True
) -> tuple[Decision, Decision]:
    """`second` is committed by a thread of its own and meets the open transaction of `first`, which then ends."""
    with database.writers.connect() as connection:
        transaction = connection.begin()
        (decision,) = commit_in(database, connection, [first], now_ms=lambda: 1)
        assert not isinstance(decision, Deferred)
        other: Future[list[Decision]] = pool.submit(commit, database, second)
        _wait_until_one_waits(database)
        assert not other.done()
        if first_commits:
            transaction.commit()
        else:
            transaction.rollback()
    return decision, other.result(WAIT_SECONDS)[0]


def _wait_until_one_waits(database: Database) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    statement = sa.text("SELECT count(*) FROM pg_locks WHERE NOT granted")
    while time.monotonic() < deadline:
        with database.readers.connect() as connection:
            if connection.execute(statement).scalar_one():
                return
        time.sleep(0.01)
    raise AssertionError("the two transactions did not meet")


def test_of_two_requests_with_one_id_for_two_runtimes_one_lands_and_one_is_refused(
    postgres_database: Database, pool: ThreadPoolExecutor
) -> None:
    request_id, first, second = new_id(), runtime(), runtime()

    landed, refused = _race(
        postgres_database,
        pool,
        Write(first, request_id, runtime_state="idle"),
        Write(second, request_id, runtime_state="idle", inputs=(document(),)),
    )

    assert landed == Outcome(1)
    assert isinstance(refused, RequestIdReused)
    assert [row["runtime_id"] for row in rows(postgres_database, tables.runtimes)] == [first.runtime_id]
    assert rows(postgres_database, tables.inputs) == []


def test_a_request_whose_rival_rolled_back_lands(postgres_database: Database, pool: ThreadPoolExecutor) -> None:
    request_id, second = new_id(), runtime()

    _, landed = _race(
        postgres_database,
        pool,
        Write(runtime(), request_id, runtime_state="idle"),
        Write(second, request_id, runtime_state="idle"),
        first_commits=False,
    )

    assert landed == Outcome(1)
    assert [row["runtime_id"] for row in rows(postgres_database, tables.runtimes)] == [second.runtime_id]


@pytest.mark.parametrize("known", [False, True], ids=["a new runtime", "a known runtime"])
def test_a_request_that_reaches_two_servers_at_once_lands_once(
    postgres_database: Database, pool: ThreadPoolExecutor, known: bool
) -> None:
    write = Write(runtime(), new_id(), receipt=boundary())
    if known:
        commit(postgres_database, Write(write.runtime, runtime_state="idle"))

    first, second = _race(postgres_database, pool, write, write)

    assert isinstance(first, Outcome)
    assert second == Outcome(first.revision, replayed=True)
    assert [row["revision"] for row in rows(postgres_database, tables.runtimes)] == [1 + known]


@pytest.mark.parametrize("known", [False, True], ids=["a new runtime", "a known runtime"])
def test_of_two_receipts_for_one_boundary_one_lands_and_one_is_refused(
    postgres_database: Database, pool: ThreadPoolExecutor, known: bool
) -> None:
    key, run_id = runtime(), new_id()
    if known:
        commit(postgres_database, Write(key, runtime_state="idle"))

    landed, refused = _race(
        postgres_database,
        pool,
        Write(key, receipt=boundary(run_id)),
        Write(key, receipt=boundary(run_id, text="other")),
    )

    assert landed == Outcome(1 + known)
    assert isinstance(refused, BoundaryReceiptExists)
    assert [row["receipt"] for row in rows(postgres_database, tables.receipts)] == [boundary(run_id).receipt]


def test_the_writes_of_two_servers_to_a_new_runtime_both_count(
    postgres_database: Database, pool: ThreadPoolExecutor
) -> None:
    key = runtime()

    assert _race(postgres_database, pool, Write(key, runtime_state="idle"), Write(key, runtime_state="running")) == (
        Outcome(1),
        Outcome(2),
    )


def test_a_write_lands_in_a_runtime_whose_first_write_was_just_refused(
    postgres_database: Database, pool: ThreadPoolExecutor
) -> None:
    key = runtime()

    _, landed = _race(postgres_database, pool, Write(key, if_revision=9), Write(key, runtime_state="idle"))

    assert landed == Outcome(1)
    assert [row["revision"] for row in rows(postgres_database, tables.runtimes)] == [1]


def test_the_first_oauth_snapshots_of_two_servers_both_count(
    postgres_database: Database, pool: ThreadPoolExecutor
) -> None:
    assert _race(postgres_database, pool, oauth(b"one"), oauth(b"two")) == (Outcome(1), Outcome(2))
    assert [row["snapshot_json"] for row in rows(postgres_database, tables.oauth_flow_snapshots)] == [b"two"]


@pytest.mark.parametrize("known", [False, True], ids=["never acquired", "acquired before"])
def test_two_servers_that_acquire_a_runtime_at_once_get_a_fence_each(
    postgres_database: Database, pool: ThreadPoolExecutor, known: bool
) -> None:
    key = runtime()
    if known:
        commit(postgres_database, Acquisition(key, "before"))

    assert _race(postgres_database, pool, Acquisition(key, "here"), Acquisition(key, "there")) == (
        Outcome(1 + known, previous_owner="before" if known else None),
        Outcome(2 + known, previous_owner="here"),
    )
    assert [(row["fence"], row["owner"]) for row in rows(postgres_database, tables.fences)] == [(2 + known, "there")]


def test_an_acquisition_whose_rival_rolled_back_gets_the_first_fence(
    postgres_database: Database, pool: ThreadPoolExecutor
) -> None:
    key = runtime()

    _, acquired = _race(
        postgres_database, pool, Acquisition(key, "here"), Acquisition(key, "there"), first_commits=False
    )

    assert acquired == Outcome(1)


def _commit_rounds(
    database: Database, keys: Sequence[RuntimeKey], rounds: int, barrier: threading.Barrier
) -> list[Decision]:
    session_ids = [key.runtime_id[-36:] for key in keys]
    decided = []
    for _ in range(rounds):
        batch: list[AnyWrite] = [
            Write(key, new_id(), snapshot=snapshot(session_id=session_id), receipt=boundary(), inputs=(document(),))
            for key, session_id in zip(keys, reversed(session_ids), strict=True)
        ]
        barrier.wait(WAIT_SECONDS)
        decided += commit(database, *batch, oauth(b"x", realm=keys[0].realm))
    return decided


@pytest.mark.parametrize("known", [True, False], ids=["known runtimes", "new runtimes"])
def test_two_threads_over_the_same_runtimes_never_end_in_an_error(
    postgres_database: Database, pool: ThreadPoolExecutor, known: bool
) -> None:
    keys, rounds = [runtime() for _ in range(12)], 8
    if known:
        commit(postgres_database, *(Write(key, runtime_state="idle") for key in keys), oauth(b"first"))
    errors: list[str] = []
    event.listen(
        postgres_database.writers, "handle_error", lambda context: errors.append(repr(context.original_exception))
    )
    barrier = threading.Barrier(2)

    there = pool.submit(_commit_rounds, postgres_database, keys, rounds, barrier)
    back = pool.submit(_commit_rounds, postgres_database, keys[::-1], rounds, barrier)
    decided = there.result(60) + back.result(60)

    assert [decision for decision in decided if not isinstance(decision, Outcome)] == []
    assert [row["revision"] for row in rows(postgres_database, tables.runtimes)] == [2 * rounds + known] * len(keys)
    assert [row["version"] for row in rows(postgres_database, tables.oauth_flow_snapshots)] == [2 * rounds + known]
    if known:
        # Rows are locked in key order. Only rows that are just coming into being may make two wait in a circle.
        assert errors == []


@pytest.mark.parametrize("other", ["acquires and writes", "only writes", "writes without a fence"])
def test_batches_that_acquire_and_write_with_fences_never_wait_for_each_other_in_a_circle(
    postgres_database: Database, pool: ThreadPoolExecutor, other: str
) -> None:
    keys = [runtime() for _ in range(4)]
    commit(postgres_database, *(Acquisition(key, "before") for key in keys))
    rounds, errors = 40, []
    event.listen(postgres_database.writers, "handle_error", lambda context: errors.append(context.sqlalchemy_exception))
    together = threading.Barrier(2, timeout=WAIT_SECONDS)

    def committed(acquired: Sequence[RuntimeKey], written: Sequence[RuntimeKey], fence: int | None) -> None:
        for _ in range(rounds):
            together.wait()
            commit(
                postgres_database,
                *(Acquisition(key, "now") for key in acquired),
                *(Write(key, fence=fence, runtime_state="idle") for key in written),
            )

    others: dict[str, tuple[Sequence[RuntimeKey], Sequence[RuntimeKey], int | None]] = {
        "acquires and writes": (keys[2:], keys[:2], 1),
        "only writes": ((), keys, 1),
        "writes without a fence": (keys[:2], keys[2:], None),
    }
    both = [pool.submit(committed, keys[:2], keys[2:], 1), pool.submit(committed, *others[other])]
    for one in both:
        one.result(WAIT_SECONDS * rounds)
    assert errors == []
