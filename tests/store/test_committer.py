"""The queue of writes: bounded, drained on closing, and what waits becomes one transaction."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import deque
from typing import TYPE_CHECKING, Any

import pytest

from runtimestore.errors import InternalError, Overloaded, RevisionMismatch, StoreUnavailable
from runtimestore_server.store import commit_thread, tables
from runtimestore_server.store.committer import Committer
from runtimestore_server.store.pending_write import PendingWrite
from runtimestore_server.store.values import Outcome
from runtimestore_server.store.writes import Write
from support.checkers.clean_up import threads_left, until
from support.generators.store_writes import document, new_id, rows, runtime, snapshot
from support.servers.listening import listening

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from runtimestore_server.store.engines import Database
    from runtimestore_server.store.writes import OAuthFlowWrite

WAIT_SECONDS = 20


@contextlib.asynccontextmanager
async def _committer(database: Database, **bounds: Any) -> AsyncIterator[Committer]:
    before = threading.enumerate()
    usual: dict[str, Any] = {
        "threads": 1,
        "max_batch_writes": 64,
        "max_waiting_writes": 1000,
        "max_waiting_bytes": 1_000_000,
    }
    committer = Committer(database, **{**usual, **bounds})
    try:
        yield committer
    finally:
        assert await committer.close(within_seconds=WAIT_SECONDS)
        assert await threads_left(before) == set()


@contextlib.contextmanager
def _held(database: Database) -> Iterator[threading.Event]:
    """No transaction goes on before the event is set."""
    go_on = threading.Event()

    def begun(_connection: Any) -> None:
        assert go_on.wait(WAIT_SECONDS)

    with listening(database.writers, begin=begun):
        try:
            yield go_on
        finally:
            go_on.set()


async def _waiting(committer: Committer, *writes: Write | OAuthFlowWrite) -> list[asyncio.Task[Outcome]]:
    tasks = [asyncio.create_task(committer.commit(write)) for write in writes]
    await asyncio.sleep(0)  # each has put its write into the queue
    return tasks


def _sized(size_bytes: int) -> Write:
    given = document()
    return Write(runtime(), inputs=(given._replace(state_json=bytes(size_bytes)),))


async def test_more_writes_than_may_wait_are_answered_overloaded_and_not_taken_in(database: Database) -> None:
    async with _committer(database, max_waiting_writes=3) as committer:
        with _held(database) as go_on:
            taken = await _waiting(committer, *(Write(runtime(), runtime_state="idle") for _ in range(3)))
            refused = Write(runtime(), runtime_state="idle")
            with pytest.raises(Overloaded) as overloaded:
                await asyncio.wait_for(committer.commit(refused), WAIT_SECONDS)
            go_on.set()
            assert await asyncio.gather(*taken) == [Outcome(1)] * 3

        assert overloaded.value.retry_after_seconds
        assert await committer.commit(Write(runtime(), runtime_state="idle")) == Outcome(1)
    assert refused.runtime.runtime_id not in {row["runtime_id"] for row in rows(database, tables.runtimes)}


async def test_more_bytes_than_may_wait_are_answered_overloaded(database: Database) -> None:
    async with _committer(database, max_waiting_bytes=1000) as committer:
        with _held(database) as go_on:
            taken = await _waiting(committer, _sized(600), _sized(400))
            with pytest.raises(Overloaded):
                await asyncio.wait_for(committer.commit(_sized(1)), WAIT_SECONDS)
            taken += await _waiting(committer, Write(runtime(), runtime_state="idle"))  # of no bytes
            go_on.set()
            assert await asyncio.gather(*taken) == [Outcome(1)] * 3

        assert await committer.commit(_sized(1000)) == Outcome(1)


async def test_a_write_over_the_whole_bound_finds_its_way_in_when_nothing_else_waits(database: Database) -> None:
    async with _committer(database, max_waiting_bytes=1000) as committer:
        assert await committer.commit(_sized(5000)) == Outcome(1)


async def test_what_waits_becomes_one_transaction(database: Database) -> None:
    async with _committer(database) as committer:
        with _held(database) as go_on:
            tasks = await _waiting(committer, _sized(1))
            await _until_taken(committer)
            tasks += await _waiting(committer, *(_sized(1) for _ in range(40)))
            go_on.set()
            assert await asyncio.gather(*tasks) == [Outcome(1)] * 41

        assert (committer.counters.transactions, committer.counters.writes) == (2, 41)


async def test_a_transaction_takes_no_more_writes_than_it_may(database: Database) -> None:
    async with _committer(database, max_batch_writes=8) as committer:
        with _held(database) as go_on:
            tasks = await _waiting(committer, _sized(1))
            await _until_taken(committer)
            tasks += await _waiting(committer, *(_sized(1) for _ in range(20)))
            go_on.set()
            assert await asyncio.gather(*tasks) == [Outcome(1)] * 21

        assert committer.counters.transactions == 1 + 3


async def test_a_transaction_takes_no_more_bytes_than_it_may_unless_one_write_has_more(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commit_thread, "MAX_BATCH_BYTES", 1000)
    async with _committer(database) as committer:
        with _held(database) as go_on:
            tasks = await _waiting(committer, _sized(1))
            await _until_taken(committer)
            tasks += await _waiting(committer, *(_sized(size) for size in (600, 400, 1, 5000, 1)))
            go_on.set()
            assert await asyncio.gather(*tasks) == [Outcome(1)] * 6

        assert committer.counters.transactions == 1 + len([(600, 400), (1,), (5000,), (1,)])


@pytest.fixture
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch waits for company for longer than any test takes."""
    monkeypatch.setattr(commit_thread, "COMPANY_SECONDS", 10 * WAIT_SECONDS)
    monkeypatch.setattr(commit_thread, "COMPANY_COMMITS", 1e9)


