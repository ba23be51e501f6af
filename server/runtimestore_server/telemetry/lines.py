"""Bounds how many lines of one kind the log takes in a second; what is left out is counted, and told."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from typing import TYPE_CHECKING

import structlog

if TYPE_CHECKING:
    from collections.abc import Callable

_log = structlog.get_logger(__name__)


class LineLimit:
    """Lets so many lines a second through for each reason; used on the event loop.

    Args:
        per_second: how many.
        clock: in seconds.
    """

    def __init__(self, per_second: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_second = per_second
        self._clock = clock
        self._second = 0.0
        self._written: Counter[str] = Counter()
        self._left_out: Counter[str] = Counter()
        self.left_out: Counter[str] = Counter()
        """By reason, since the start."""

    def lets_through(self, reason: str) -> bool:
        """Tell whether one more line about this reason may be written now; else it is counted, and reported later."""
        now = self._clock()
        if now - self._second >= 1.0:
            self.tell()
            self._second = now
            self._written.clear()
        self._written[reason] += 1
        if self._written[reason] <= self._per_second:
            return True
        if not self._left_out:
            with contextlib.suppress(RuntimeError):  # without a loop it is told with the next line
                asyncio.get_running_loop().call_later(1.0, self.tell)
        self._left_out[reason] += 1
        self.left_out[reason] += 1
        return False

    def tell(self) -> None:
        """Write what was left out since it was told last: a line for each reason."""
        told, self._left_out = self._left_out, Counter()
        for reason, lines in sorted(told.items()):
            _log.info("lines left out", reason=reason, lines=lines)
