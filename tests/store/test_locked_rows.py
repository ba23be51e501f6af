"""A row that another session of the engine holds delays whoever needs it, and nobody else."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from runtimestore.errors import RevisionMismatch, StoreUnavailable
from runtimestore_server.store import lane, tables
from runtimestore_server.store.committer import Committer
from runtimestore_server.store.ending import Ending
from runtimestore_server.store.transaction import DEFERRED, commit_batch
from runtimestore_server.store.values import Outcome, Write
from support.clean_up import until
from support.store_writes import commit, new_id, oauth, rows, runtime, snapshot, statements

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    import pytest

    from runtimestore_server.store.engines import Database
    from runtimestore_server.store.transaction import AnyWrite

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
def _locked(database: Database, table: sa.Table) -> Iterator[None]:
    """Inside, another session holds every row that is in the table now."""
    with database.writers.connect() as connection, connection.begin():
        connection.execute(sa.select(table).with_for_update())
        yield


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


async def test_many_rows_that_are_held_cost_their_neighbours_no_wait_for_each(postgres_database: Database) -> None:
    held = [runtime() for _ in range(100)]
    commit(postgres_database, *(Write(key, runtime_state="idle") for key in held))
    async with _committer(postgres_database) as committer:
        with statements(postgres_database.writers) as seen, _locked(postgres_database, tables.runtimes):
            waiting = await _all(committer, *(Write(key, runtime_state="running") for key in held))
            neighbours = await _all(committer, *(Write(runtime(), runtime_state="idle") for _ in range(20)))
            assert await _answers(neighbours) == [Outcome(1)] * 20
            tries = sum("lock_timeout" in statement for statement, _ in seen)
            assert not any(task.done() for task in waiting)

        assert tries < len(held)  # which each took fifty milliseconds
        assert await _answers(waiting) == [Outcome(2)] * 100


async def test_a_locked_realm_of_oauth_flows_keeps_no_runtime_waiting(postgres_database: Database) -> None:
    commit(postgres_database, oauth(b"first"))
    async with _committer(postgres_database) as committer:
        with _locked(postgres_database, tables.oauth_flow_snapshots):
            waiting = await _all(committer, oauth(b"second", expected_version=1))
            neighbours = await _all(committer, *(Write(runtime(), runtime_state="idle") for _ in range(5)))
            assert await _answers(neighbours) == [Outcome(1)] * 5
            assert not waiting[0].done()

        assert await _answers(waiting) == [Outcome(2)]


def test_many_writes_that_need_one_row_cost_one_wait_for_it(postgres_database: Database) -> None:
    commit(postgres_database, oauth(b"first"))
    neighbour = Write(runtime(), runtime_state="idle")
    batch: list[AnyWrite] = [*(oauth(b"%d" % version, expected_version=version) for version in range(1, 21)), neighbour]
    with statements(postgres_database.writers) as seen, _locked(postgres_database, tables.oauth_flow_snapshots):
        decisions, committed = commit_batch(postgres_database, batch, Ending().gate())
        tries = sum("lock_timeout" in statement for statement, _ in seen)

    assert (decisions, committed) == ([DEFERRED] * 20 + [Outcome(1)], True)
    assert tries == 2  # one for the row, which takes fifty milliseconds, and one for the neighbour


async def test_a_write_set_aside_is_told_that_it_is_not_there_though_its_neighbours_were_committed(
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
            committer.abandon()
            (told,) = await _answers(together[:1])

    assert type(told) is StoreUnavailable
    assert [row["revision"] for row in rows(postgres_database, tables.runtimes)] == [1, 1]


async def test_who_waits_for_a_row_too_long_is_told_that_nothing_was_committed(
    postgres_database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lane, "TRANSIENT_LIMIT_SECONDS", 0.5)
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
            await until(lambda: bool(committer._lanes[0]._set_aside))
            committer.hurry()
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
            await until(lambda: bool(committer._lanes[0]._set_aside))

        refused, landed = await _answers(waiting)
    assert isinstance(refused, RevisionMismatch)
    assert landed == Outcome(2)
