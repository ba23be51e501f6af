"""A server that finds a backlog to forget: days without a server, or a lowered retention."""

from __future__ import annotations

import asyncio
import contextlib
import statistics
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from runtimestore_server.store.engines import open_database
from runtimestore_server.store.engines.checkpoints import WARNED_LOG_BYTES
from support.generators.backlog import insert_backlog, size_of_backlog
from support.generators.calls import Store, input_of
from support.generators.turns import ONCE
from support.servers.engines import DURABLE, Sqlite
from support.servers.server import ServerProcess

if TYPE_CHECKING:
    from support.checkers.torture import Trial
    from support.servers.engines import Engine

WRITERS = 4

pytestmark = pytest.mark.usefixtures("runner")


async def _write(store: Store, runtime_id: str, stop: asyncio.Event) -> list[float]:
    """Write until told to stop, each write once, with the client's own deadline; how long each took."""
    seconds = []
    while not stop.is_set():
        began = time.monotonic()
        await store.persist_input_state(runtime_id, input_of("a"))
        seconds.append(time.monotonic() - began)
    return seconds


async def _longest_log(log: Path, stop: asyncio.Event) -> int:
    longest = 0
    while not stop.is_set():
        with contextlib.suppress(FileNotFoundError):
            longest = max(longest, log.stat().st_size)  # noqa: ASYNC240  (one system call)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), 0.01)
    return longest


@pytest.mark.needs(DURABLE)
async def test_no_write_fails_while_a_backlog_is_forgotten_and_the_log_stays_short(
    trial: Trial, engine: Engine, fresh_url: str
) -> None:
    backlog = trial.rounds(short=5000, long=1_000_000)
    # To forget takes a while to begin; what there is without it is a figure for the report.
    seconds = trial.rounds(short=2, long=90)
    seconds_without = seconds if trial.long else 0.2
    log = Path(f"{fresh_url.removeprefix('sqlite:///')}-wal")  # on Postgres it is Postgres' own, and the path of none

    async def measured(store: Store, seconds: float) -> tuple[list[float], int]:
        stop = asyncio.Event()
        asyncio.get_running_loop().call_later(seconds, stop.set)
        watching = asyncio.create_task(_longest_log(log, stop))
        took = await asyncio.gather(*(_write(store, f"rt:{number}", stop) for number in range(WRITERS)))
        return sorted(second for of_one in took for second in of_one), await watching

    with ServerProcess(fresh_url) as server:
        async with Store(server.address, retry=ONCE) as store:
            without, _ = await measured(store, seconds_without)
    database = open_database(fresh_url, committer_threads=1, reader_threads=1)
    if isinstance(engine, Sqlite):
        with database.writers.connect() as connection:
            connection.exec_driver_sql("PRAGMA cache_size = -400000")  # else a million would be written many times over
    insert_backlog(database, backlog)
    database.tidy()  # the log of the backlog itself is not what is asked about
    with ServerProcess(fresh_url) as server:
        async with Store(server.address, retry=ONCE) as store:
            during, longest = await measured(store, seconds)
            left = size_of_backlog(database)
    database.dispose()

    trial.record(
        backlog=backlog,
        forgotten_a_second=round((backlog - left) / seconds),
        p99_ms_without=round(1000 * statistics.quantiles(without, n=100)[98], 1),
        p99_ms_with=round(1000 * statistics.quantiles(during, n=100)[98], 1),
        slowest_ms_without=round(1000 * without[-1], 1),
        slowest_ms_with=round(1000 * during[-1], 1),
        writes_a_second_without=round(len(without) / seconds_without),
        writes_a_second_with=round(len(during) / seconds),
        longest_log_mb=round(longest / 2**20, 1),
    )
    assert left < backlog
    assert during
    assert longest < WARNED_LOG_BYTES
