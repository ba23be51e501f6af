"""SIGKILL at every step of the write path and at any moment under load: nothing acknowledged is missing, no half."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import signal
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
import pytest
import sqlalchemy as sa

from runtimestore import RetryPolicy, RuntimeStoreError
from runtimestore_server.store import tables
from runtimestore_server.store.digests import sealed_flow
from runtimestore_server.store.engines import open_database
from runtimestore_server.store.engines.sqlite_driver import sqlite3
from support.generators.calls import Store, id_of
from support.generators.lives import Life
from support.servers.engines import DURABLE
from support.servers.zygote import Zygote

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy.engine import Connection

    from support.checkers.torture import Trial
    from support.servers.engines import Engine
    from support.servers.zygote import ForkedServer

ONCE = RetryPolicy(max_attempts=1)
LIVES = 6
ACQUIRING = 2
"""How many of them acquire their runtime before each turn, where there is a server to ask."""

SETTLE_SECONDS = 30
ROUNDS_A_DATABASE = 50
"""Then a fresh one, and fresh lives, so that looking at everything stays quick."""


@pytest.fixture(scope="module")
def zygote() -> Iterator[Zygote]:
    # A path for sockets has to be short.
    with tempfile.TemporaryDirectory(prefix="rs-") as folder, Zygote(Path(folder)) as found:
        yield found


@dataclass
class _Broken:
    """What no crash may do, counted."""

    lost: int = 0
    """Acknowledged and not there."""
    strange: int = 0
    """There, and never asked for."""
    halves: int = 0
    """In some tables, and not, or otherwise, in others."""

    def add(self, stored: int, at_least: int, at_most: int) -> None:
        """Count a number that is stored against those that it may be."""
        self.lost += max(0, at_least - stored)
        self.strange += max(0, stored - at_most)

    def recorded(self, trial: Trial, **figures: int) -> None:
        """All of it is nothing, and in the report."""
        trial.record(lost=self.lost, strange=self.strange, halves=self.halves, **figures)
        assert self == _Broken()


def _landed(url: str, realm: str, turns: Counter[Life], *, unanswered: int, broken: _Broken) -> dict[Life, int]:
    """How many turns of each life are there after a crash; those acknowledged, and at most so many more."""
    database = open_database(url, committer_threads=1, reader_threads=1)
    landed: dict[Life, int] = {}
    try:
        with database.readers.connect() as connection:
            for life, turn in turns.items():
                found = life.look(connection, realm, at_least=turn, at_most=turn + unanswered)
                broken.add(found.turns, turn, turn + unanswered)
                broken.halves += found.halves
                landed[life] = found.turns
    finally:
        database.dispose()
    return landed


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
    broken = _Broken()
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
        unanswered = min(1, 2 - died["acknowledged"])
        landed = _landed(url, realm, acknowledged, unanswered=unanswered, broken=broken)
        broken.halves += len(set(landed.values())) - 1  # a batch is one transaction
        broken.recorded(trial, killed=killed)
        turns = Counter(landed)
        if died["status"]:
            killed += 1
            kept += landed != acknowledged
            within += soon is not None
    engine.drop(url)
    broken.recorded(trial, killed=killed, steps=steps, killed_at_or_after_commit=within, unanswered_but_whole=kept)


@dataclass
class _Acknowledged:
    """What was answered, and how far beyond it a restarted server may be: by what was under way when it was killed."""

    turns: Counter[Life]
    fences: Counter[Life] = field(default_factory=Counter)
    """Of the lives that acquire their runtime before each turn."""
    oauth_version: int = 0

    def total(self) -> int:
        """How many calls were acknowledged."""
        return self.turns.total() + self.fences.total() + self.oauth_version

    def found(self, url: str, realm: str, broken: _Broken) -> int:
        """Look at what is there, and count what is wrong; how much of what was not acknowledged is there."""
        before = self.total()
        self.turns = Counter(_landed(url, realm, self.turns, unanswered=1, broken=broken))
        database = open_database(url, committer_threads=1, reader_threads=1)
        try:
            with database.readers.connect() as connection:
                self._found_fences(connection, realm, broken)
                self._found_oauth(connection, realm, broken)
        finally:
            database.dispose()
        return self.total() - before

    def _found_fences(self, connection: Connection, realm: str, broken: _Broken) -> None:
        table = tables.fences
        rows = connection.execute(sa.select(table.c.runtime_id, table.c.fence).where(table.c.realm == realm)).all()
        stored = {row.runtime_id: row.fence for row in rows}
        for life in list(self.turns)[:ACQUIRING]:
            fence = stored.get(life.runtime_id, 0)
            broken.add(fence, self.fences[life], self.fences[life] + 1)
            self.fences[life] = fence

    def _found_oauth(self, connection: Connection, realm: str, broken: _Broken) -> None:
        table = tables.oauth_flow_snapshots
        row = connection.execute(sa.select(table).where(table.c.realm == realm)).one_or_none()
        version = row.version if row else 0
        broken.add(version, self.oauth_version, self.oauth_version + 1)
        if row:
            body = _oauth_body(version)
            digest = sealed_flow(sha256(body).digest(), version)
            broken.halves += (row.snapshot_json, row.sha256) != (body, digest)
        self.oauth_version = version


def _oauth_body(version: int) -> bytes:
    return b"OAuth flows, version %d" % version


@pytest.mark.needs(DURABLE)
async def test_a_server_killed_at_any_moment_under_load_leaves_what_it_acknowledged_and_no_half(
    engine: Engine, zygote: Zygote, trial: Trial, realm: str
) -> None:
    rounds = trial.rounds(short=4, long=400)
    url, known = engine.fresh_url(), _Acknowledged(_fresh(0))
    acknowledged = kept = 0
    broken = _Broken()
    for number in range(rounds):
        if number % ROUNDS_A_DATABASE == ROUNDS_A_DATABASE - 1:
            await asyncio.to_thread(engine.drop, url)
            url, known = engine.fresh_url(), _Acknowledged(_fresh(number))
        server = await asyncio.to_thread(zygote.serve, url)
        if number % 10 == 9:
            await asyncio.sleep(trial.random.uniform(0, 0.1))  # in the middle of its start
            await asyncio.to_thread(server.kill)
        else:
            await asyncio.to_thread(server.wait_until_it_serves)
            before = known.total()
            await _under_load(server, realm, known, seconds=trial.random.uniform(0, 0.15))
            acknowledged += known.total() - before

        await asyncio.to_thread(_sound, engine, url)
        kept += await asyncio.to_thread(known.found, url, realm, broken)
        broken.recorded(trial, rounds=number + 1, acknowledged=acknowledged, unanswered_but_whole=kept)
    await asyncio.to_thread(engine.drop, url)


async def _under_load(server: ForkedServer, realm: str, known: _Acknowledged, *, seconds: float) -> None:
    """Everybody writes on, beginning with the call whose answer was lost, until the server is killed."""

    async def write(store: Store, life: Life, *, acquiring: bool) -> None:
        while True:
            if acquiring:
                fence = (await store.acquire_runtime(life.runtime_id, "somebody")).fence
                assert fence == known.fences[life] + 1, f"fence {fence} after {known.fences[life]}"
                known.fences[life] = fence
            commit = await life.send(store, known.turns[life] + 1)
            assert commit.revision == known.turns[life] + 1
            known.turns[life] += 1

    async def replace(store: Store) -> None:
        while True:
            version = known.oauth_version + 1
            sent = store.persist_auth_oauth_flow_snapshot(_oauth_body(version), request_id=id_of(f"{realm} {version}"))
            assert (await sent).version == version
            known.oauth_version = version

    async with Store(server.address, realm=realm, retry=ONCE) as store:
        writing = [
            asyncio.create_task(write(store, life, acquiring=position < ACQUIRING))
            for position, life in enumerate(known.turns)
        ]
        writing.append(asyncio.create_task(replace(store)))
        await asyncio.wait(writing, timeout=seconds)
        await asyncio.to_thread(server.kill)
        for ended in await asyncio.gather(*writing, return_exceptions=True):
            assert isinstance(ended, RuntimeStoreError), ended
