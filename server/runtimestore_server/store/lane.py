"""One thread of the write path: it commits what waits, batch by batch, and sets aside what has to wait for a row."""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import TYPE_CHECKING

from runtimestore_server.store.ending import Ending
from runtimestore_server.store.engines import Fault
from runtimestore_server.store.transaction import (
    PROBE_LOCK_SECONDS,
    TRANSIENT_LIMIT_SECONDS,
    Deferred,
    commit_batch,
    refusal_of,
)

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Sequence

    from runtimestore_server.store.ending import CommitGate
    from runtimestore_server.store.engines import Database
    from runtimestore_server.store.requests import Decision
    from runtimestore_server.store.transaction import AnyWrite
    from runtimestore_server.store.values import Outcome

    Deliver = Callable[[Sequence["Waiting"], Sequence[Decision], bool], None]
    """Told what was decided about a batch, and whether a transaction was committed; called on the lane's thread."""

MAX_BATCH_BYTES = 32 * 1024 * 1024
"""A batch ends before the write that would bring it over this size, so that one transaction's memory stays bounded."""

PROBE_PAUSE_SECONDS = 0.25
"""How long the lane goes on with others before it tries again a write that waits for a row. Well above the time that
one such try may take, so that those who wait cost their neighbours a fraction of the lane's time."""


class Waiting:
    """A write in the queue and the future that its handler awaits."""

    __slots__ = ("answer", "gate", "since", "size_bytes", "write")

    def __init__(self, write: AnyWrite, answer: asyncio.Future[Outcome]) -> None:
        self.write = write
        self.size_bytes = write.size_bytes
        self.answer = answer
        self.since = time.monotonic()
        self.gate: CommitGate | None = None
        """The gate of the batch that it is in; None while nothing of it can be there."""


class Lane:
    """A queue of writes and the thread that commits them, in the order of each subject."""

    def __init__(self, database: Database, *, max_batch_writes: int, name: str, deliver: Deliver) -> None:
        self._database = database
        self._max_batch_writes = max_batch_writes
        self._deliver = deliver
        self._queue: deque[Waiting] = deque()
        self._set_aside: dict[object, deque[Waiting]] = {}
        """By subject, oldest first: writes that wait for a row that another session holds, and those behind them."""
        self._next_probe = 0.0
        self._wake = threading.Condition()
        self._closing = False
        self.ending = Ending()
        # A daemon: a process that is told to go must not wait for a database that does not answer.
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether its thread has not ended yet."""
        return self._thread.is_alive()

    def put(self, waiting: Waiting) -> None:
        """Add a write to the queue."""
        with self._wake:
            self._queue.append(waiting)
            self._wake.notify()

    def close(self) -> None:
        """End the thread as soon as what waits is committed."""
        with self._wake:
            self._closing = True
            self.ending.tell()
            self._wake.notify()

    def _run(self) -> None:
        while batch := self._next_batch():
            gate = self.ending.gate()
            for waiting in batch:
                waiting.gate = gate
            # Whoever holds one row may hold hundreds: the next batches must not wait for the longest time anew.
            briefly = bool(self._set_aside)
            decisions, committed = commit_batch(
                self._database,
                [waiting.write for waiting in batch],
                gate,
                lock_wait_seconds=PROBE_LOCK_SECONDS if briefly else None,
            )
            self._settle(batch, decisions, committed=committed)
            del batch, decisions  # what was committed must not stay in memory until the next write comes

    def _next_batch(self) -> list[Waiting]:
        """What is waiting, as much as one transaction takes; empty when the lane is closed and drained."""
        with self._wake:
            while True:
                if self._set_aside and (self.ending.told or time.monotonic() >= self._next_probe):
                    return self._first_of_each_set_aside()
                if batch := self._take():
                    return batch
                if self._closing and not self._set_aside:
                    return []
                self._wake.wait(max(0.0, self._next_probe - time.monotonic()) if self._set_aside else None)

    def _take(self) -> list[Waiting]:
        batch: list[Waiting] = []
        size_bytes = 0
        while self._queue and len(batch) < self._max_batch_writes:
            first = self._queue[0]
            if behind := self._set_aside.get(first.write.subject):
                behind.append(self._queue.popleft())
                continue
            size_bytes += first.size_bytes
            if batch and size_bytes > MAX_BATCH_BYTES:
                break
            batch.append(self._queue.popleft())
        return batch

    def _first_of_each_set_aside(self) -> list[Waiting]:
        """Who is tried next; where there are many, the others have their turn at the next try."""
        subjects = list(self._set_aside)[: self._max_batch_writes]
        for subject in subjects:
            self._set_aside[subject] = self._set_aside.pop(subject)
        return [self._set_aside[subject].popleft() for subject in subjects]

    def _settle(self, batch: Sequence[Waiting], decisions: Sequence[Decision | Deferred], *, committed: bool) -> None:
        """Hand over what is decided, and set aside what is not."""
        decided: list[tuple[Waiting, Decision]] = []
        deferred: list[Waiting] = []
        for waiting, decision in zip(batch, decisions, strict=True):
            if isinstance(decision, Deferred):
                waiting.gate = None
                deferred.append(waiting)
            else:
                decided.append((waiting, decision))
        for waiting in reversed(deferred):
            self._set_aside.setdefault(waiting.write.subject, deque()).appendleft(waiting)
        if deferred:
            self._next_probe = time.monotonic() + PROBE_PAUSE_SECONDS
        for subject in {waiting.write.subject for waiting, _ in decided} - {w.write.subject for w in deferred}:
            self._bring_back(subject)
        decided += [(waiting, refusal_of(Fault.LOCKED, store_error="write_failed")) for waiting in self._out_of_time()]
        if decided:
            self._deliver([waiting for waiting, _ in decided], [decision for _, decision in decided], committed)

    def _bring_back(self, subject: object) -> None:
        """Its row is free: those who waited behind go first."""
        if group := self._set_aside.pop(subject, None):
            with self._wake:
                self._queue.extendleft(reversed(group))

    def _out_of_time(self) -> list[Waiting]:
        """Those set aside who have waited as long as anybody has to; all of them if the store ends."""
        limit = 0.0 if self.ending.told else TRANSIENT_LIMIT_SECONDS
        over = []
        for subject, group in list(self._set_aside.items()):
            while group and time.monotonic() - group[0].since >= limit:
                over.append(group.popleft())
            if not group:
                del self._set_aside[subject]
        return over
