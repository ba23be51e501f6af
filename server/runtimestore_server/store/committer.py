"""The queue of writes: bounded, committed by threads of its own, answered on the event loop.

While one transaction is being committed, the writes that arrive wait and become the next batch, so that many runtimes
share one sync and one round trip a table. Nobody is answered before COMMIT.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
from dataclasses import dataclass
from typing import TYPE_CHECKING

from runtimestore.errors import RuntimeStoreError, StoreUnavailable
from runtimestore_server.budget import Bound, Budget, RetryPacing
from runtimestore_server.store.commit_thread import CommitThread
from runtimestore_server.store.pending_write import PendingWrite, truth_about
from runtimestore_server.store.values import Outcome
from runtimestore_server.supervision import Supervision, reached

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from runtimestore_server.store.engines import Database
    from runtimestore_server.store.maintenance import Maintenance
    from runtimestore_server.store.requests import Decision
    from runtimestore_server.store.writes import AnyWrite
    from runtimestore_server.telemetry.spans import Traces


LARGE_WRITE_BYTES = 4 * 1024 * 1024
"""A write that stores this much is committed beside the others where several transactions write at a time: Postgres
takes 15 to 40 ms a MB, most of it to compress them."""


@dataclass(slots=True)
class CommitCounters:
    """What the write path has done since the process started."""

    transactions: int = 0
    writes: int = 0
    refusals: int = 0
    replays: int = 0


class Committer:
    """Takes writes in on the event loop, commits them on threads of its own, answers on the event loop.

    What waits of a runtime is on one thread, so that its writes land in the order in which they came and never wait for
    each other's locks. Maintenance has a thread of its own where several transactions write at a time, and commits the
    large writes, so that small ones do not wait for them; else it takes turns with the writes.
    """

    def __init__(
        self,
        database: Database,
        *,
        threads: int,
        max_batch_writes: int,
        max_waiting_writes: int,
        max_waiting_bytes: int,
        pacing: RetryPacing | None = None,
        supervision: Supervision | None = None,
        maintenance: Maintenance | None = None,
        traces: Traces | None = None,
        unanswered: Callable[[Decision], None] | None = None,
    ) -> None:
        self._traces = traces
        self._unanswered = unanswered
        supervision = supervision or Supervision()
        self._loop = asyncio.get_running_loop()
        self.budget = Budget(
            pacing or RetryPacing(),
            items=Bound(max_waiting_writes, "waiting_writes", "writes are waiting"),
            size=Bound(max_waiting_bytes, "waiting_bytes", "bytes are waiting"),
        )
        self._pending: set[PendingWrite] = set()
        self._closed = False
        self.counters = CommitCounters()
        beside = maintenance if database.concurrent_writers else None

        def thread(name: str, maintenance: Maintenance | None) -> CommitThread:
            return CommitThread(
                database,
                max_batch_writes=max_batch_writes,
                name=name,
                deliver=self._hand_over,
                supervision=supervision,
                maintenance=maintenance,
                traces=traces,
            )

        self._threads = [
            thread(f"committer-{number}", None if beside else maintenance)
            for number in range(threads if database.concurrent_writers else 1)
        ]
        self._beside = thread("maintenance", beside) if beside else None
        self._all_threads = [*self._threads, self._beside] if self._beside else self._threads
        self.batch_counts = [thread.counts for thread in self._all_threads]
        """What the batches were, by commit thread."""
        self._waiting_on: dict[object, list[CommitThread]] = {}
        """By subject, the thread of the writes that are pending, once for each of them."""

    @property
    def waiting_writes(self) -> int:
        """How many writes were taken in and are not answered yet."""
        return len(self._pending)

    async def commit(self, write: AnyWrite) -> Outcome:
        """Put one write into the store; returns after COMMIT.

        A caller that is cancelled leaves either the whole write or nothing.

        Raises:
            Overloaded: too much is waiting; the write was not taken in.
            RuntimeStoreError: the write was refused, or the store could not commit it.
        """
        if self._closed:
            raise StoreUnavailable("the store is closed; nothing was committed")
        pending = PendingWrite(write, self._loop.create_future())
        self.budget.take(pending.size_bytes)
        self._pending.add(pending)
        thread = self._thread_for(write)
        self._waiting_on.setdefault(write.subject, []).append(thread)
        try:
            if self._traces is None or (waiting := self._traces.waiting_span("commit")) is None:
                thread.put(pending)
                return await pending.answer
            pending.span = waiting.span
            with waiting:
                thread.put(pending)
                return await pending.answer
        except asyncio.CancelledError:
            self._tell_unanswered(pending)
            raise

    def _thread_for(self, write: AnyWrite) -> CommitThread:
        """Find where a write lands behind those of its subject that are pending, and where it holds up none smaller."""
        if ahead := self._waiting_on.get(write.subject):
            return ahead[0]
        if self._beside is not None and write.stored_bytes >= LARGE_WRITE_BYTES:
            return self._beside
        return self._threads[hash(write.subject) % len(self._threads)]

    def _tell_unanswered(self, pending: PendingWrite) -> None:
        """Let it be told what becomes of a write whose caller gave up: now, or as soon as it is decided."""
        tell, context, answer = self._unanswered, contextvars.copy_context(), pending.answer
        if tell is None:
            return
        if not answer.cancelled():  # decided, and cancelled before the task went on
            refusal = answer.exception()
            pending.decision = refusal if isinstance(refusal, RuntimeStoreError) else answer.result()
        if pending.decision is None:
            pending.unanswered = lambda decision: context.run(tell, decision)
        else:
            tell(pending.decision)

    def answer(self, batch: Sequence[PendingWrite], decisions: Sequence[Decision], *, committed: bool) -> None:
        """Tell the handlers; called on the event loop. They are told before anything is counted."""
        for pending, decision in zip(batch, decisions, strict=True):
            if pending.answer.done():
                pending.decision = decision
                if pending.unanswered is not None:  # the caller gave up
                    pending.unanswered(decision)
                continue
            if isinstance(decision, Outcome):
                pending.answer.set_result(decision)
            else:
                pending.answer.set_exception(decision)
        counted = self.counters
        counted.transactions += committed and any(
            isinstance(decision, Outcome) and not decision.replayed for decision in decisions
        )
        for pending, decision in zip(batch, decisions, strict=True):
            if pending not in self._pending:
                continue  # its thread failed as it was answered, and it was answered once more
            self._pending.remove(pending)
            ahead = self._waiting_on[pending.write.subject]
            ahead.pop()
            if not ahead:
                del self._waiting_on[pending.write.subject]
            self.budget.give_back(pending.size_bytes)
            if isinstance(decision, Outcome):
                counted.writes += not decision.replayed
                counted.replays += decision.replayed
            else:
                counted.refusals += 1

    def _hand_over(self, batch: Sequence[PendingWrite], decisions: Sequence[Decision], committed: bool) -> None:
        """Bring a batch's decisions from its thread to the event loop."""
        with contextlib.suppress(RuntimeError):  # the loop ended while the database did not answer
            self._loop.call_soon_threadsafe(lambda: self.answer(batch, decisions, committed=committed))

    def wake_maintenance(self) -> None:
        """Let maintenance see that there is something to do."""
        self._all_threads[-1].wake()

    def drain(self) -> None:
        """Run nothing again, and wait for no row: what cannot be committed now is refused."""
        for thread in self._all_threads:
            thread.shutdown.drain()

    def abort(self) -> None:
        """Answer whoever still waits, truthfully: no COMMIT begins after this, and one under way is unknown."""
        for thread in self._all_threads:
            thread.shutdown.abort()
        for pending in self._pending:
            if not pending.answer.done():
                pending.answer.set_exception(truth_about(pending))
            elif pending.unanswered is not None:
                pending.unanswered(truth_about(pending))

    async def close(self, *, within_seconds: float) -> bool:
        """Commit what is waiting, then end the threads; whether all of them have ended in time."""
        self._closed = True
        for thread in self._all_threads:
            thread.close()
        return await reached(
            lambda: not any(thread.alive for thread in self._all_threads), within_seconds=within_seconds
        )
