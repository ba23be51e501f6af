"""How the time of a drain is shared between its phases."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from typing import Any
from unittest.mock import MagicMock

import pytest

from runtimestore import StoreUnavailable
from runtimestore_server import shutdown
from runtimestore_server.app import Application
from runtimestore_server.shutdown import (
    CROSSING_SECONDS,
    LAST_BYTES_SECONDS,
    LAST_SECONDS,
    LONGEST_CLOSE_SECONDS,
    NO_RETRIES_SECONDS,
    Shutdown,
)
from runtimestore_server.store import store
from runtimestore_server.supervision import CLOSE_SECONDS, reached
from support.checkers.clean_up import until
from support.servers.server import in_process, settings_of


@pytest.mark.parametrize("seconds", [0.0, 0.5, 3.0, 30.0, 600.0])
def test_the_phases_share_all_the_time_and_that_without_retries_has_no_more_than_half(seconds: float) -> None:
    part: Any = MagicMock()
    way = Shutdown(health=part, calls=part, limiters=part, workers=part, store=part, server=part)

    phases = {phase.name: phase for phase in way.phases(seconds)}
    assert list(phases) == ["tell", "finish", "no retries", "answer", "disconnect", "close", "spans"]
    last_seconds = min(LAST_SECONDS, seconds / 4)
    no_retries = phases["no retries"]
    assert no_retries.leaves_seconds == last_seconds
    assert no_retries.at_most_seconds == min(NO_RETRIES_SECONDS, (seconds - last_seconds) / 2)
    assert phases["finish"].at_most_seconds == math.inf
    assert phases["finish"].leaves_seconds == pytest.approx(last_seconds + no_retries.at_most_seconds)
    assert phases["answer"].at_most_seconds == CROSSING_SECONDS
    assert (phases["disconnect"].at_most_seconds, phases["disconnect"].leaves_seconds) == (LAST_BYTES_SECONDS, 0.0)
    close = phases["close"]
    assert (close.at_least_seconds, close.at_most_seconds) == (CLOSE_SECONDS, LONGEST_CLOSE_SECONDS)
    assert close.leaves_seconds == 0.0


async def test_threads_that_a_busy_machine_does_not_come_to_are_waited_for_within_the_grace_period(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for module in (shutdown, store):  # no machine comes to a thread in that time
        monkeypatch.setattr(module, "CLOSE_SECONDS", 0.0)
    async with in_process("memory:", grace_period_seconds=20.0) as app:
        pass
    assert app.ended


async def test_threads_that_a_database_keeps_are_left_behind_when_the_grace_period_is_over() -> None:
    kept = threading.Event()
    app = Application(settings_of("memory:", grace_period_seconds=0.2))
    try:
        async with app:
            asked = asyncio.create_task(app.workers.run(kept.wait))
            await until(lambda: app.workers.waiting == 1)
        assert not app.ended
        with pytest.raises(StoreUnavailable):
            await asked
    finally:
        kept.set()


async def test_a_condition_is_waited_for_until_it_has_held_as_long_as_it_must() -> None:
    started = time.monotonic()
    assert await reached(lambda: time.monotonic() - started > 0.05, within_seconds=20, for_seconds=0.1)
    assert time.monotonic() - started >= 0.15


async def test_a_condition_that_does_not_hold_is_waited_for_no_longer_than_its_time() -> None:
    started = time.monotonic()
    assert not await reached(lambda: False, within_seconds=0.05)
    assert 0.05 <= time.monotonic() - started < 10
