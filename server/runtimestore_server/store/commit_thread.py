"""A thread that commits pending writes, batch by batch, and defers those that have to wait for a row."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from typing import TYPE_CHECKING

from runtimestore_server.store.commit_gate import CommitStop
from runtimestore_server.store.engines import Fault
from runtimestore_server.store.pending_write import truth_about
from runtimestore_server.store.timeouts import (
    BRIEF_LOCK_SECONDS,
    DEFERRED_PAUSE_SECONDS,
    LINGER_COMMITS,
    LINGER_SECONDS,
    TRANSIENT_LIMIT_SECONDS,
)
from runtimestore_server.store.transaction import commit_batch, refusal_of
from runtimestore_server.store.values import Deferred
from runtimestore_server.telemetry.counts import BatchCounts

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from runtimestore_server.store.commit_gate import CommitGate
    from runtimestore_server.store.engines import Database
    from runtimestore_server.store.maintenance import Maintenance
    from runtimestore_server.store.pending_write import PendingWrite
    from runtimestore_server.store.requests import Decision
    from runtimestore_server.supervision import Supervision
    from runtimestore_server.telemetry.spans import Traces

    Deliver = Callable[[Sequence[PendingWrite], Sequence[Decision], bool], None]
    """Told what was decided about a batch, and whether a transaction was committed; called on its own thread."""

MAX_BATCH_BYTES = 32 * 1024 * 1024
"""A batch ends before the write that would bring it over this size, so that one transaction's memory stays bounded."""


