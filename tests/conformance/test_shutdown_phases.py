"""How the time of a drain is shared between its phases."""

from __future__ import annotations

import time
from typing import Any
from unittest.mock import MagicMock

import pytest

from runtimestore_server.shutdown import CROSSING_SECONDS, NO_RETRIES_SECONDS, Shutdown, reached


@pytest.mark.parametrize("seconds", [0.0, 0.5, 3.0, 30.0, 600.0])
def test_the_first_phases_share_all_the_time_and_that_without_retries_has_no_more_than_half(seconds: float) -> None:
    part: Any = MagicMock()
    shutdown = Shutdown(health=part, calls=part, limiters=part, workers=part, store=part, server=part)

    finish, no_retries, answer = shutdown.phases(seconds)

    assert [finish.name, no_retries.name, answer.name] == ["finish", "no retries", "answer"]
    assert finish.at_most_seconds + no_retries.at_most_seconds == pytest.approx(seconds)
    assert no_retries.at_most_seconds == min(NO_RETRIES_SECONDS, seconds / 2)
    assert answer.at_most_seconds == CROSSING_SECONDS


async def test_a_condition_is_waited_for_until_it_has_held_as_long_as_it_must() -> None:
    started = time.monotonic()
    assert await reached(lambda: time.monotonic() - started > 0.05, within_seconds=20, for_seconds=0.1)
    assert time.monotonic() - started >= 0.15


async def test_a_condition_that_does_not_hold_is_waited_for_no_longer_than_its_time() -> None:
    started = time.monotonic()
    assert not await reached(lambda: False, within_seconds=0.05)
    assert 0.05 <= time.monotonic() - started < 10
