"""Whoever gives a call up, by deadline, by cancelling or by hanging up, leaves a whole write or nothing."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING

import pytest

from support.checkers.clean_up import open_connections, tasks_left, threads_left, until
from support.checkers.footprint import handles, pid_of, settled, unfinished_transactions, with_spares
from support.faults.impatience import Callers
from support.servers.engines import DURABLE
from support.servers.server_process import ServerProcess

if TYPE_CHECKING:
    from runtimestore_server.app import Application
    from support.checkers.torture import Trial


PATIENCE_DOUBLES = 6
"""How often at most: to more than a second."""


async def _give_up(callers: Callers, trial: Trial, *, short: int, long: int) -> None:
    calls = trial.rounds(short=short, long=long)
    await callers.give_up(calls, "deadline")
    await callers.give_up(calls, "cancelled")
    await callers.give_up(calls // 5, "hung up")
    for _ in range(PATIENCE_DOUBLES):
        if callers.count("landed"):
            break
        callers.longest_seconds *= 2  # on a machine that is slow just now, nobody waited for long enough
        await callers.give_up(calls, "cancelled")
    trial.record(**callers.found)
    # Else the test would not be what it is called: everybody was answered in time, or nobody was.
    for what in ("gave up", "landed"):
        assert callers.count(what), callers.found


async def test_a_call_that_was_given_up_leaves_no_connection_no_thread_no_task_and_no_count(
    app: Application, realm: str, trial: Trial
) -> None:
    callers = Callers(app.address, realm, trial)
    await callers.prepare()
    # So that every thread that serves is there; the one that looks after health comes some seconds later by itself.
    await callers.give_up(40, "cancelled")
    await app._check()
    tasks, threads = asyncio.all_tasks(), threading.enumerate()

    await _give_up(callers, trial, short=40, long=500)

    database = app.store.database
    assert await open_connections((database.writers.pool, database.readers.pool)) == 0
    assert await tasks_left(tasks) == set()
    assert await threads_left(threads) == set()
    await until(lambda: not app.store.busy)
    await until(lambda: app.calls.in_flight == 0)
    assert (app.store.budget.bytes, app.workers.budget.bytes, app.sending.budget.bytes) == (
        0,
        0,
        0,
    )


@pytest.mark.needs(DURABLE)
async def test_a_call_that_was_given_up_leaves_the_whole_write_or_nothing_and_no_handle(
    fresh_url: str, realm: str, trial: Trial
) -> None:
    with ServerProcess(fresh_url) as server:
        pid = pid_of(server)
        callers = Callers(server.address, realm, trial)
        await callers.prepare()
        await callers.give_up(40, "hung up")
        baseline = handles(pid, fresh_url)

        await _give_up(callers, trial, short=40, long=5000)

        bounds = with_spares(baseline)
        left = settled(pid, fresh_url, bounds)
        trial.record(**{f"{name} before": count for name, count in baseline._asdict().items()})
        trial.record(**{f"{name} after": count for name, count in left._asdict().items()})
        assert all(now <= bound for now, bound in zip(left, bounds, strict=True)), (left, bounds)
        assert unfinished_transactions(fresh_url) == 0
        assert "call failed" not in server.log, server.log
