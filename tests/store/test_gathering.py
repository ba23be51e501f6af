"""What waits becomes one transaction, within bounds, and a batch waits for as many writes as the last one had."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from typing import TYPE_CHECKING

import pytest

from runtimestore_server.store import commit_thread
from runtimestore_server.store.pending_write import PendingWrite
from runtimestore_server.store.values import Outcome
from support.servers.committer import WAIT_SECONDS, committing, held, sized, until_taken, waiting

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from runtimestore_server.store.committer import Committer
    from runtimestore_server.store.engines import Database


async def test_what_waits_becomes_one_transaction(database: Database) -> None:
    async with committing(database) as committer:
        with held(database) as go_on:
            tasks = await waiting(committer, sized(1))
            await until_taken(committer)
            tasks += await waiting(committer, *(sized(1) for _ in range(40)))
            go_on.set()
            assert await asyncio.gather(*tasks) == [Outcome(1)] * 41

        assert (committer.counters.transactions, committer.counters.writes) == (2, 41)


async def test_a_transaction_takes_no_more_writes_than_it_may(database: Database) -> None:
    async with committing(database, max_batch_writes=8) as committer:
        with held(database) as go_on:
            tasks = await waiting(committer, sized(1))
            await until_taken(committer)
            tasks += await waiting(committer, *(sized(1) for _ in range(20)))
            go_on.set()
            assert await asyncio.gather(*tasks) == [Outcome(1)] * 21

        assert committer.counters.transactions == 1 + 3


async def test_a_transaction_takes_no_more_bytes_than_it_may_unless_one_write_has_more(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commit_thread, "MAX_BATCH_BYTES", 1000)
    async with committing(database) as committer:
        with held(database) as go_on:
            tasks = await waiting(committer, sized(1))
            await until_taken(committer)
            tasks += await waiting(committer, *(sized(size) for size in (600, 400, 1, 5000, 1)))
            go_on.set()
            assert await asyncio.gather(*tasks) == [Outcome(1)] * 6

        assert committer.counters.transactions == 1 + len([(600, 400), (1,), (5000,), (1,)])


@pytest.fixture
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch lingers for longer than any test takes."""
    monkeypatch.setattr(commit_thread, "LINGER_SECONDS", 10 * WAIT_SECONDS)
    monkeypatch.setattr(commit_thread, "LINGER_COMMITS", 1e9)


@contextlib.asynccontextmanager
async def _after_a_batch_of_three(database: Database) -> AsyncIterator[Committer]:
    async with committing(database, max_batch_writes=3) as committer:
        with held(database) as go_on:
            tasks = await waiting(committer, sized(1))
            await until_taken(committer)
            tasks += await waiting(committer, *(sized(1) for _ in range(3)))
            go_on.set()
            await asyncio.wait_for(asyncio.gather(*tasks), WAIT_SECONDS)
        yield committer


@pytest.mark.usefixtures("_patient")
async def test_a_batch_waits_for_as_many_writes_as_came_with_the_last_one(database: Database) -> None:
    async with _after_a_batch_of_three(database) as committer:
        tasks = await waiting(committer, sized(1))
        done, _ = await asyncio.wait(tasks, timeout=0.05)
        assert done == set()

        tasks += await waiting(committer, sized(1), sized(1))
        assert await asyncio.wait_for(asyncio.gather(*tasks), WAIT_SECONDS) == [Outcome(1)] * 3

        assert (committer.counters.transactions, committer.counters.writes) == (3, 7)


@pytest.mark.usefixtures("_patient")
async def test_who_writes_alone_waits_for_nobody(database: Database) -> None:
    async with committing(database) as committer:
        for _ in range(3):
            assert await asyncio.wait_for(committer.commit(sized(1)), WAIT_SECONDS) == Outcome(1)


async def test_a_batch_begins_without_those_who_do_not_come(database: Database) -> None:
    async with _after_a_batch_of_three(database) as committer:
        assert await asyncio.wait_for(committer.commit(sized(1)), WAIT_SECONDS) == Outcome(1)


@pytest.mark.usefixtures("_patient")
async def test_no_batch_waits_for_company_when_the_store_is_closed(database: Database) -> None:
    async with _after_a_batch_of_three(database) as committer:
        (task,) = await waiting(committer, sized(1))
        assert await committer.close(within_seconds=WAIT_SECONDS)
        assert await asyncio.wait_for(task, WAIT_SECONDS) == Outcome(1)


async def test_deferred_writes_are_tried_again_no_more_bytes_at_a_time_than_a_transaction_may_take(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commit_thread, "MAX_BATCH_BYTES", 1000)
    taken = []
    async with committing(database) as committer:
        (only,) = committer._threads
        with only._wake:  # the thread stands still meanwhile
            for write in map(sized, (600, 400, 1, 5000, 1)):
                pending = PendingWrite(write, asyncio.get_running_loop().create_future())
                only._deferred[write.subject] = deque([pending])
            while only._deferred:
                taken.append([pending.size_bytes for pending in only._first_of_each_deferred()])
                only._deferred = {subject: group for subject, group in only._deferred.items() if group}
            only._batch = []

    assert taken == [[600, 400], [1], [5000], [1]]
