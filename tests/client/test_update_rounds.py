"""The rounds of an update of the OAuth flow snapshot go on for as long as the deadline leaves time for one."""

from __future__ import annotations

import itertools
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from runtimestore import RetryPolicy, _retry
from runtimestore._retry import Deadline, UpdateRounds
from runtimestore.errors import DeadlineExceeded, OAuthFlowSnapshotChanged

if TYPE_CHECKING:
    from collections.abc import Iterator

LOST = OAuthFlowSnapshotChanged("changed")
ROUND_SECONDS = 0.3


class Clock:
    """The time as the client sees it."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        """Tell it."""
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Time that passes when a test says so."""
    found = Clock()
    monkeypatch.setattr(_retry, "time", SimpleNamespace(monotonic=found.monotonic))
    return found


def lost_rounds(rounds: UpdateRounds, clock: Clock) -> Iterator[float]:
    """Lose round after round; the pause after each."""
    while True:
        clock.now += ROUND_SECONDS
        pause = rounds.pause_after(LOST)
        yield pause
        clock.now += pause


@pytest.mark.parametrize("timeout_seconds", [0.5, 1.0, 3.0, 30.0])
def test_no_round_is_given_up_for_which_time_is_left(clock: Clock, timeout_seconds: float) -> None:
    for _ in range(200):
        deadline = Deadline(timeout_seconds)
        with pytest.raises(DeadlineExceeded, match="nothing was written"):
            list(lost_rounds(UpdateRounds(RetryPolicy(), deadline), clock))
        assert deadline.left_seconds() <= ROUND_SECONDS + 1e-6


def test_the_pause_grows_with_the_rounds_that_were_lost_up_to_that_of_the_policy(clock: Clock) -> None:
    policy = RetryPolicy(max_backoff_seconds=3.0)
    lost = [list(itertools.islice(lost_rounds(UpdateRounds(policy, Deadline(1e6)), clock), 20)) for _ in range(200)]

    for number, pauses in enumerate(zip(*lost, strict=True), 1):
        most = min(3.0, 2 * number * ROUND_SECONDS)
        assert most / 2 < max(pauses) <= most
