"""When those who were refused should come back: spread over time, so that refusals alone never use the server up."""

from __future__ import annotations

import time

REFUSALS_PER_SECOND = 100
"""How many of those who were refused come back in a second. A refusal costs a good part of what serving a small call
costs; ten times the load that a server can take would leave it little time for anything else."""

SOONEST_SECONDS = 0.1
LATEST_SECONDS = 10.0
"""Beyond this no order can be kept: callers give up, and a server should not look dead to those who remain."""


class Comebacks:
    """Hands out times to come back at: one after the other while there are many, soon again when there are few."""

    def __init__(self) -> None:
        self._next = 0.0

    def seconds(self) -> float:
        """After how long one more caller should come back."""
        now = time.monotonic()
        self._next = min(max(self._next + 1 / REFUSALS_PER_SECOND, now + SOONEST_SECONDS), now + LATEST_SECONDS)
        return self._next - now
