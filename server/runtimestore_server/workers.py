"""Threads for what would keep the event loop too long: loads, and the checks of large requests."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from dataclasses import dataclass
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, TypeVar

from runtimestore.errors import StoreUnavailable
from runtimestore_server.budget import Bound, Budget, RetryPacing
from runtimestore_server.supervision import reached

if TYPE_CHECKING:
    from collections.abc import Callable

    from runtimestore_server.supervision import Supervision

T = TypeVar("T")


@dataclass(slots=True, eq=False)
class _Item:
    """Work that waits for a thread or runs on one, what it holds in memory, and the future that its caller awaits."""

    work: Callable[[], Any]
    size_bytes: int | None
    answer: asyncio.Future[Any]


class Workers:
    """A pool of threads whose queue is bounded, by number and by bytes.

    A caller that gives up does not make room: its work stays in the queue, with all that it holds, until a thread has
    looked at it.
    """

    def __init__(
        self,
        *,
        threads: int,
        max_waiting: int,
        max_waiting_bytes: int,
        supervision: Supervision,
        pacing: RetryPacing | None = None,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._queue: SimpleQueue[_Item | None] = SimpleQueue()
        self._at = threading.local()
        """The `item` that a thread works at."""
        self.budget = Budget(
            pacing or RetryPacing(),
            items=Bound(max_waiting, "waiting_reads", "loads are waiting"),
            size=Bound(max_waiting_bytes, "waiting_bytes", "bytes of requests wait to be checked"),
        )
        self._items: set[_Item] = set()
        self._closed = False
        # Threads of our own: one of concurrent.futures' that ends by an error is noticed by nobody, and not replaced.
        self._threads = [
            supervision.thread(f"worker-{number}", self._work, failed=self._answer_what_failed)
            for number in range(threads)
        ]

    @property
    def waiting(self) -> int:
        """How much work waits or runs."""
        return len(self._items)

    async def run(self, work: Callable[[], T], *, size_bytes: int | None = None) -> T:
        """Do `work` on a thread, and return or raise what it does; `size_bytes` is what it holds of a request.

        Raises:
            Overloaded: too much is waiting for a thread.
            StoreUnavailable: the server has ended.
        """
        if self._closed:
            raise StoreUnavailable("the server has ended; nothing was done")
        self.budget.take(size_bytes)
        item = _Item(work, size_bytes, self._loop.create_future())
        self._items.add(item)
        self._queue.put(item)
        answer: T = await item.answer
        return answer

    def _work(self) -> None:
        while (item := self._queue.get()) is not None:
            self._at.item = item
            self._run(item)
            self._at.item = None
            del item  # it must not stay in memory until the next one comes

    def _answer_what_failed(self) -> None:
        """Answer whoever waits for what the thread was at."""
        item, self._at.item = getattr(self._at, "item", None), None
        if item is not None:
            self._hand_over(item, None, StoreUnavailable("the server failed at this; nothing was done, try again"))

    def _run(self, item: _Item) -> None:
        result: Any = None
        error: BaseException | None = None
        try:
            if not item.answer.done():  # else the caller gave up while it waited
                result = item.work()
        except BaseException as raised:  # noqa: BLE001  (whatever it is, the caller is told)
            error = raised
        self._hand_over(item, result, error)
        del error  # it knows this frame, and the frame the item: a request would stay until the collector runs

    def _hand_over(self, item: _Item, result: object, error: BaseException | None) -> None:
        with contextlib.suppress(RuntimeError):  # the loop ended while the database did not answer
            self._loop.call_soon_threadsafe(self._settle, item, result, error)

    def _settle(self, item: _Item, result: object, error: BaseException | None) -> None:
        if not item.answer.done():  # before anything is counted
            if error is None:
                item.answer.set_result(result)
            else:
                item.answer.set_exception(error)
        if item in self._items:  # else its thread failed as it was answered, and it was answered once more
            self._items.remove(item)
            self.budget.give_back(item.size_bytes)

    def abort(self) -> None:
        """Answer whoever still waits that the store is not available."""
        for item in self._items:
            if not item.answer.done():
                item.answer.set_exception(
                    StoreUnavailable("the server ended before the storage engine answered; nothing was done")
                )

    async def close(self, within_seconds: float) -> bool:
        """End the threads; whether what they did has ended in time."""
        self._closed = True
        for _ in self._threads:
            self._queue.put(None)
        return await reached(
            lambda: not any(thread.is_alive() for thread in self._threads), within_seconds=within_seconds
        )
