"""Tends a store between the writes: sweeps that delete or fold, a bounded slice at a time.

A slice is a transaction of its own that holds a commit thread for some ten milliseconds; what it wrote counts towards
the next checkpoint as writes do. While writes come, slices take a quarter of the thread's time at most.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Protocol

import structlog

from runtimestore_server.store.engines import Fault, error_name

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sqlalchemy.engine import Connection

    from runtimestore_server.store.engines import Database

    Sweep = Callable[[Connection, int], int]
    """Deletes no more rows than it is told, within `tx`; how many it did. Half as many or more: more may be left."""


class Sweeper(Protocol):
    """A sweep that remembers how far it has come."""

    @property
    def pending(self) -> bool:
        """Whether there is anything to do; asked from any thread."""

    def sweep(self, tx: Connection, most: int) -> int:
        """Do as a `Sweep` does; may be run again if its transaction is not committed."""

    def settle(self) -> None:
        """Take note that the transaction of the last sweep was committed."""


_log = structlog.get_logger(__name__)

ROUND_SECONDS = 60.0
"""How long a sweep rests that found little, or that failed."""

FOLD_SECONDS = 0.1
"""The same of folds; while there are many to make, the writes between have their turn."""

SLICE_SECONDS = 0.005
"""How long the statements of a slice are to take: the number of its rows follows from it. Its COMMIT comes to that,
which takes what a sync takes, however few the rows are."""

FEWEST_ROWS = 100
MOST_ROWS = 1000

BUSY_PAUSE = 3
"""While writes come, how many times as long as a slice took there is none."""

IDLE_PAUSE = 1
"""The same where no write came between two slices: other servers on the file want to write, too."""

OVERDUE_SECONDS = 0.05
"""How long a slice that is due is put off while writes wait."""

RETRY_PAUSE_SECONDS = 1.0
"""How long what failed rests: what the engine could not do after a commit, and a sweep that met what passes, such as
another server that holds SQLite's write lock."""

ROW_BYTES = 4096
"""About what a deleted row costs in a log: the page that it was on."""


class _Task:
    """A sweep, how much it may do at once, and when."""

    def __init__(self, sweep: Sweep, sweeper: Sweeper | None = None, round_seconds: float | None = None) -> None:
        self.sweep = sweep
        self.sweeper = sweeper
        self._round_seconds = round_seconds
        self.most = FEWEST_ROWS
        self.next_at = 0.0

    @property
    def round_seconds(self) -> float:
        """How long it rests when it found little."""
        return ROUND_SECONDS if self._round_seconds is None else self._round_seconds

    @property
    def pending(self) -> bool:
        """Whether there may be anything to do."""
        return self.sweeper is None or self.sweeper.pending

    def fit(self, rows: int, seconds: float) -> None:
        """Let the next slice take about as long as one should."""
        if seconds > SLICE_SECONDS:
            self.most = max(FEWEST_ROWS, self.most // 2)
        elif rows >= self.most and seconds < SLICE_SECONDS / 2:
            self.most = min(MOST_ROWS, self.most * 2)


class Maintenance:
    """The sweeps of a store, and what its engine puts off; run by one commit thread, which asks when."""

    def __init__(
        self, database: Database, sweeps: Sequence[Sweep], sweepers: Sequence[tuple[Sweeper, float]] = ()
    ) -> None:
        """`sweepers` come with how long each rests that found little, in seconds."""
        self._database = database
        self._tasks = [
            *(_Task(sweep) for sweep in sweeps),
            *(_Task(sweeper.sweep, sweeper, seconds) for sweeper, seconds in sweepers),
        ]
        self._tidy_at = 0.0
        self._was_untidy = False
        self._failing = False

    def pause_seconds(self, *, writes_wait: bool) -> float:
        """Tell how long there is nothing to do."""
        due = min((task.next_at for task in self._tasks if task.pending), default=float("inf"))
        untidy, was_untidy = self._database.untidy, self._was_untidy
        self._was_untidy = untidy
        if untidy:
            if not was_untidy:  # it is due from now on, and lets a queue of writes go first as a slice does
                self._tidy_at = max(self._tidy_at, time.monotonic())
            due = min(due, self._tidy_at)
        return max(0.0, due + OVERDUE_SECONDS * writes_wait - time.monotonic())

    def run(self, *, writes_came: bool) -> None:
        """Do one slice of what is due. Never raises: what failed is tried again."""
        now = time.monotonic()
        task = None
        try:
            if self._database.untidy and self._tidy_at <= now:
                self._tidy_at = now + RETRY_PAUSE_SECONDS
                self._database.tidy()
            elif due := [task for task in self._tasks if task.pending and task.next_at <= now]:
                task = min(due, key=lambda task: task.next_at)
                task.next_at = now + task.round_seconds  # whatever happens
                self._slice(task, BUSY_PAUSE if writes_came else IDLE_PAUSE)
        except Exception as error:  # noqa: BLE001  (whatever it is, the writes go on)
            transient = self._database.classify(error) is Fault.TRANSIENT
            if task:
                task.next_at = now + (RETRY_PAUSE_SECONDS if transient else ROUND_SECONDS)
            if not transient and not self._failing:
                self._failing = True
                _log.warning("maintenance failed; it is tried again", error=error_name(error))
        else:
            if self._failing:
                _log.info("maintenance works again")
            self._failing = False

    def _slice(self, task: _Task, pause: int) -> None:
        began = time.monotonic()
        most = task.most
        with self._database.writers.connect() as connection:
            self._database.check_identity()
            with connection.begin():
                rows = task.sweep(connection, most)
                task.fit(rows, time.monotonic() - began)
            if task.sweeper is not None:
                task.sweeper.settle()
            self._database.after_commit(connection, writes=0, carried_bytes=rows * ROW_BYTES)
        ended = time.monotonic()
        if 2 * rows >= most:
            task.next_at = ended + pause * (ended - began)