class CommitThread:
    """A queue of writes and the thread that commits them, in the order of each subject; maintenance comes between."""

    def __init__(
        self,
        database: Database,
        *,
        max_batch_writes: int,
        name: str,
        deliver: Deliver,
        supervision: Supervision,
        maintenance: Maintenance | None = None,
        traces: Traces | None = None,
    ) -> None:
        self._database = database
        self._traces = traces
        self._max_batch_writes = max_batch_writes
        self._deliver = deliver
        self._maintenance = maintenance
        self._writes_came = False
        """Whether there was a batch since the last slice of maintenance."""
        self._queue: deque[PendingWrite] = deque()
        self._batch: list[PendingWrite] = []
        """What was taken out of the queue and is neither answered nor deferred yet."""
        self._deferred: dict[object, deque[PendingWrite]] = {}
        """By subject, oldest first: writes that wait for a row that another session holds, and those behind them."""
        self._next_try = 0.0
        self._expected_writes = 1
        """How many writes the last batch had and left behind: as many are likely to wait soon, now it is answered."""
        self._linger_until = 0.0
        """Until when the next batch waits for them."""
        self._enough = 1
        """How many writes have to wait before the thread is woken."""
        self._wake = threading.Condition()
        self._closing = False
        self.counts = BatchCounts()
        """What its batches were; written by its thread alone."""
        self.shutdown = CommitStop()
        self._thread = supervision.thread(name, self._run, failed=self._answer_what_failed)

    @property
    def alive(self) -> bool:
        """Whether its thread has not ended yet."""
        return self._thread.is_alive()

    def put(self, pending: PendingWrite) -> None:
        """Add a write to the queue."""
        with self._wake:
            self._queue.append(pending)
            if len(self._queue) >= self._enough:
                self._wake.notify()

    def wake(self) -> None:
        """Have the thread look if there is anything to do."""
        with self._wake:
            self._wake.notify()

    def close(self) -> None:
        """End the thread as soon as what waits is committed."""
        with self._wake:
            self._closing = True
            self.shutdown.drain()
            self._wake.notify()

    def _run(self) -> None:
        while (batch := self._next_batch()) is not None:
            if not batch:
                self._maintain()
                continue
            self._writes_came = True
            gate = self.shutdown.gate()
            for pending in batch:
                pending.gate = gate
            # Whoever holds one row may hold hundreds: the next batches must not wait for the longest time anew.
            briefly = bool(self._deferred)
            scope = self._traces and self._traces.batch([pending.span for pending in batch])
            with scope or contextlib.nullcontext() as span:
                if not self._commit(batch, gate, lock_wait_seconds=BRIEF_LOCK_SECONDS if briefly else None) and span:
                    span.failed()
            self._batch = []
            del batch, pending  # what was committed must not stay in memory until the next write comes

    def _commit(self, batch: Sequence[PendingWrite], gate: CommitGate, *, lock_wait_seconds: float | None) -> bool:
        """Commit a batch, and hand over what is decided as soon as it is; whether a transaction was committed."""
        began, ended = time.monotonic(), 0.0
        failed: Exception | None = None

        def settle(decisions: Sequence[Decision | Deferred], *, committed: bool = True) -> None:
            nonlocal ended, failed
            ended = time.monotonic()
            self._expected_writes = min(len(batch) + len(self._queue), self._max_batch_writes)
            self._linger_until = ended + min(LINGER_SECONDS, LINGER_COMMITS * (ended - began))
            try:
                self._settle(batch, decisions, committed=committed)
            except Exception as error:  # noqa: BLE001  (raised below: here it would look like one of the transaction)
                failed = error

        writes = [pending.write for pending in batch]
        decisions, committed = commit_batch(
            self._database, writes, gate, lock_wait_seconds=lock_wait_seconds, committed=settle
        )
        if not ended:
            settle(decisions, committed=committed)
        if failed is not None:
            raise failed
        self.counts.ended([pending.since for pending in batch], began, ended)
        return committed

    def _maintain(self) -> None:
        if self._maintenance:
            self._maintenance.run(writes_came=self._writes_came)
        self._writes_came = False

    def _next_batch(self) -> list[PendingWrite] | None:
        """Return what is waiting, as much as one transaction takes; None when the thread is closed and drained.

        Empty when it is time for maintenance.
        """
        waited = False
        with self._wake:
            while True:
                if self._deferred and (self.shutdown.draining or time.monotonic() >= self._next_try):
                    return self._first_of_each_deferred()
                # A write that comes while nothing is due goes first: to ask again would take as long as a statement.
                pause_seconds = None if waited and self._queue else self._maintenance_pause_seconds()
                if pause_seconds == 0 and (self._writes_came or not self._queue):
                    return []  # never twice in a row while a write waits
                if self._linger():
                    continue
                if batch := self._take():
                    return batch
                if self._closing and not self._deferred:
                    return None
                if self._deferred:
                    next_try = max(0.0, self._next_try - time.monotonic())
                    pause_seconds = next_try if pause_seconds is None else min(next_try, pause_seconds)
                self._wake.wait(pause_seconds)
                waited = True

    def _linger(self) -> bool:
        """Wait a moment for as many writes as came with the last batch; whether anything was waited for.

        Most callers send their next write as soon as the last one is answered. A batch that begins at once holds the
        quickest of them alone, and its commit and the event loop then contend for the interpreter.
        """
        if self._expected_writes <= max(1, len(self._queue)) or self._deferred or self._closing:
            return False
        if (seconds := self._linger_until - time.monotonic()) <= 0:
            return False
        self._enough = self._expected_writes
        self._wake.wait(seconds)
        self._enough = 1
        return True

    def _maintenance_pause_seconds(self) -> float | None:
        """Tell how long maintenance has nothing to do; None if it has no turn any more."""
        if self._maintenance is None or self._closing or self.shutdown.draining:
            return None
        return min(self._maintenance.pause_seconds(writes_wait=bool(self._queue)), threading.TIMEOUT_MAX)

    def _take(self) -> list[PendingWrite]:
        batch = self._batch = []
        size_bytes = 0
        while self._queue and len(batch) < self._max_batch_writes:
            first = self._queue[0]
            if behind := self._deferred.get(first.write.subject):
                behind.append(self._queue.popleft())
                continue
            size_bytes += first.size_bytes
            if batch and size_bytes > MAX_BATCH_BYTES:
                break
            batch.append(self._queue.popleft())
        return batch

    def _first_of_each_deferred(self) -> list[PendingWrite]:
        """Take deferred writes to try next; where there are many, the others have their turn at the next try."""
        batch = self._batch = []
        size_bytes = 0
        for subject in list(self._deferred)[: self._max_batch_writes]:
            size_bytes += self._deferred[subject][0].size_bytes
            if batch and size_bytes > MAX_BATCH_BYTES:
                break
            self._deferred[subject] = pending = self._deferred.pop(subject)
            batch.append(pending.popleft())
        return batch

    def _settle(
        self, batch: Sequence[PendingWrite], decisions: Sequence[Decision | Deferred], *, committed: bool
    ) -> None:
        """Hand over what is decided, and defer what is not."""
        decided: list[tuple[PendingWrite, Decision]] = []
        deferred: list[PendingWrite] = []
        for pending, decision in zip(batch, decisions, strict=True):
            if isinstance(decision, Deferred):
                pending.gate = None
                deferred.append(pending)
            else:
                decided.append((pending, decision))
        if decided:  # before all else: nothing that follows may change what was decided
            self._deliver([pending for pending, _ in decided], [decision for _, decision in decided], committed)
        self._batch = deferred
        for pending in reversed(deferred):
            self._deferred.setdefault(pending.write.subject, deque()).appendleft(pending)
        if deferred:
            self._next_try = time.monotonic() + DEFERRED_PAUSE_SECONDS
        for subject in {pending.write.subject for pending, _ in decided} - {w.write.subject for w in deferred}:
            self._bring_back(subject)
        if over := self._out_of_time():
            self._deliver(over, [refusal_of(Fault.LOCKED, store_error="write_failed") for _ in over], False)

    def _answer_what_failed(self) -> None:
        """Answer truthfully the batch in which an error came that nobody foresaw; what waits behind it goes on."""
        batch, self._batch = self._batch, []
        failed = {*batch}
        for subject, group in list(self._deferred.items()):  # none may land that was told it did not
            if not failed.isdisjoint(group) or not group:
                self._deferred[subject] = deque(pending for pending in group if pending not in failed)
                self._bring_back(subject)
        if batch:
            self._deliver(batch, [truth_about(pending) for pending in batch], False)

    def _bring_back(self, subject: object) -> None:
        """Put writes that waited behind a row that is free now back at the front of the queue."""
        if group := self._deferred.pop(subject, None):
            with self._wake:
                self._queue.extendleft(reversed(group))

    def _out_of_time(self) -> list[PendingWrite]:
        """Take deferred writes that have waited as long as anybody has to; all of them during a shutdown."""
        limit = 0.0 if self.shutdown.draining else TRANSIENT_LIMIT_SECONDS
        over = []
        for subject, group in list(self._deferred.items()):
            while group and time.monotonic() - group[0].since >= limit:
                over.append(group.popleft())
            if not group:
                del self._deferred[subject]
        return over
