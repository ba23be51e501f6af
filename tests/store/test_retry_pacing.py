"""Those who were refused come back one after the other."""

from __future__ import annotations

import itertools

import pytest

from runtimestore_server import budget
from runtimestore_server.budget import LATEST_SECONDS, REFUSALS_PER_SECOND, SOONEST_SECONDS, RetryPacing


class _Clock:
    now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> _Clock:
    found = _Clock()
    monkeypatch.setattr(budget, "time", found)
    return found


def test_of_many_who_are_refused_at_once_no_more_come_back_in_a_second_than_cost_little(clock: _Clock) -> None:
    found = RetryPacing()

    times = [clock.now + found.seconds() for _ in range(300)]

    assert times[0] == clock.now + SOONEST_SECONDS
    gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert gaps == pytest.approx([1 / REFUSALS_PER_SECOND] * 299)


def test_nobody_is_sent_away_for_longer_than_the_latest_time(clock: _Clock) -> None:
    found = RetryPacing()

    assert max(found.seconds() for _ in range(10_000)) == pytest.approx(LATEST_SECONDS)
    clock.now += LATEST_SECONDS
    assert found.seconds() == pytest.approx(SOONEST_SECONDS)


def test_a_single_one_who_is_refused_comes_back_soon(clock: _Clock) -> None:
    found = RetryPacing()
    for _ in range(5):
        assert found.seconds() == pytest.approx(SOONEST_SECONDS)
        clock.now += 1
