"""Servers that are restarted under load: no caller meets a failure, and no write happens twice."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import psycopg
import pytest

from runtimestore import AsyncRuntimeStoreClient
from support.documents import input_state, receipt, session
from support.engines import DURABLE
from support.server_process import ServerProcess

if TYPE_CHECKING:
    from support.postgres import Cluster
    from support.torture import Trial

RUNTIMES = 16

pytestmark = pytest.mark.usefixtures("runner")


@dataclass
class _Load:
    """Runtimes that live one turn after the other through a client, with its default settings."""

    store: AsyncRuntimeStoreClient
    turns: Counter[str] = field(default_factory=Counter)
    replayed: int = 0
    stop: asyncio.Event = field(default_factory=asyncio.Event)

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            for number in range(RUNTIMES):
                group.create_task(self._live(f"rt:{number}"))

    async def _live(self, runtime_id: str) -> None:
        while not self.stop.is_set():
            turn = self.turns[runtime_id] + 1
            body = session(f"{runtime_id}, turn {turn}")
            # Without if_revision, so that a write that happened twice would pass, and be seen in the revision.
            commit = await self.store.atomic_apply(runtime_id, body, receipt(), [input_state(str(turn))])
            assert commit.revision == turn
            self.turns[runtime_id] = turn
            self.replayed += commit.replayed
            assert await self.store.load_session_snapshot_with_revision(runtime_id) == (body, turn)


async def _restart(servers: ExitStack, old: ServerProcess, url: str) -> ServerProcess:
    old.terminate()
    assert await asyncio.to_thread(old.wait) == 0, old.log
    return await asyncio.to_thread(servers.enter_context, ServerProcess(url, listen=old.address))


async def test_three_servers_restarted_one_after_the_other_fail_no_call_and_write_nothing_twice(
    postgres_cluster: Cluster, trial: Trial
) -> None:
    url = postgres_cluster.fresh_database()
    rounds = trial.rounds(short=1, long=10)
    with ExitStack() as servers:
        running = [servers.enter_context(ServerProcess(url)) for _ in range(3)]
        async with AsyncRuntimeStoreClient([server.address for server in running]) as store:
            load = _Load(store)
            living = asyncio.create_task(load.run())
            for _ in range(rounds):
                for position, old in enumerate(running):
                    await asyncio.sleep(trial.random.uniform(0, 0.3))
                    running[position] = await _restart(servers, old, url)
                    assert not living.done(), living
            await asyncio.sleep(0.3)
            load.stop.set()
            await living
    with psycopg.connect(url) as connection:
        stored, receipts = (
            {str(runtime_id): int(count) for runtime_id, count in connection.execute(statement)}
            for statement in (
                "SELECT runtime_id, revision FROM runtimes",
                "SELECT runtime_id, count(*) FROM receipts GROUP BY 1",
            )
        )
    assert stored == receipts == dict(load.turns)
    trial.record(
        restarts=3 * rounds, writes=load.turns.total(), loads=load.turns.total(), replayed=load.replayed, failures=0
    )
    postgres_cluster.drop(url)


@pytest.mark.needs(DURABLE)
async def test_one_server_restarted_under_load_fails_no_call(fresh_url: str, trial: Trial) -> None:
    rounds = trial.rounds(short=1, long=10)
    with ExitStack() as servers:
        server = servers.enter_context(ServerProcess(fresh_url))
        async with AsyncRuntimeStoreClient(server.address) as store:
            load = _Load(store)
            living = asyncio.create_task(load.run())
            for _ in range(rounds):
                await asyncio.sleep(trial.random.uniform(0.1, 0.4))
                server = await _restart(servers, server, fresh_url)
                assert not living.done(), living
            await asyncio.sleep(0.3)
            load.stop.set()
            await living
            for runtime_id, turns in load.turns.items():
                assert (await store.load_session_snapshot_with_revision(runtime_id)).revision == turns
    trial.record(restarts=rounds, writes=load.turns.total(), replayed=load.replayed, failures=0)