@contextlib.asynccontextmanager
async def _after_a_batch_of_three(database: Database) -> AsyncIterator[Committer]:
    async with _committer(database, max_batch_writes=3) as committer:
        with _held(database) as go_on:
            tasks = await _waiting(committer, _sized(1))
            await _until_taken(committer)
            tasks += await _waiting(committer, *(_sized(1) for _ in range(3)))
            go_on.set()
            await asyncio.wait_for(asyncio.gather(*tasks), WAIT_SECONDS)
        yield committer


@pytest.mark.usefixtures("_patient")
async def test_a_batch_waits_for_as_many_writes_as_came_with_the_last_one(database: Database) -> None:
    async with _after_a_batch_of_three(database) as committer:
        tasks = await _waiting(committer, _sized(1))
        done, _ = await asyncio.wait(tasks, timeout=0.05)
        assert done == set()

        tasks += await _waiting(committer, _sized(1), _sized(1))
        assert await asyncio.wait_for(asyncio.gather(*tasks), WAIT_SECONDS) == [Outcome(1)] * 3

        assert (committer.counters.transactions, committer.counters.writes) == (3, 7)


@pytest.mark.usefixtures("_patient")
async def test_who_writes_alone_waits_for_nobody(database: Database) -> None:
    async with _committer(database) as committer:
        for _ in range(3):
            assert await asyncio.wait_for(committer.commit(_sized(1)), WAIT_SECONDS) == Outcome(1)


async def test_a_batch_begins_without_those_who_do_not_come(database: Database) -> None:
    async with _after_a_batch_of_three(database) as committer:
        assert await asyncio.wait_for(committer.commit(_sized(1)), WAIT_SECONDS) == Outcome(1)


@pytest.mark.usefixtures("_patient")
async def test_no_batch_waits_for_company_when_the_store_is_closed(database: Database) -> None:
    async with _after_a_batch_of_three(database) as committer:
        (task,) = await _waiting(committer, _sized(1))
        assert await committer.close(within_seconds=WAIT_SECONDS)
        assert await asyncio.wait_for(task, WAIT_SECONDS) == Outcome(1)


async def test_deferred_writes_are_tried_again_no_more_bytes_at_a_time_than_a_transaction_may_take(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commit_thread, "MAX_BATCH_BYTES", 1000)
    taken = []
    async with _committer(database) as committer:
        (only,) = committer._threads
        with only._wake:  # the thread stands still meanwhile
            for write in map(_sized, (600, 400, 1, 5000, 1)):
                pending = PendingWrite(write, asyncio.get_running_loop().create_future())
                only._deferred[write.subject] = deque([pending])
            while only._deferred:
                taken.append([pending.size_bytes for pending in only._first_of_each_deferred()])
                only._deferred = {subject: group for subject, group in only._deferred.items() if group}
            only._batch = []

    assert taken == [[600, 400], [1], [5000], [1]]


async def _until_taken(committer: Committer) -> None:
    (only,) = committer._threads
    while only._queue:  # noqa: ASYNC110  (the commit thread and knows no asyncio.Event)
        await asyncio.sleep(0.001)


async def test_of_64_writes_at_once_with_three_bad_ones_61_land_in_few_transactions(database: Database) -> None:
    writes: list[Write | OAuthFlowWrite] = [Write(runtime(), new_id(), snapshot=snapshot()) for _ in range(61)]
    writes.insert(5, Write(runtime(), new_id(), if_revision=4))
    writes.insert(30, Write(runtime(), new_id(), if_revision=1, snapshot=snapshot()))
    writes.insert(63, Write(runtime(), new_id(), if_revision=2))

    async with _committer(database) as committer:
        answers = await asyncio.gather(*(committer.commit(write) for write in writes), return_exceptions=True)
        counted = committer.counters

    assert [type(answers[position]) for position in (5, 30, 63)] == [RevisionMismatch] * 3
    assert answers.count(Outcome(1)) == 61
    assert (counted.writes, counted.refusals) == (61, 3)
    assert counted.transactions <= 3


