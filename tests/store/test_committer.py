"""The queue of writes: bounded, answered in order, and drained on closing."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from runtimestore.errors import InternalError, Overloaded, RevisionMismatch, StoreUnavailable
from runtimestore_server.store import tables
from runtimestore_server.store.values import Outcome
from runtimestore_server.store.writes import Write
from support.checkers.clean_up import until
from support.generators.store_writes import document, new_id, rows, runtime, snapshot
from support.servers.committer import WAIT_SECONDS, committing, held, sized, waiting

if TYPE_CHECKING:
    from runtimestore_server.store.engines import Database
    from runtimestore_server.store.writes import OAuthFlowWrite


async def test_more_writes_than_may_wait_are_answered_overloaded_and_not_taken_in(database: Database) -> None:
    async with committing(database, max_waiting_writes=3) as committer:
        with held(database) as go_on:
            taken = await waiting(committer, *(Write(runtime(), runtime_state="idle") for _ in range(3)))
            refused = Write(runtime(), runtime_state="idle")
            with pytest.raises(Overloaded) as overloaded:
                await asyncio.wait_for(committer.commit(refused), WAIT_SECONDS)
            go_on.set()
            assert await asyncio.gather(*taken) == [Outcome(1)] * 3

        assert overloaded.value.retry_after_seconds
        assert await committer.commit(Write(runtime(), runtime_state="idle")) == Outcome(1)
    assert refused.runtime.runtime_id not in {row["runtime_id"] for row in rows(database, tables.runtimes)}


async def test_more_bytes_than_may_wait_are_answered_overloaded(database: Database) -> None:
    async with committing(database, max_waiting_bytes=1000) as committer:
        with held(database) as go_on:
            taken = await waiting(committer, sized(600), sized(400))
            with pytest.raises(Overloaded):
                await asyncio.wait_for(committer.commit(sized(1)), WAIT_SECONDS)
            taken += await waiting(committer, Write(runtime(), runtime_state="idle"))  # of no bytes
            go_on.set()
            assert await asyncio.gather(*taken) == [Outcome(1)] * 3

        assert await committer.commit(sized(1000)) == Outcome(1)


async def test_a_write_over_the_whole_bound_finds_its_way_in_when_nothing_else_waits(database: Database) -> None:
    async with committing(database, max_waiting_bytes=1000) as committer:
        assert await committer.commit(sized(5000)) == Outcome(1)


async def test_of_64_writes_at_once_with_three_bad_ones_61_land_in_few_transactions(database: Database) -> None:
    writes: list[Write | OAuthFlowWrite] = [Write(runtime(), new_id(), snapshot=snapshot()) for _ in range(61)]
    writes.insert(5, Write(runtime(), new_id(), if_revision=4))
    writes.insert(30, Write(runtime(), new_id(), if_revision=1, snapshot=snapshot()))
    writes.insert(63, Write(runtime(), new_id(), if_revision=2))

    async with committing(database) as committer:
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

    async with committing(database) as committer:
        answers = await asyncio.gather(*(committer.commit(write) for write in writes), return_exceptions=True)

    assert [type(answers[position]) for position in (0, 31, 63)] == [InternalError] * 3
    assert answers.count(Outcome(1)) == 61


async def test_the_writes_of_a_runtime_land_in_the_order_in_which_they_came(database: Database) -> None:
    keys = [runtime() for _ in range(5)]

    async with committing(database, threads=2, max_batch_writes=3) as committer:
        tasks = await waiting(committer, *(Write(key, runtime_state="idle") for _ in range(10) for key in keys))
        answers = await asyncio.gather(*tasks)

    assert answers == [Outcome(number) for number in range(1, 11) for _ in keys]


async def test_closing_commits_what_waits(database: Database) -> None:
    async with committing(database, threads=2, max_batch_writes=2) as committer:
        with held(database) as go_on:
            tasks = await waiting(committer, *(Write(runtime(), runtime_state="idle") for _ in range(9)))
            closing = asyncio.create_task(committer.close(within_seconds=WAIT_SECONDS))
            await asyncio.sleep(0.02)
            assert not closing.done()
            go_on.set()
            await closing

        assert await asyncio.wait_for(asyncio.gather(*tasks), WAIT_SECONDS) == [Outcome(1)] * 9
    assert len(rows(database, tables.runtimes)) == 9


async def test_a_caller_that_gives_up_leaves_the_whole_write_and_gives_its_place_back(database: Database) -> None:
    first = Write(runtime(), snapshot=snapshot(), inputs=(document(),))
    async with committing(database, max_waiting_writes=2) as committer:
        with held(database) as go_on:
            cancelled, kept = await waiting(committer, first, Write(runtime(), runtime_state="idle"))
            cancelled.cancel()
            await asyncio.wait([cancelled])
            go_on.set()
            assert await kept == Outcome(1)

        both = await waiting(committer, *(Write(first.runtime, runtime_state="idle") for _ in range(2)))
        assert await asyncio.gather(*both) == [Outcome(2), Outcome(3)]
    assert len(rows(database, tables.inputs)) == len(rows(database, tables.session_versions)) == 1


async def test_the_counters_tell_writes_replays_and_refusals_apart(database: Database) -> None:
    write = Write(runtime(), new_id(), runtime_state="idle")
    async with committing(database) as committer:
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
    async with committing(database, unanswered=told.append) as committer:
        with held(database) as go_on:
            (task,) = await waiting(committer, write)
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
