"""Where several transactions write at a time, small writes do not wait for large ones, and no order is lost by it."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from typing import TYPE_CHECKING, Any

import pytest

from runtimestore_server.store import committer as committers
from runtimestore_server.store.committer import Committer
from runtimestore_server.store.maintenance import Maintenance
from runtimestore_server.store.values import Outcome
from runtimestore_server.store.writes import Write
from support.checkers.clean_up import threads_left
from support.generators.store_writes import document, runtime
from support.servers.listening import listening

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from runtimestore_server.store.engines import Database
    from runtimestore_server.store.values import RuntimeKey

WAIT_SECONDS = 20
LARGE_BYTES = 1000


@pytest.fixture(autouse=True)
def _large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(committers, "LARGE_WRITE_BYTES", LARGE_BYTES)


@contextlib.asynccontextmanager
async def _committer(database: Database) -> AsyncIterator[Committer]:
    before = threading.enumerate()
    committer = Committer(
        database,
        threads=1,
        max_batch_writes=64,
        max_waiting_writes=1000,
        max_waiting_bytes=1_000_000,
        maintenance=Maintenance(database, []),
    )
    try:
        yield committer
    finally:
        assert await committer.close(within_seconds=WAIT_SECONDS)
        assert await threads_left(before) == set()


class _FirstHeld:
    """The first transaction that begins does not go on before it is told to."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.go_on = threading.Event()

    def __call__(self, _connection: Any) -> None:
        if not self.begun.is_set():
            self.begun.set()
            assert self.go_on.wait(WAIT_SECONDS)


@contextlib.contextmanager
def _first_held(database: Database) -> Iterator[_FirstHeld]:
    held = _FirstHeld()
    with listening(database.writers, begin=held):
        try:
            yield held
        finally:
            held.go_on.set()


def _small(key: RuntimeKey) -> Write:
    return Write(key, runtime_state="idle")


def _of_large(key: RuntimeKey) -> Write:
    return Write(key, inputs=(document()._replace(state_json=bytes(LARGE_BYTES)),))


async def _put(committer: Committer, write: Write) -> asyncio.Task[Outcome]:
    task = asyncio.create_task(committer.commit(write))
    await asyncio.sleep(0)  # it has put its write into a queue
    return task


async def test_small_writes_do_not_wait_for_a_large_one_but_those_of_its_own_runtime_do(
    postgres_database: Database,
) -> None:
    key = runtime()
    async with _committer(postgres_database) as committer:
        with _first_held(postgres_database) as held:
            large = await _put(committer, _of_large(key))
            await asyncio.to_thread(held.begun.wait, WAIT_SECONDS)
            behind = await _put(committer, _small(key))

            for _ in range(2):
                assert await asyncio.wait_for(committer.commit(_small(runtime())), WAIT_SECONDS) == Outcome(1)

            assert not large.done()
            assert not behind.done()
            held.go_on.set()
            assert [await large, await behind] == [Outcome(1), Outcome(2)]

    counted = [counts.batch_writes.sum for counts in committer.batch_counts]
    assert counted == [2, 2]  # what is committed beside is counted, too


async def test_a_large_write_does_not_overtake_a_small_one_to_its_runtime(postgres_database: Database) -> None:
    key = runtime()
    async with _committer(postgres_database) as committer:
        with _first_held(postgres_database) as held:
            small = await _put(committer, _small(key))
            await asyncio.to_thread(held.begun.wait, WAIT_SECONDS)
            large = await _put(committer, _of_large(key))

            # What is committed beside lands in its order: this one would be behind the other.
            assert await asyncio.wait_for(committer.commit(_of_large(runtime())), WAIT_SECONDS) == Outcome(1)

            held.go_on.set()
            assert [await small, await large] == [Outcome(1), Outcome(2)]
            assert await committer.commit(_of_large(key)) == Outcome(3)


async def test_one_writer_at_a_time_commits_large_writes_among_the_others(sqlite_database: Database) -> None:
    async with _committer(sqlite_database) as committer:
        writes = [_small(runtime()), _of_large(runtime()), _small(runtime())]

        assert await asyncio.gather(*map(committer.commit, writes)) == [Outcome(1)] * 3
        assert len(committer.batch_counts) == 1
