"""The queue of writes: bounded, committed by lanes, answered on the event loop.

While one transaction is being committed, the writes that arrive wait and become the next batch, so that many runtimes
share one sync and one round trip a table. Nobody is answered before COMMIT.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from runtimestore.errors import Overloaded, StoreUnavailable
from runtimestore_server.store.comebacks import Comebacks
from runtimestore_server.store.commit_thread import CommitThread, PendingWrite
from runtimestore_server.store.transaction import unknown
from runtimestore_server.store.values import Outcome

if TYPE_CHECKING:
    from collections.abc import Sequence

    from runtimestore_server.store.engines import Database
    from runtimestore_server.store.requests import Decision
    from runtimestore_server.store.values import AnyWrite


@dataclass(slots=True)
class CommitCounters:
    """What the write path has done since the process started."""

    transactions: int = 0
    writes: int = 0
    refusals: int = 0
    replays: int = 0


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
        comebacks: Comebacks | None = None,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._max_waiting_writes = max_waiting_writes
        self._max_waiting_bytes = max_waiting_bytes
        self._waiting: set[PendingWrite] = set()
        self._waiting_bytes = 0
        self._closed = False
        self._comebacks = comebacks or Comebacks()
        self.counters = CommitCounters()
        self._lanes = [
            CommitThread(
                database, max_batch_writes=max_batch_writes, name=f"committer-{number}", deliver=self._hand_over
            )
            for number in range(threads if database.concurrent_writers else 1)
        ]

    @property
    def waiting_writes(self) -> int:
        """How many writes were taken in and are not answered yet."""
        return len(self._waiting)

    async def commit(self, write: AnyWrite) -> Outcome:
        """Put one write into the store; returns after COMMIT.

        A caller that is cancelled leaves either the whole write or nothing.

        Raises:
            Overloaded: too much is waiting; the write was not taken in.
            RuntimeStoreError: the write was refused, or the store could not commit it.
        """
        if self._closed:
            raise StoreUnavailable("the store is closed; nothing was committed")
        waiting = PendingWrite(write, self._loop.create_future())
        if (refusal := self.overload(waiting.size_bytes)) is not None:
            raise refusal
        self._waiting.add(waiting)
        self._waiting_bytes += waiting.size_bytes
        self._lanes[hash(write.subject) % len(self._lanes)].put(waiting)
        return await waiting.answer

    def overload(self, size_bytes: int = 0, *, arriving: int = 0) -> Overloaded | None:
        """Why no write of this size can be taken in now, when so many are arriving before it; None if one can."""
        if (waiting_writes := len(self._waiting) + arriving) >= self._max_waiting_writes:
            return Overloaded(
                f"{waiting_writes} writes are waiting; try again later",
                metadata={"waiting_writes": str(waiting_writes)},
                retry_after_seconds=self._comebacks.seconds(),
            )
        # A write larger than the whole bound must still find its way in when nothing else waits.
        if self._waiting_bytes and self._waiting_bytes + size_bytes > self._max_waiting_bytes:
            return Overloaded(
                f"{self._waiting_bytes} bytes are waiting; try again later",
                metadata={"waiting_bytes": str(self._waiting_bytes)},
                retry_after_seconds=self._comebacks.seconds(),
            )
        return None

    def answer(self, batch: Sequence[PendingWrite], decisions: Sequence[Decision], *, committed: bool) -> None:
        """Tell the handlers; called on the event loop."""
        counted = self.counters
        counted.transactions += committed and any(
            isinstance(decision, Outcome) and not decision.replayed for decision in decisions
        )
        for waiting, decision in zip(batch, decisions, strict=True):
            self._waiting.remove(waiting)
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

    def _hand_over(self, batch: Sequence[PendingWrite], decisions: Sequence[Decision], committed: bool) -> None:
        """Bring a batch's decisions from its thread to the event loop."""
        with contextlib.suppress(RuntimeError):  # the loop ended while the database did not answer
            self._loop.call_soon_threadsafe(lambda: self.answer(batch, decisions, committed=committed))

    def hurry(self) -> None:
        """Run nothing again, and wait for no row: what cannot be committed now is refused."""
        for lane in self._lanes:
            lane.shutdown.drain()

    def abandon(self) -> None:
        """Answer whoever still waits, truthfully: no COMMIT begins after this, and one under way is unknown."""
        for lane in self._lanes:
            lane.shutdown.abort()
        for waiting in self._waiting:
            if waiting.answer.done():
                continue
            gate = waiting.gate  # once: its lane may take it away meanwhile
            if gate is not None and gate.begun:
                waiting.answer.set_exception(unknown())
            else:
                waiting.answer.set_exception(
                    StoreUnavailable("the server ended before this write came to its turn; nothing was committed")
                )

    async def close(self, *, within_seconds: float) -> bool:
        """Commit what is waiting, then end the threads; whether all of them have ended in time."""
        self._closed = True
        for lane in self._lanes:
            lane.close()
        deadline = time.monotonic() + within_seconds
        # Polling, once in a process' life: a thread that a database keeps cannot be waited for in any other way.
        while any(lane.alive for lane in self._lanes) and time.monotonic() < deadline:  # noqa: ASYNC110  (see above)
            await asyncio.sleep(0.002)
        return not any(lane.alive for lane in self._lanes)
