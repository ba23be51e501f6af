"""Repeats of a measurement, as many as there is time for."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


def repeats(most: int, within_seconds: float | None = None) -> Iterator[int]:
    """The numbers of the rounds, from 1: the first always, a further one while it will probably end in time."""
    started, longest = time.monotonic(), 0.0
    for number in range(1, most + 1):
        begun = time.monotonic()
        if number > 1 and within_seconds is not None and begun - started + longest > within_seconds:
            return
        yield number
        longest = max(longest, time.monotonic() - begun)
