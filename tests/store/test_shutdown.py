"""A store that ends does not go on trying, and what it tells of a write that it leaves behind is the truth."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn

import pytest

from runtimestore.errors import CommitOutcomeUnknown, StoreUnavailable
from runtimestore_server.store import tables, transaction
from runtimestore_server.store.commit import commit as commit_in
from runtimestore_server.store.commit_gate import CommitStop
from runtimestore_server.store.committer import Committer
from runtimestore_server.store.engines import RowTaken
from runtimestore_server.store.values import Outcome
from runtimestore_server.store.writes import Write
from support.checkers.clean_up import until
from support.faults.unanswered_commits import at_next_commit, terminated
from support.generators.store_writes import new_id, rows, runtime, snapshot
from support.servers.listening import listening

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from runtimestore_server.store.engines import Database

WAIT_SECONDS = 20


def test_what_is_transient_is_not_run_again_once_the_store_ends(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempts = []

    def taken(*_: object, **__: object) -> NoReturn:
        attempts.append(1)
        raise RowTaken

    monkeypatch.setattr(transaction, "commit", taken)
    ending = CommitStop()
    ending.drain()

    (decision,), committed = transaction.commit_batch(database, [Write(runtime(), snapshot=snapshot())], ending.gate())

    assert isinstance(decision, StoreUnavailable)
    assert not committed
    assert len(attempts) == 1


def test_a_batch_that_comes_too_late_to_be_committed_is_not_run_again(database: Database) -> None:
    attempts = []
    ending = CommitStop()
    ending.abort()

    def begun(_connection: Any) -> None:
        attempts.append(1)

    with listening(database.writers, begin=begun):
        (decision,), _ = transaction.commit_batch(database, [Write(runtime(), snapshot=snapshot())], ending.gate())

    assert isinstance(decision, StoreUnavailable)
    assert len(attempts) == 1


class _Hold:
    """Where the write path stands still, and until when."""

    def __init__(self) -> None:
        self.reached = threading.Event()
        self.go_on = threading.Event()

    def __call__(self, _connection: Any = None) -> None:
        self.reached.set()
        assert self.go_on.wait(WAIT_SECONDS)


@contextlib.contextmanager
def _held_at(database: Database, step: str) -> Iterator[_Hold]:
    hold = _Hold()
    with listening(database.writers, **{step: hold}):
        try:
            yield hold
        finally:
            hold.go_on.set()


def _committer(database: Database) -> Committer:
    return Committer(database, threads=1, max_batch_writes=2, max_waiting_writes=100, max_waiting_bytes=1_000_000)


async def _refusals(tasks: list[asyncio.Task[Outcome]]) -> list[type]:
    answers = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), WAIT_SECONDS)
    return [type(answer) for answer in answers]


async def test_writes_left_behind_before_their_commit_are_told_that_nothing_is_there_and_nothing_ever_is(
    database: Database,
) -> None:
    committer = _committer(database)
    with _held_at(database, "begin") as hold:
        tasks = [asyncio.create_task(committer.commit(Write(runtime(), new_id(), snapshot=snapshot()))) for _ in "1234"]
        await until(hold.reached.is_set)
        committer.abort()
        assert await _refusals(tasks) == [StoreUnavailable] * 4
        assert not await committer.close(within_seconds=0.05)
        hold.go_on.set()
        assert await committer.close(within_seconds=WAIT_SECONDS)

    assert rows(database, tables.runtimes) == []
    assert rows(database, tables.requests) == []


async def test_a_write_left_behind_in_its_commit_is_told_to_be_unknown_and_those_behind_it_are_not(
    database: Database,
) -> None:
    committer = _committer(database)
    write = Write(runtime(), new_id(), snapshot=snapshot())
    with _held_at(database, "commit") as hold:
        tasks = [asyncio.create_task(committer.commit(write))]
        await until(hold.reached.is_set)
        tasks += [asyncio.create_task(committer.commit(Write(runtime(), runtime_state="idle"))) for _ in "12"]
        await asyncio.sleep(0)
        committer.abort()
        assert await _refusals(tasks) == [CommitOutcomeUnknown, StoreUnavailable, StoreUnavailable]
        hold.go_on.set()
        assert await committer.close(within_seconds=WAIT_SECONDS)

    assert [row["runtime_id"] for row in rows(database, tables.runtimes)] == [write.runtime.runtime_id]
    again = _committer(database)
    assert await again.commit(write) == Outcome(1, replayed=True)
    assert await again.close(within_seconds=WAIT_SECONDS)


def _refused(connection: Any, _commit: Any) -> NoReturn:
    """A row that is taken, told in place of COMMIT, before which nothing is committed."""
    connection.rollback()
    raise RowTaken


def _at_attempts(monkeypatch: pytest.MonkeyPatch, actions: dict[int, Callable[[], object]]) -> None:
    """Do something at the beginning of these attempts at a transaction, counted from one."""
    attempts = itertools.count(1)

    def attempted(*args: Any, **options: Any) -> Any:
        actions.get(next(attempts), lambda: None)()
        return commit_in(*args, **options)

    monkeypatch.setattr(transaction, "commit", attempted)


@pytest.mark.parametrize("fault", ["refused", "lost"])
async def test_writes_left_behind_after_a_commit_that_is_known_to_have_failed_are_told_that_nothing_is_there(
    postgres_database: Database, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    lost = terminated(postgres_database, committed=False)
    called = at_next_commit(postgres_database, monkeypatch, _refused if fault == "refused" else lost)
    hold = _Hold()
    _at_attempts(monkeypatch, {2: hold})
    committer = _committer(postgres_database)
    tasks = [asyncio.create_task(committer.commit(Write(runtime(), new_id(), snapshot=snapshot())))]
    await until(hold.reached.is_set)
    committer.abort()
    hold.go_on.set()

    assert called
    assert await _refusals(tasks) == [StoreUnavailable]
    assert await committer.close(within_seconds=WAIT_SECONDS)
    assert rows(postgres_database, tables.runtimes) == []


def test_a_write_that_landed_stays_one_that_may_have_while_the_commit_of_its_neighbour_fails(
    postgres_database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unforeseen() -> NoReturn:
        raise ValueError

    hold, lost = _Hold(), terminated(postgres_database, committed=False)
    lose = partial(at_next_commit, postgres_database, monkeypatch, lost)
    _at_attempts(monkeypatch, {1: unforeseen, 3: lose, 4: hold})  # both, the first alone, the second alone twice
    landed, left = (Write(runtime(), new_id(), snapshot=snapshot()) for _ in range(2))
    gate = CommitStop().gate()
    with ThreadPoolExecutor() as pool:
        try:
            committing = pool.submit(transaction.commit_batch, postgres_database, [landed, left], gate)
            assert hold.reached.wait(WAIT_SECONDS)
            begun = gate.begun
            gate.shutdown.abort()
        finally:
            hold.go_on.set()
        decisions, _ = committing.result(WAIT_SECONDS)

    assert begun
    assert decisions[0] == Outcome(1)
    assert isinstance(decisions[1], StoreUnavailable)
    assert [row["runtime_id"] for row in rows(postgres_database, tables.runtimes)] == [landed.runtime.runtime_id]
