"""How the time of a drain is shared between its phases."""

from __future__ import annotations

import math
import time
from typing import Any
from unittest.mock import MagicMock

import pytest

from runtimestore_server.shutdown import (
    CROSSING_SECONDS,
    LAST_BYTES_SECONDS,
    LAST_SECONDS,
    NO_RETRIES_SECONDS,
    Shutdown,
    reached,
)


@pytest.mark.parametrize("seconds", [0.0, 0.5, 3.0, 30.0, 600.0])
def test_the_phases_share_all_the_time_and_that_without_retries_has_no_more_than_half(seconds: float) -> None:
    part: Any = MagicMock()
    shutdown = Shutdown(health=part, calls=part, limiters=part, workers=part, store=part, server=part)

    phases = {phase.name: phase for phase in shutdown.phases(seconds)}
    assert list(phases) == ["tell", "finish", "no retries", "answer", "disconnect", "close", "spans"]
    last_seconds = min(LAST_SECONDS, seconds / 4)
    no_retries = phases["no retries"]
    assert no_retries.leaves_seconds == last_seconds
    assert no_retries.at_most_seconds == min(NO_RETRIES_SECONDS, (seconds - last_seconds) / 2)
    assert phases["finish"].at_most_seconds == math.inf
    assert phases["finish"].leaves_seconds == pytest.approx(last_seconds + no_retries.at_most_seconds)
    assert phases["answer"].at_most_seconds == CROSSING_SECONDS
    assert (phases["disconnect"].at_most_seconds, phases["disconnect"].leaves_seconds) == (LAST_BYTES_SECONDS, 0.0)


async def test_a_condition_is_waited_for_until_it_has_held_as_long_as_it_must() -> None:
    started = time.monotonic()
    assert await reached(lambda: time.monotonic() - started > 0.05, within_seconds=20, for_seconds=0.1)
    assert time.monotonic() - started >= 0.15


async def test_a_condition_that_does_not_hold_is_waited_for_no_longer_than_its_time() -> None:
    started = time.monotonic()
    assert not await reached(lambda: False, within_seconds=0.05)
    assert 0.05 <= time.monotonic() - started < 10
