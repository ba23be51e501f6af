"""The queue of writes and its threads: what is waiting becomes one transaction.

While one transaction is being committed, the writes that arrive wait and become the next batch, so that many runtimes
share one sync and one round trip a table. Nobody is answered before COMMIT.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from runtimestore.errors import Overloaded, StoreUnavailable
from runtimestore_server.store.transaction import commit_batch
from runtimestore_server.store.values import Outcome

if TYPE_CHECKING:
    from collections.abc import Sequence

    from runtimestore_server.store.engines import Database
    from runtimestore_server.store.requests import Decision
    from runtimestore_server.store.values import OAuthFlowWrite, Write

MAX_BATCH_BYTES = 32 * 1024 * 1024
"""A batch ends before the write that would bring it over this size, so that one transaction's memory stays bounded."""


@dataclass(slots=True)
class CommitCounters:
    """What the write path has done since the process started."""

    transactions: int = 0
    writes: int = 0
    refusals: int = 0
    replays: int = 0


class _Waiting:
    """A write in the queue and the future that its handler awaits."""

    __slots__ = ("answer", "size_bytes", "write")

    def __init__(self, write: Write | OAuthFlowWrite, answer: asyncio.Future[Outcome]) -> None:
        self.write = write
        self.size_bytes = write.size_bytes
        self.answer = answer


class Committer:
    """Takes writes in on the event loop, commits them on threads of its own, answers on the event loop.

    A runtime is always on the same thread, so that its writes never wait for each other's locks.
    """

    def __init__(
        self,
        database: Database,
        *,
        threads: int,
        max_batch_writes: int,
        max_waiting_writes: int,
        max_waiting_bytes: int,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._max_waiting_writes = max_waiting_writes
        self._max_waiting_bytes = max_waiting_bytes
        self._waiting_writes = 0
        self._waiting_bytes = 0
        self._closed = False
        self.counters = CommitCounters()
        self._lanes = [
            _Lane(self, database, max_batch_writes=max_batch_writes, name=f"committer-{number}")
            for number in range(threads if database.concurrent_writers else 1)
        ]

    @property
    def waiting_writes(self) -> int:
        """How many writes were taken in and are not answered yet."""
        return self._waiting_writes

    async def commit(self, write: Write | OAuthFlowWrite) -> Outcome:
        """Put one write into the store; returns after COMMIT.

        A caller that is cancelled leaves either the whole write or nothing.

        Raises:
            Overloaded: too much is waiting; the write was not taken in.
            RuntimeStoreError: the write was refused, or the store could not commit it.
        """
        if self._closed:
            raise StoreUnavailable("the store is closed; nothing was committed")
        waiting = _Waiting(write, self._loop.create_future())
        if self._waiting_writes >= self._max_waiting_writes:
            raise Overloaded(
                f"{self._waiting_writes} writes are waiting; try again later",
                metadata={"waiting_writes": str(self._waiting_writes)},
            )
        # A write larger than the whole bound must still find its way in when nothing else waits.
        if self._waiting_bytes and self._waiting_bytes + waiting.size_bytes > self._max_waiting_bytes:
            raise Overloaded(
                f"{self._waiting_bytes} bytes are waiting; try again later",
                metadata={"waiting_bytes": str(self._waiting_bytes)},
            )
        self._waiting_writes += 1
        self._waiting_bytes += waiting.size_bytes
        lane_key = write.runtime if hasattr(write, "runtime") else write.realm
        self._lanes[hash(lane_key) % len(self._lanes)].put(waiting)
        return await waiting.answer

    def answer(self, batch: Sequence[_Waiting], decisions: Sequence[Decision], *, committed: bool) -> None:
        """Tell the handlers; called on the event loop."""
        counted = self.counters
        counted.transactions += committed and any(
            isinstance(decision, Outcome) and not decision.replayed for decision in decisions
        )
        for waiting, decision in zip(batch, decisions, strict=True):
            self._waiting_writes -= 1
            self._waiting_bytes -= waiting.size_bytes
            if isinstance(decision, Outcome):
                counted.writes += not decision.replayed
                counted.replays += decision.replayed
            else:
                counted.refusals += 1
            if waiting.answer.done():
                continue  # the caller gave up
            if isinstance(decision, Outcome):
                waiting.answer.set_result(decision)
            else:
                waiting.answer.set_exception(decision)

    def hand_over(self, batch: Sequence[_Waiting], decisions: Sequence[Decision], *, committed: bool) -> None:
        """Bring a batch's decisions from its thread to the event loop."""
        self._loop.call_soon_threadsafe(lambda: self.answer(batch, decisions, committed=committed))

    async def close(self) -> None:
        """Commit what is waiting, then end the threads."""
        self._closed = True
        await asyncio.gather(*(asyncio.to_thread(lane.close) for lane in self._lanes))


class _Lane:
    """One thread and the writes that wait for it."""

    def __init__(self, committer: Committer, database: Database, *, max_batch_writes: int, name: str) -> None:
        self._committer = committer
        self._database = database
        self._max_batch_writes = max_batch_writes
        self._queue: deque[_Waiting] = deque()
        self._wake = threading.Condition()
        self._closing = threading.Event()
        # A daemon: a process that is told to go twice must not wait for a database that does not answer.
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def put(self, waiting: _Waiting) -> None:
        """Add a write to the queue."""
        with self._wake:
            self._queue.append(waiting)
            self._wake.notify()

    def close(self) -> None:
        """Commit what is waiting, then end the thread."""
        self._closing.set()
        with self._wake:
            self._wake.notify()
        self._thread.join()

    def _run(self) -> None:
        while batch := self._next_batch():
            decisions, committed = commit_batch(self._database, [waiting.write for waiting in batch], self._closing)
            self._committer.hand_over(batch, decisions, committed=committed)
            del batch, decisions  # what was committed must not stay in memory until the next write comes

    def _next_batch(self) -> list[_Waiting]:
        """What is waiting, as much as one transaction takes; empty when the lane is closed and drained."""
        with self._wake:
            while not self._queue and not self._closing.is_set():
                self._wake.wait()
            batch: list[_Waiting] = []
            size_bytes = 0
            while self._queue and len(batch) < self._max_batch_writes:
                size_bytes += self._queue[0].size_bytes
                if batch and size_bytes > MAX_BATCH_BYTES:
                    break
                batch.append(self._queue.popleft())
            return batch
