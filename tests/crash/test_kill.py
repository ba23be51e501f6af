"""SIGKILL at every step of the write path and at any moment under load: nothing acknowledged is missing, no half."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import signal
import sqlite3
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
import pytest

from runtimestore import RetryPolicy, RuntimeStoreError
from runtimestore_server.store.engines import open_database
from support.calls import Store
from support.engines import DURABLE
from support.lives import Life
from support.zygote import Zygote

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.engines import Engine
    from support.torture import Trial
    from support.zygote import ForkedServer

ONCE = RetryPolicy(max_attempts=1)
LIVES = 6
SETTLE_SECONDS = 30
ROUNDS_A_DATABASE = 50
"""Then a fresh one, and fresh lives, so that looking at everything stays quick."""


@pytest.fixture(scope="module")
def zygote() -> Iterator[Zygote]:
    # A path for sockets has to be short.
    with tempfile.TemporaryDirectory(prefix="rs-") as folder, Zygote(Path(folder)) as found:
        yield found


def _landed(url: str, realm: str, turns: Counter[Life], *, unanswered: int) -> dict[Life, int]:
    """How many turns of each life are there after a crash, each whole: those acknowledged, and at most so many more."""
    database = open_database(url, committer_threads=1, reader_threads=1)
    try:
        with database.readers.connect() as connection:
            return {
                life: life.landed(connection, realm, at_least=turn, at_most=turn + unanswered)
                for life, turn in turns.items()
            }
    finally:
        database.dispose()


def _sound(engine: Engine, url: str) -> None:
    """The engine has noticed that its client died, and its own check of its file, where it has one, finds nothing."""
    if engine.name == "sqlite":
        with contextlib.closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    else:
        others = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
        deadline = time.monotonic() + SETTLE_SECONDS
        with psycopg.connect(url, autocommit=True) as connection:
            while connection.execute(others).fetchone() != (0,):
                assert time.monotonic() < deadline
                time.sleep(0.002)


def _fresh(number: int) -> Counter[Life]:
    """Lives that have not begun."""
    return Counter({Life(f"rt:{number}/{which}"): 0 for which in range(LIVES)})


@pytest.mark.needs(DURABLE)
def test_a_process_killed_at_any_step_of_a_write_leaves_what_it_acknowledged_and_no_half(
    engine: Engine, zygote: Zygote, trial: Trial, realm: str
) -> None:
    rounds = trial.rounds(short=6, long=600)
    url, turns = engine.fresh_url(), _fresh(0)
    names = [life.runtime_id for life in turns]
    plan = [dict.fromkeys(names, turn) for turn in (1, 2)]
    steps: int = zygote.commit(url, "counting", plan)["steps"]
    killed = kept = within = 0
    for number in itertools.count():
        if killed == rounds:
            break
        if number % ROUNDS_A_DATABASE == ROUNDS_A_DATABASE - 1:
            engine.drop(url)
            url, turns = engine.fresh_url(), _fresh(number)
        # Two batches, the second one over what the first one left; any step of either is as good as any other.
        batches = [{life.runtime_id: turn + more for life, turn in turns.items()} for more in (1, 2)]
        soon = trial.random.uniform(0, 0.004) if number % 3 == 2 else None
        step = number % steps + 1 if soon is None else None
        died = zygote.commit(url, realm, batches, dies_at=step, dies_within_seconds=soon)
        # Some turns take a few steps less than the first ones, and some COMMITs are over in time: then nobody died.
        assert died["status"] == -signal.SIGKILL or died["acknowledged"] == 2, died

        _sound(engine, url)
        acknowledged = Counter({life: turn + died["acknowledged"] for life, turn in turns.items()})
        landed = _landed(url, realm, acknowledged, unanswered=min(1, 2 - died["acknowledged"]))
        assert len(set(landed.values())) == 1, "a batch is one transaction"
        turns = Counter(landed)
        if died["status"]:
            killed += 1
            kept += landed != acknowledged
            within += soon is not None
    engine.drop(url)
    trial.record(
        killed=killed, steps=steps, killed_at_or_after_commit=within, unanswered_but_whole=kept, lost=0, halves=0
    )


@pytest.mark.needs(DURABLE)
async def test_a_server_killed_at_any_moment_under_load_leaves_what_it_acknowledged_and_no_half(
    engine: Engine, zygote: Zygote, trial: Trial, realm: str
) -> None:
    rounds = trial.rounds(short=4, long=400)
    url, turns = engine.fresh_url(), _fresh(0)
    acknowledged = kept = 0
    for number in range(rounds):
        if number % ROUNDS_A_DATABASE == ROUNDS_A_DATABASE - 1:
            await asyncio.to_thread(engine.drop, url)
            url, turns = engine.fresh_url(), _fresh(number)
        server = await asyncio.to_thread(zygote.serve, url)
        if number % 10 == 9:
            await asyncio.sleep(trial.random.uniform(0, 0.1))  # in the middle of its start
            await asyncio.to_thread(server.kill)
        else:
            await asyncio.to_thread(server.wait_until_it_serves)
            before = turns.total()
            await _under_load(server, realm, turns, seconds=trial.random.uniform(0, 0.15))
            acknowledged += turns.total() - before

        await asyncio.to_thread(_sound, engine, url)
        landed = await asyncio.to_thread(_landed, url, realm, turns, unanswered=1)
        kept += Counter(landed).total() - turns.total()
    await asyncio.to_thread(engine.drop, url)
    trial.record(rounds=rounds, acknowledged=acknowledged, unanswered_but_whole=kept, lost=0, halves=0)


async def _under_load(server: ForkedServer, realm: str, turns: Counter[Life], *, seconds: float) -> None:
    """Every life writes on, beginning with the turn whose answer was lost, until the server is killed."""

    async def write(store: Store, life: Life) -> None:
        while True:
            commit = await life.send(store, turns[life] + 1)
            assert commit.revision == turns[life] + 1
            turns[life] += 1

    async with Store(server.address, realm=realm, retry=ONCE) as store:
        writing = [asyncio.create_task(write(store, life)) for life in turns]
        await asyncio.wait(writing, timeout=seconds)
        await asyncio.to_thread(server.kill)
        for ended in await asyncio.gather(*writing, return_exceptions=True):
            assert isinstance(ended, RuntimeStoreError), ended
