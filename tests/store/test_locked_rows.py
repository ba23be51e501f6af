"""A row that another session of the engine holds delays whoever needs it, and nobody else."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa

from runtimestore.errors import RevisionMismatch, StoreUnavailable
from runtimestore_server.store import commit_thread, tables
from runtimestore_server.store.commit_gate import CommitStop
from runtimestore_server.store.committer import Committer
from runtimestore_server.store.transaction import commit_batch
from runtimestore_server.store.values import DEFERRED, Outcome
from runtimestore_server.store.writes import Acquisition, Write
from support.checkers.clean_up import until
from support.generators.store_writes import REALM, commit, new_id, oauth, rows, runtime, snapshot, statements

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from runtimestore_server.store.engines import Database
    from runtimestore_server.store.values import RuntimeKey
    from runtimestore_server.store.writes import AnyWrite

WAIT_SECONDS = 20


@contextlib.asynccontextmanager
async def _committer(database: Database) -> AsyncIterator[Committer]:
    committer = Committer(
        database, threads=1, max_batch_writes=64, max_waiting_writes=1000, max_waiting_bytes=1_000_000
    )
    try:
        yield committer
    finally:
        assert await committer.close(within_seconds=WAIT_SECONDS)


@contextlib.contextmanager
def _locked(database: Database, table: sa.Table, *, read: bool = False) -> Iterator[None]:
    """Inside, another session holds every row that is in the table now; with `read` others may read them."""
    with database.writers.connect() as connection, connection.begin():
        connection.execute(sa.select(table).with_for_update(read=read))
        yield


@contextlib.contextmanager
def _recording(database: Database, *request_ids: str) -> Iterator[None]:
    """Inside, another session has recorded these requests and is not committed: nobody sees them, or can be first."""
    with database.writers.connect() as connection, connection.begin():
        for request_id in request_ids:
            row = {"realm": REALM, "request_id": request_id, "fingerprint": b"", "revision": 1, "recorded_at_ms": 1}
            connection.execute(sa.insert(tables.requests), row)
        yield
        connection.rollback()


async def _all(committer: Committer, *writes: AnyWrite) -> list[asyncio.Task[Outcome]]:
    return [asyncio.create_task(committer.commit(write)) for write in writes]


async def _answers(tasks: list[asyncio.Task[Outcome]]) -> list[Any]:
    return await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), WAIT_SECONDS)


async def test_the_neighbours_of_a_write_that_waits_for_a_row_land_and_it_lands_when_the_row_is_free(
    postgres_database: Database,
) -> None:
    key = runtime()
    commit(postgres_database, Write(key, runtime_state="idle"))
    async with _committer(postgres_database) as committer:
        with _locked(postgres_database, tables.runtimes):
            waiting = await _all(
                committer,
                Write(key, new_id(), if_revision=1, runtime_state="running"),
                Write(key, new_id(), if_revision=2, runtime_state="stopped"),
            )
            neighbours = [Write(runtime(), new_id(), snapshot=snapshot()) for _ in range(20)]
            together = await _all(committer, *neighbours, oauth(b"kept"))
            assert await _answers(together) == [Outcome(1)] * 21
            # Those that come while it waits are not kept either, and one for the same runtime waits behind it.
            waiting += await _all(committer, Write(key, if_revision=3, runtime_state="retired"))
            later = await _all(committer, *(Write(runtime(), runtime_state="idle") for _ in range(20)))
            assert await _answers(later) == [Outcome(1)] * 20
            assert not any(task.done() for task in waiting)
            assert committer.waiting_writes == 3

        assert await _answers(waiting) == [Outcome(2), Outcome(3), Outcome(4)]
        assert committer.waiting_writes == 0


def _acquired(key: RuntimeKey) -> AnyWrite:
    return Acquisition(key, "first")


HELD: dict[str, tuple[sa.Table, bool, Callable[[RuntimeKey], AnyWrite], Callable[[RuntimeKey], AnyWrite]]] = {
    "runtimes that are written": (
        tables.runtimes,
        False,
        lambda key: Write(key, runtime_state="idle"),
        lambda key: Write(key, runtime_state="running"),
    ),
    "fences of runtimes that are acquired": (tables.fences, True, _acquired, lambda key: Acquisition(key, "second")),
    "fences of runtimes that are written with one": (
        tables.fences,
        False,
        _acquired,
        lambda key: Write(key, fence=1, runtime_state="idle"),
    ),
    "realms of OAuth flows": (
        tables.oauth_flow_snapshots,
        False,
        lambda key: oauth(b"first", realm=key.runtime_id),
        lambda key: oauth(b"second", realm=key.runtime_id),
    ),
}


@pytest.mark.parametrize("what", HELD)
async def test_many_rows_that_are_held_cost_their_neighbours_no_wait_for_each(
    postgres_database: Database, what: str
) -> None:
    table, read, first, second = HELD[what]
    held = [runtime() for _ in range(100)]
    before = commit(postgres_database, *(first(key) for key in held))
    assert before == [Outcome(1)] * 100
    async with _committer(postgres_database) as committer:
        with statements(postgres_database.writers) as seen, _locked(postgres_database, table, read=read):
            waiting = await _all(committer, *(second(key) for key in held))
            neighbours = await _all(committer, *(Write(runtime(), runtime_state="idle") for _ in range(20)))
            assert await _answers(neighbours) == [Outcome(1)] * 20
            tries = sum("lock_timeout" in statement for statement, _ in seen)
            assert not any(task.done() for task in waiting)

        assert tries < 10  # one for each would keep the neighbours waiting for as many times as long
        answers = await _answers(waiting)
        assert all(isinstance(answer, Outcome) and not answer.replayed for answer in answers)


async def test_who_meets_held_rows_after_others_waits_for_moments_only(
    postgres_database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = [runtime() for _ in range(300)]
    commit(postgres_database, *(Write(key, runtime_state="idle") for key in held))
    waits: list[float | None] = []

    def recorded(*args: Any, lock_wait_seconds: float | None, **others: Any) -> Any:
        waits.append(lock_wait_seconds)
        return commit_batch(*args, lock_wait_seconds=lock_wait_seconds, **others)

    monkeypatch.setattr(commit_thread, "commit_batch", recorded)
    async with _committer(postgres_database) as committer:
        with _locked(postgres_database, tables.runtimes):
            waiting = await _all(committer, *(Write(key, runtime_state="running") for key in held))
            (neighbour,) = await _all(committer, Write(runtime(), runtime_state="idle"))
            assert await asyncio.wait_for(neighbour, WAIT_SECONDS) == Outcome(1)
            # The first batch finds out; five such waits would be five times as long for whoever comes behind.
            assert waits[0] is None
            assert None not in waits[1:]
            assert len(waits) >= 5

        assert await _answers(waiting) == [Outcome(2)] * 300


async def test_a_fence_that_another_writer_reads_keeps_no_writer_waiting(postgres_database: Database) -> None:
    mine, other = runtime(), runtime()
    commit(postgres_database, _acquired(mine), _acquired(other))
    commit(postgres_database, Write(other, runtime_state="idle"))
    async with _committer(postgres_database) as committer:
        with _locked(postgres_database, tables.fences, read=True), _locked(postgres_database, tables.runtimes):
            waiting = await _all(committer, Write(other, fence=1, runtime_state="running"))
            together = await _all(committer, Write(mine, fence=1, runtime_state="idle"))
            assert await _answers(together) == [Outcome(1)]
            assert not waiting[0].done()

        assert await _answers(waiting) == [Outcome(2)]


async def test_a_locked_realm_of_oauth_flows_keeps_no_runtime_waiting(postgres_database: Database) -> None:
    commit(postgres_database, oauth(b"first"))
    async with _committer(postgres_database) as committer:
        with _locked(postgres_database, tables.oauth_flow_snapshots):
            waiting = await _all(committer, oauth(b"second", expected_version=1))
            neighbours = await _all(committer, *(Write(runtime(), runtime_state="idle") for _ in range(5)))
            assert await _answers(neighbours) == [Outcome(1)] * 5
            assert not waiting[0].done()

        assert await _answers(waiting) == [Outcome(2)]


def test_many_writes_behind_one_that_waits_cost_one_wait(postgres_database: Database) -> None:
    neighbour = Write(runtime(), runtime_state="idle")
    request_id = new_id()
    one = [oauth(b"first", request_id=request_id), *(oauth(b"%d" % n, expected_version=n) for n in range(1, 20))]
    batch: list[AnyWrite] = [*one, neighbour]
    with statements(postgres_database.writers) as seen, _recording(postgres_database, request_id):
        decisions, committed = commit_batch(postgres_database, batch, CommitStop().gate())
        tries = sum("lock_timeout" in statement for statement, _ in seen)

    assert (decisions, committed) == ([DEFERRED] * 20 + [Outcome(1)], True)
    # One to ask which rows are held, one for the request, whose row nobody sees, and one for the neighbour.
    assert tries == 3


async def test_many_requests_that_another_session_records_keep_their_neighbours_waiting_for_moments(
    postgres_database: Database,
) -> None:
    ids = [new_id() for _ in range(60)]
    async with _committer(postgres_database) as committer:
        with _recording(postgres_database, *ids):
            waiting = await _all(committer, *(Write(runtime(), request_id, runtime_state="idle") for request_id in ids))
            neighbours = await _all(committer, *(Write(runtime(), runtime_state="idle") for _ in range(20)))
            assert await _answers(neighbours) == [Outcome(1)] * 20
            assert not any(task.done() for task in waiting)

        assert await _answers(waiting) == [Outcome(1)] * 60


async def test_a_deferred_write_is_told_that_it_is_not_there_though_its_neighbours_were_committed(
    postgres_database: Database,
) -> None:
    key = runtime()
    commit(postgres_database, Write(key, runtime_state="idle"))
    async with _committer(postgres_database) as committer:
        with _locked(postgres_database, tables.runtimes):
            together = await _all(
                committer, Write(key, runtime_state="running"), Write(runtime(), runtime_state="idle")
            )
            assert await asyncio.wait_for(together[1], WAIT_SECONDS) == Outcome(1)
            committer.abort()
            (told,) = await _answers(together[:1])

    assert type(told) is StoreUnavailable
    assert [row["revision"] for row in rows(postgres_database, tables.runtimes)] == [1, 1]


async def test_who_waits_for_a_row_too_long_is_told_that_nothing_was_committed(
    postgres_database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commit_thread, "TRANSIENT_LIMIT_SECONDS", 0.5)
    key = runtime()
    commit(postgres_database, Write(key, runtime_state="idle"))
    async with _committer(postgres_database) as committer:
        with _locked(postgres_database, tables.runtimes):
            refused = await _answers(
                await _all(committer, Write(key, runtime_state="running"), Write(key, runtime_state="stopped"))
            )
            assert [type(answer) for answer in refused] == [StoreUnavailable] * 2
            assert committer.waiting_writes == 0

        assert await committer.commit(Write(key, if_revision=1, runtime_state="retired")) == Outcome(2)


async def test_who_waits_for_a_row_is_answered_when_the_store_hurries_to_its_end(postgres_database: Database) -> None:
    key = runtime()
    commit(postgres_database, Write(key, runtime_state="idle"))
    async with _committer(postgres_database) as committer:
        with _locked(postgres_database, tables.runtimes):
            waiting = await _all(committer, *(Write(key, runtime_state="running") for _ in range(3)))
            await until(lambda: bool(committer._threads[0]._deferred))
            committer.drain()
            assert [type(answer) for answer in await _answers(waiting)] == [StoreUnavailable] * 3

    assert [row["runtime_state"] for row in rows(postgres_database, tables.runtimes)] == ["idle"]


async def test_a_write_that_is_refused_when_its_row_is_free_lets_those_behind_it_go_on(
    postgres_database: Database,
) -> None:
    key = runtime()
    commit(postgres_database, Write(key, runtime_state="idle"))
    async with _committer(postgres_database) as committer:
        with _locked(postgres_database, tables.runtimes):
            waiting = await _all(
                committer, Write(key, if_revision=9), Write(key, if_revision=1, runtime_state="running")
            )
            await until(lambda: bool(committer._threads[0]._deferred))

        refused, landed = await _answers(waiting)
    assert isinstance(refused, RevisionMismatch)
    assert landed == Outcome(2)
