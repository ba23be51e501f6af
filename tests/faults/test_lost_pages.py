"""Syncs that fail, on a disk that then has lost what was not synced: an acknowledgement still holds."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from runtimestore import CommitOutcomeUnknown, StoreUnavailable
from runtimestore_server.store.engines.sqlite_driver import sqlite3
from runtimestore_server.store.schema import upgrade
from support.checkers.clean_up import until
from support.faults.lost_pages import LostPages
from support.faults.preload import compiled
from support.generators.calls import Store, input_of
from support.generators.documents import new_id
from support.generators.turns import ONCE, Turns, counted, refusals
from support.servers.server import ServerProcess, in_process

if TYPE_CHECKING:
    from pathlib import Path

    from support.checkers.torture import Trial

MOST_TURNS = 20
"""In which a checkpoint is made that works: they write several times as much as it waits for."""


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compiled("lost_pages.c", tmp_path_factory.mktemp("library"))


@pytest.fixture
def database(tmp_path: Path) -> Path:
    file = tmp_path / "store.db"
    upgrade(f"sqlite:///{file}")
    return file


@pytest.fixture
def disk(library: Path, database: Path) -> LostPages:
    return LostPages(library, database, database.parent / "disk")


def _server(database: Path, disk: LostPages) -> ServerProcess:
    server = ServerProcess(f"sqlite:///{database}")
    server._environment.update(disk.environment)
    return server


async def _check(url: str, writers: list[Turns]) -> None:
    """See that all that was acknowledged is in a database, and that SQLite finds nothing wrong with it."""
    async with in_process(url) as app, Store(app.address) as store:
        for writer in writers:
            await writer.check(store)
        with app.store.database.readers.connect() as connection:
            assert connection.exec_driver_sql("PRAGMA integrity_check").scalars().all() == ["ok"]


def _skip_unless_reached(disk: LostPages) -> None:
    """Called once something was written."""
    if not disk.syncs("w"):
        pytest.skip("this Python's SQLite cannot be reached by LD_PRELOAD")


@pytest.mark.usefixtures("runner")
async def test_a_write_whose_sync_fails_is_not_acknowledged_and_lands_once_syncs_work_again(
    database: Path, disk: LostPages
) -> None:
    runtime_id, request_id = "rt:sync", new_id()
    with _server(database, disk) as server:
        async with Store(server.address, retry=ONCE) as store:
            assert await store.persist_input_state(runtime_id, input_of("a")) == (1, False)
            _skip_unless_reached(disk)
            with disk.failing(log=True):
                for _ in range(3):
                    with pytest.raises((CommitOutcomeUnknown, StoreUnavailable)) as refused:
                        await store.persist_input_state(runtime_id, input_of("b"), request_id=request_id)
                    assert refused.value.store_error == "write_failed"
                assert await store.load_input_states(runtime_id) == [input_of("a")]

            assert await store.persist_input_state(runtime_id, input_of("b"), request_id=request_id) == (2, False)
            assert await store.load_input_states(runtime_id) == [input_of("b")]
            server.kill()
    assert disk.syncs("W") >= 3

    async with in_process(disk.after_power_loss(database.parent / "after")) as app, Store(app.address) as store:
        assert await store.load_input_states(runtime_id) == [input_of("b")]


@pytest.mark.usefixtures("runner")
@pytest.mark.parametrize("last_checkpoint_by", ["the server", "the end of the server"])
async def test_a_checkpoint_whose_sync_fails_after_a_partial_one_loses_nothing(
    database: Path, disk: LostPages, last_checkpoint_by: str
) -> None:
    writer = Turns("rt:checkpoint", size_bytes=2_400_000)
    with _server(database, disk) as server:
        async with Store(server.address, retry=ONCE) as store:
            for _ in range(3):
                assert await writer.take(store)
            reader = sqlite3.connect(database)
            reader.execute("BEGIN")
            reader.execute("SELECT * FROM runtimes").fetchall()
            for _ in range(9):
                assert await writer.take(store)  # past 16 MiB: a checkpoint copies as much as the reader lets it
            reader.close()
            with disk.failing(database=True):
                assert await writer.take(store)  # the log is synced: this is durable
                await until(lambda: disk.syncs("D") >= 1)  # the checkpoint comes behind the answer
            if last_checkpoint_by == "the server":
                before = disk.syncs("d")
                for _ in range(MOST_TURNS):
                    assert await writer.take(store)
                    if disk.syncs("d") > before:
                        break
                assert disk.syncs("d") > before  # a checkpoint has worked
                for _ in range(3):
                    assert await writer.take(store)  # and the log is begun anew
                server.kill()
    assert disk.syncs("d") >= 1

    await _check(disk.after_power_loss(database.parent / "after"), [writer])


@pytest.mark.usefixtures("runner")
async def test_a_checkpoint_beside_the_commits_whose_sync_fails_loses_nothing(database: Path, disk: LostPages) -> None:
    large, small = Turns("rt:large", size_bytes=40_000_000), Turns("rt:small", size_bytes=20_000)
    with _server(database, disk) as server:
        async with Store(server.address, retry=ONCE) as store:
            assert await small.take(store)
            _skip_unless_reached(disk)
            with disk.failing(database=True):
                assert await large.take(store)
                await until(lambda: disk.syncs("D") >= 1)
                assert await small.take(store)
            for _ in range(3):
                assert await small.take(store)
            server.kill()

    await _check(disk.after_power_loss(database.parent / "after"), [large, small])


@pytest.mark.usefixtures("runner")
@pytest.mark.parametrize("afterwards", ["a checkpoint fails", "the server is killed"])
async def test_nothing_is_lost_behind_a_commit_whose_sync_failed(
    database: Path, disk: LostPages, afterwards: str
) -> None:
    """Its frames stay in the log, maybe in memory alone; nothing may count on them, and be acknowledged behind them."""
    kept, doubtful = Turns("rt:kept", size_bytes=2_400_000), Turns("rt:doubtful", size_bytes=300_000)
    with _server(database, disk) as server:
        async with Store(server.address, retry=ONCE) as store:
            assert await kept.take(store)
            _skip_unless_reached(disk)
            reader = sqlite3.connect(database)
            reader.execute("BEGIN")
            reader.execute("SELECT * FROM runtimes").fetchall()
            for _ in range(9):
                assert await kept.take(store)  # past 16 MiB: a checkpoint is owed until the reader has gone
            with disk.failing(log=True):
                assert not await doubtful.take(store)
                failed = disk.syncs("W")
                reader.close()
                if afterwards == "the server is killed":
                    server.kill()
                else:
                    await until(lambda: disk.syncs("W") > failed)
            if afterwards == "a checkpoint fails":
                for _ in range(3):
                    assert await kept.take(store)
                server.kill()
    if afterwards == "the server is killed":
        with _server(database, disk) as server:
            async with Store(server.address, retry=ONCE) as store:
                for _ in range(3):
                    assert await kept.take(store)
                server.kill()

    await _check(disk.after_power_loss(database.parent / "after"), [kept])


@pytest.mark.usefixtures("runner")
async def test_what_was_acknowledged_survives_the_loss_of_power_whichever_syncs_have_failed(
    trial: Trial, tmp_path: Path, library: Path
) -> None:
    rounds, seconds = trial.rounds(short=2, long=40), trial.rounds(short=1, long=4)
    everybody: list[Turns] = []
    failed = partial_readers = 0
    reasons: set[str] = set()
    for number in range(rounds):
        folder = tmp_path / str(number)
        folder.mkdir()
        database = folder / "store.db"
        upgrade(f"sqlite:///{database}")
        disk = LostPages(library, database, folder / "disk")
        writers = [Turns(f"rt:{name}", size_bytes=trial.random.choice((500, 60_000, 300_000))) for name in range(6)]
        with _server(database, disk) as server:
            async with Store(server.address, retry=ONCE) as store:
                stop = asyncio.Event()
                writing = [asyncio.create_task(writer.go_on(store, stop)) for writer in writers]
                partial_readers += await _trouble(trial, disk, database, seconds)
                server.kill()  # with syncs failing or not, in the middle of whatever is done
                stop.set()
                await asyncio.gather(*writing)
        everybody += writers
        with counted(trial, everybody):
            await _check(disk.after_power_loss(folder / "after"), writers)
        failed += disk.syncs("DW")
        reasons |= set(refusals(writers))
    assert failed
    trial.record(
        rounds=rounds,
        failed_syncs=failed,
        readers_in_the_way=partial_readers,
        reasons=", ".join(sorted(reasons)),
    )


async def _trouble(trial: Trial, disk: LostPages, database: Path, seconds: float) -> int:
    """Let syncs fail and work again, and readers stand in the way of checkpoints; how many readers did."""
    loop, readers = asyncio.get_running_loop(), 0
    end = loop.time() + seconds
    while loop.time() < end:
        disk.fail(database=trial.random.random() < 0.5, log=trial.random.random() < 0.3)
        reader = sqlite3.connect(database)
        try:
            if trial.random.random() < 0.5:
                reader.execute("BEGIN")
                reader.execute("SELECT * FROM runtimes").fetchall()
                readers += 1
            await asyncio.sleep(trial.random.uniform(0.02, 0.3))
        finally:
            reader.close()
    if trial.random.random() < 0.5:
        disk.fail(database=False, log=False)
        await asyncio.sleep(trial.random.uniform(0.0, 0.3))
    return readers
