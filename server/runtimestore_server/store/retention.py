"""Decides which requests are past their retention; a clock that jumps ahead does not make them expire sooner.

Forgetting cannot be taken back: a request that is forgotten too soon is applied again when it is repeated. So time is
counted by the database's clock, which is one for all servers on it, but never faster than it passes here.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

import structlog

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

    from runtimestore_server.store.engines import Database

STEP_MS = 10_000
"""How far clocks may be apart, or a clock may be set, without a word in the log: it is not counted all the same."""

CATCH_UP = 20
"""Of the time that passes here, one part in so many is added while the database's clock is ahead: clocks that differ in
pace, or were set by a little, meet again, and one that is wrong gains next to nothing."""

_log = structlog.get_logger(__name__)


class Retention:
    """How long requests are remembered, as one server counts it.

    The first look at the database's clock is believed, since nothing else tells how long the store lay still; where the
    host has a clock of its own and the two differ, the earlier one is. After that a clock that jumps ahead makes
    nothing old. One that goes back is believed, so that its return is a jump ahead: what was recorded meanwhile bears
    a date that is too early.
    """

    def __init__(self, seconds: float) -> None:
        self._retention_ms = int(seconds * 1000)
        self._lock = threading.Lock()
        self._believed_ms: int | None = None
        """What time it was at the last look."""
        self._looked_at_ms = 0
        self._ahead = False

    def expired_before_ms(self, database: Database, connection: Connection) -> int:
        """Tell before when what was recorded is past its retention."""
        return self.now_ms(database, connection) - self._retention_ms

    def now_ms(self, database: Database, connection: Connection) -> int:
        """Tell what time it is, as far as the database's clock is believed."""
        now_ms = database.now_ms(connection)
        with self._lock:
            return self._believed(database, now_ms)

    def _believed(self, database: Database, now_ms: int) -> int:
        here_ms = _passed_ms()
        passed_ms, self._looked_at_ms = here_ms - self._looked_at_ms, here_ms
        if self._believed_ms is None:
            ahead_ms = max(0, database.clocks_differ_ms(now_ms))
            self._believed_ms = now_ms - ahead_ms
        else:
            ahead_ms = max(0, now_ms - self._believed_ms - passed_ms)
            self._believed_ms = now_ms - ahead_ms + min(ahead_ms, passed_ms // CATCH_UP)
        if ahead_ms > STEP_MS and not self._ahead:
            _log.warning(
                "the database's clock is ahead of the time that has passed: nothing is forgotten for that; set it "
                "right before this server is started anew",
                ahead_seconds=ahead_ms // 1000,
            )
        self._ahead = ahead_ms > STEP_MS
        return self._believed_ms


def _passed_ms() -> int:
    """Tell the time that passed since some moment, that in which the machine slept included where it can be had."""
    clock = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
    return time.clock_gettime_ns(clock) // 1_000_000