async def test_writes_that_the_engine_refuses_leave_their_61_neighbours_alone(database: Database) -> None:
    writes = [Write(runtime(), new_id(), snapshot=snapshot()) for _ in range(61)]
    for position in (0, 31, 63):
        writes.insert(position, Write(runtime(), new_id(), snapshot=snapshot(total_tokens=2**63)))

    async with _committer(database) as committer:
        answers = await asyncio.gather(*(committer.commit(write) for write in writes), return_exceptions=True)

    assert [type(answers[position]) for position in (0, 31, 63)] == [InternalError] * 3
    assert answers.count(Outcome(1)) == 61


async def test_the_writes_of_a_runtime_land_in_the_order_in_which_they_came(database: Database) -> None:
    keys = [runtime() for _ in range(5)]

    async with _committer(database, threads=2, max_batch_writes=3) as committer:
        tasks = await _waiting(committer, *(Write(key, runtime_state="idle") for _ in range(10) for key in keys))
        answers = await asyncio.gather(*tasks)

    assert answers == [Outcome(number) for number in range(1, 11) for _ in keys]


async def test_closing_commits_what_waits(database: Database) -> None:
    async with _committer(database, threads=2, max_batch_writes=2) as committer:
        with _held(database) as go_on:
            tasks = await _waiting(committer, *(Write(runtime(), runtime_state="idle") for _ in range(9)))
            closing = asyncio.create_task(committer.close(within_seconds=WAIT_SECONDS))
            await asyncio.sleep(0.02)
            assert not closing.done()
            go_on.set()
            await closing

        assert await asyncio.wait_for(asyncio.gather(*tasks), WAIT_SECONDS) == [Outcome(1)] * 9
    assert len(rows(database, tables.runtimes)) == 9


async def test_a_caller_that_gives_up_leaves_the_whole_write_and_gives_its_place_back(database: Database) -> None:
    first = Write(runtime(), snapshot=snapshot(), inputs=(document(),))
    async with _committer(database, max_waiting_writes=2) as committer:
        with _held(database) as go_on:
            cancelled, kept = await _waiting(committer, first, Write(runtime(), runtime_state="idle"))
            cancelled.cancel()
            await asyncio.wait([cancelled])
            go_on.set()
            assert await kept == Outcome(1)

        both = await _waiting(committer, *(Write(first.runtime, runtime_state="idle") for _ in range(2)))
        assert await asyncio.gather(*both) == [Outcome(2), Outcome(3)]
    assert len(rows(database, tables.inputs)) == len(rows(database, tables.session_versions)) == 1


async def test_the_counters_tell_writes_replays_and_refusals_apart(database: Database) -> None:
    write = Write(runtime(), new_id(), runtime_state="idle")
    async with _committer(database) as committer:
        await committer.commit(write)
        await committer.commit(write)
        with pytest.raises(RevisionMismatch):
            await committer.commit(Write(write.runtime, if_revision=9))
        counted = committer.counters

    assert (counted.writes, counted.replays, counted.refusals, counted.transactions) == (
        1,
        1,
        1,
        1,
    )  # a replay or a refusal alone is no transaction with a write in it


@pytest.mark.parametrize("given_up", ["before it is decided", "as it is decided", "as the server ends"])
async def test_what_becomes_of_a_write_whose_caller_gave_up_is_told(
    database: Database, monkeypatch: pytest.MonkeyPatch, given_up: str
) -> None:
    told: list[Any] = []
    write = Write(runtime(), inputs=(document(),), request_id=new_id())
    async with _committer(database, unanswered=told.append) as committer:
        with _held(database) as go_on:
            (task,) = await _waiting(committer, write)
            if given_up == "as it is decided":
                answer = committer.answer

                def then_given_up(*arguments: Any, **options: Any) -> None:
                    answer(*arguments, **options)
                    task.cancel()

                monkeypatch.setattr(committer, "answer", then_given_up)
            else:
                task.cancel()
                await asyncio.wait([task])
            if given_up == "as the server ends":
                committer.abort()
                assert [type(one) for one in told] == [StoreUnavailable]
                return
            go_on.set()
        await asyncio.wait([task], timeout=WAIT_SECONDS)
        assert task.cancelled()
        await until(lambda: bool(told))
    assert told == [Outcome(1)]
