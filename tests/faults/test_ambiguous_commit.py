"""A connection to Postgres that dies at COMMIT: whatever the client is told is the truth."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from runtimestore import Commit, CommitOutcomeUnknown, DeadlineExceeded, RetryPolicy, StoreUnavailable
from runtimestore_server.store import commit_outcome
from runtimestore_server.store.engines import open_database
from support.checkers.clean_up import until
from support.faults.postgres_wire import Fate, PostgresWire
from support.generators.calls import Store
from support.generators.lives import Life
from support.servers.server import in_process

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from runtimestore_server.app import Application
    from runtimestore_server.store.engines import Database
    from support.checkers.torture import Trial
    from support.servers.postgres import Cluster

ONCE = RetryPolicy(max_attempts=1)
CUTS = (Fate.CUT_BEFORE, Fate.CUT_AT_ONCE, Fate.CUT_AFTER)


@contextlib.asynccontextmanager
async def _behind_a_wire(cluster: Cluster) -> AsyncIterator[tuple[Application, PostgresWire, Database]]:
    """A server that reaches its database by a proxy, the proxy, and the database itself."""
    url = cluster.fresh_database()
    database = open_database(url, committer_threads=1, reader_threads=1)
    try:
        async with PostgresWire(url) as wire, in_process(wire.url, committer_threads=2) as app:
            await until(
                lambda: wire.met[Fate.GO_ON] > 1
            )  # the first are maintenance's, which forgets and prunes at start
            try:
                yield app, wire, database
            finally:
                wire.released.set()
                wire.come_back()
    finally:
        database.dispose()
    cluster.drop(url)


async def _landed(database: Database, realm: str, life: Life, *, turn: int) -> int:
    """How many turns the database itself holds, each whole: `turn`, or all before it."""

    def look() -> int:
        with database.readers.connect() as connection:
            return life.landed(connection, realm, at_least=turn - 1, at_most=turn)

    return await asyncio.to_thread(look)


async def test_whatever_is_answered_to_a_write_whose_commit_was_cut_is_the_truth(
    postgres_cluster: Cluster, monkeypatch: pytest.MonkeyPatch, trial: Trial, realm: str
) -> None:
    wanted = trial.rounds(short=16, long=1000)
    lives = [Life(f"rt:{number}", identified=number != 0) for number in range(6)]
    turns = Counter(dict.fromkeys(lives, 1))
    answers: Counter[str] = Counter()
    untrue: list[str] = []
    async with (
        _behind_a_wire(postgres_cluster) as (app, wire, database),
        Store(app.address, realm=realm, retry=ONCE) as store,
    ):
        while wire.cuts < wanted:
            # One cut is mended by the server, two in a row may be refused, and one after which nobody can be asked
            # is where the truth cannot be had.
            wire.fates.extend(trial.random.choice(CUTS) for _ in range(trial.random.choice((1, 1, 2, 4))))
            wire.away_after_cut = trial.random.random() < 0.05
            # Long where the truth can be had, however busy the machine; short where it cannot.
            monkeypatch.setattr(commit_outcome, "UNKNOWN_LIMIT_SECONDS", 0.2 if wire.away_after_cut else 60)
            chosen = trial.random.sample(lives, trial.random.randint(1, len(lives)))
            told = await asyncio.gather(*(life.send(store, turns[life]) for life in chosen), return_exceptions=True)
            reachable = not wire.away
            wire.come_back()

            for life, answer in zip(chosen, told, strict=True):
                turn = turns[life]
                landed = await _landed(database, realm, life, turn=turn)
                answers[type(answer).__name__] += 1
                if isinstance(answer, Commit):
                    if (answer, landed) != (Commit(turn, replayed=False), turn):
                        untrue.append(f"{answer} of turn {turn}, and there are {landed}")
                else:
                    assert isinstance(answer, (StoreUnavailable, CommitOutcomeUnknown)), answer
                    if landed == turn and not isinstance(answer, CommitOutcomeUnknown):
                        untrue.append(f"{answer} of turn {turn}, and it was there after all")
                    assert not (reachable and isinstance(answer, CommitOutcomeUnknown)), "Postgres could be asked"
                    if life.identified or landed < turn:
                        again = await life.send(store, turn)
                        assert again == (turn, landed == turn)
                        assert await _landed(database, realm, life, turn=turn) == turn
                turns[life] += 1

        trial.record(
            **{fate.name.lower(): wire.met[fate] for fate in CUTS},
            cuts=wire.cuts,
            acknowledged=answers["Commit"],
            store_unavailable=answers["StoreUnavailable"],
            commit_outcome_unknown=answers["CommitOutcomeUnknown"],
            untrue_answers=len(untrue),
        )
        assert untrue == []


async def test_with_the_default_client_no_cut_at_commit_comes_to_light(
    postgres_cluster: Cluster, trial: Trial, realm: str
) -> None:
    wanted = trial.rounds(short=10, long=300)
    lives = [Life(f"rt:{number}") for number in range(4)]
    turn = 0
    errors: list[BaseException] = []
    async with _behind_a_wire(postgres_cluster) as (app, wire, database), Store(app.address, realm=realm) as store:
        while wire.cuts < wanted:
            turn += 1
            wire.fates.extend(trial.random.choice(CUTS) for _ in range(trial.random.randint(1, 3)))
            told = await asyncio.gather(*(life.send(store, turn) for life in lives), return_exceptions=True)
            errors += [answer for answer in told if isinstance(answer, BaseException)]
            trial.record(cuts=wire.cuts, writes=turn * len(lives), errors_seen=len(errors))
            assert errors == []
            assert [answer.revision for answer in told if isinstance(answer, Commit)] == [turn] * len(lives)
            for life in lives:
                assert await _landed(database, realm, life, turn=turn) == turn


async def test_a_write_whose_commit_is_not_answered_at_all_is_there_when_it_is_repeated(
    postgres_cluster: Cluster, trial: Trial, realm: str
) -> None:
    rounds = trial.rounds(short=2, long=30)
    life = Life("rt:frozen")
    async with (
        _behind_a_wire(postgres_cluster) as (app, wire, database),
        Store(app.address, realm=realm, retry=ONCE) as store,
    ):
        for turn in range(1, rounds + 1):
            wire.released.clear()
            wire.fates.append(Fate.HOLD)
            timeout_seconds = 0.3
            while wire.met[Fate.HOLD] < turn:  # on a busy machine a write may be given up before its COMMIT
                with pytest.raises(DeadlineExceeded):
                    await life.send(store, turn, timeout_seconds=timeout_seconds)
                timeout_seconds *= 2
            repeated = asyncio.create_task(life.send(store, turn))
            wire.released.set()
            assert await repeated == (turn, True)
            assert await _landed(database, realm, life, turn=turn) == turn
        assert wire.met[Fate.HOLD] == rounds
        trial.record(held_answers=rounds)


async def test_loads_whose_connection_is_cut_are_answered_all_the_same(postgres_cluster: Cluster, realm: str) -> None:
    life = Life("rt:read")
    async with (
        _behind_a_wire(postgres_cluster) as (app, wire, _),
        Store(app.address, realm=realm, retry=ONCE) as store,
    ):
        await life.send(store, 1)
        for _ in range(3):
            wire.cut_all()
            assert (await store.load_session_snapshot_with_revision("rt:read")).revision == 1
