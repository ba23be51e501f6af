"""Servers that are restarted under load: no caller meets a failure, and no write happens twice."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import ExitStack
from typing import TYPE_CHECKING, Self

import pytest
import sqlalchemy as sa

from runtimestore import AsyncRuntimeStoreClient, CallFailed, RuntimeStoreClient, RuntimeStoreError
from runtimestore._retry import Attempts
from runtimestore_server.store import tables
from runtimestore_server.store.engines import open_database
from support.checkers.threaded import threaded
from support.generators.documents import input_state, receipt, session
from support.servers.engines import DURABLE
from support.servers.server_process import ServerProcess

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

    from support.checkers.torture import Trial
    from support.servers.postgres import Cluster

BY_TASKS = 12
BY_THREADS = 4  # the event loop's executor has five threads at least, and one has to be left for the restarts

LARGE = 3_000_000
LARGE_EVERY = 10
"""Which turns write a large session, and read it as a stream: an end finds some of them half done."""

POLL_SECONDS = 0.02

PATIENCE_SECONDS = 120
"""How long nobody may get on before the test gives up."""

pytestmark = pytest.mark.usefixtures("runner")


@pytest.fixture
def repeats(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """After what the clients sent a call again: their callers see nothing of it."""
    found: Counter[str] = Counter()
    real = Attempts.pause_after

    def pause_after(attempts: Attempts, error: RuntimeStoreError) -> float | None:
        pause = real(attempts, error)
        if pause is not None:
            found[f"repeated_after_{error.code.name if isinstance(error, CallFailed) else error.reason}".lower()] += 1
        return pause

    monkeypatch.setattr(Attempts, "pause_after", pause_after)
    return found


class _Load:
    """Runtimes that live one turn after the other through both clients, with their default settings."""

    def __init__(self, addresses: Sequence[str], trial: Trial, repeats: Counter[str]) -> None:
        self._trial = trial
        self._repeats = repeats
        # A server that starts beside busy ones takes seconds: the short form leaves it some of the processor.
        self._pause_seconds = 0.0 if trial.long else 0.1
        self._stack = ExitStack()
        self._by_tasks = AsyncRuntimeStoreClient(addresses)
        self._by_threads = threaded(self._stack.enter_context(RuntimeStoreClient(addresses)))
        self._stopping = False
        self._lives: list[asyncio.Task[None]] = []
        self.turns: Counter[str] = Counter()
        """How many turns of each runtime were acknowledged."""
        self._replayed = 0
        self._failures: list[RuntimeStoreError] = []

    async def __aenter__(self) -> Self:
        stores = [self._by_tasks] * BY_TASKS + [self._by_threads] * BY_THREADS
        self._lives = [asyncio.create_task(self._live(store, f"rt:{number}")) for number, store in enumerate(stores)]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopping = True
        if kind:
            for life in self._lives:
                life.cancel()
        ended = await asyncio.gather(*self._lives, return_exceptions=True)
        await self._by_tasks.close()
        self._stack.close()
        self._trial.record(
            writes=self.turns.total(), replayed=self._replayed, failures=len(self._failures), **self._repeats
        )
        if not kind:
            assert self._failures == []
            assert ended == [None] * len(self._lives)

    async def go_on(self) -> None:
        """Wait until each has lived two more turns: the first may have been under way before."""
        wanted = {f"rt:{number}": self.turns[f"rt:{number}"] + 2 for number in range(len(self._lives))}
        async with asyncio.timeout(PATIENCE_SECONDS):
            while any(self.turns[runtime_id] < turn for runtime_id, turn in wanted.items()):
                await asyncio.sleep(POLL_SECONDS)
                assert not any(life.done() for life in self._lives), (self._failures, self._lives)

    async def _live(self, store: AsyncRuntimeStoreClient, runtime_id: str) -> None:
        while not self._stopping:
            turn = self.turns[runtime_id] + 1
            body = session(f"{runtime_id}, turn {turn}" + "x" * (LARGE if turn % LARGE_EVERY == 0 else 0))
            try:
                # Without if_revision, so that a write that happened twice would pass, and be seen in the revision.
                commit = await store.atomic_apply(runtime_id, body, receipt(), [input_state(str(turn))])
                assert commit.revision == turn
                self.turns[runtime_id] = turn
                self._replayed += commit.replayed
                assert await store.load_session_snapshot_with_revision(runtime_id) == (body, turn)
            except RuntimeStoreError as failure:
                self._failures.append(failure)
                return
            await asyncio.sleep(self._pause_seconds)


async def _restart(servers: ExitStack, old: ServerProcess, url: str) -> ServerProcess:
    old.terminate()
    assert await asyncio.to_thread(old.wait) == 0, old.log
    return await asyncio.to_thread(servers.enter_context, ServerProcess(url, listen=old.address))


def _stored(url: str) -> tuple[dict[str, int], dict[str, int]]:
    """The revision of each runtime, and how many receipts it has."""
    database = open_database(url, committer_threads=1, reader_threads=1)
    receipts = sa.select(tables.receipts.c.runtime_id, sa.func.count()).group_by(tables.receipts.c.runtime_id)
    with database.readers.connect() as connection:
        found = connection.execute(sa.select(tables.runtimes.c.runtime_id, tables.runtimes.c.revision)).all()
        counted = connection.execute(receipts).all()
    database.dispose()
    return {row[0]: row[1] for row in found}, {row[0]: row[1] for row in counted}


async def _writes_taken(address: str) -> int:
    async with AsyncRuntimeStoreClient(address) as one:
        return (await one.get_server_info()).commits.writes


async def test_three_servers_restarted_one_after_the_other_fail_no_call_and_write_nothing_twice(
    postgres_cluster: Cluster, trial: Trial, repeats: Counter[str]
) -> None:
    url = postgres_cluster.fresh_database()
    rounds = trial.rounds(short=1, long=10)
    with ExitStack() as servers:
        running = [servers.enter_context(ServerProcess(url)) for _ in range(3)]
        async with _Load([server.address for server in running], trial, repeats) as load:
            for _ in range(rounds):
                for position, old in enumerate(running):
                    await load.go_on()
                    await asyncio.sleep(trial.random.uniform(0, 0.3))
                    running[position] = await _restart(servers, old, url)
            async with asyncio.timeout(PATIENCE_SECONDS):
                # Every one of them is found again, also the one that was away last.
                while not all([await _writes_taken(server.address) for server in running]):
                    await load.go_on()
    trial.record(restarts=3 * rounds)
    revisions, receipts = _stored(url)
    assert revisions == receipts == dict(load.turns)
    postgres_cluster.drop(url)


@pytest.mark.needs(DURABLE)
async def test_one_server_restarted_under_load_fails_no_call_and_writes_nothing_twice(
    fresh_url: str, trial: Trial, repeats: Counter[str]
) -> None:
    rounds = trial.rounds(short=1, long=10)
    with ExitStack() as servers:
        server = servers.enter_context(ServerProcess(fresh_url))
        async with _Load([server.address], trial, repeats) as load:
            for _ in range(rounds):
                await load.go_on()
                await asyncio.sleep(trial.random.uniform(0, 0.4))
                server = await _restart(servers, server, fresh_url)
            await load.go_on()
    trial.record(restarts=rounds)
    assert repeats, "nobody met the server while it was away"
    revisions, receipts = _stored(fresh_url)
    assert revisions == receipts == dict(load.turns)
