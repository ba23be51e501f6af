"""Threads for what would keep the event loop too long: loads, and the checks of large requests."""

from __future__ import annotations

import asyncio
import contextlib
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar

from runtimestore.errors import StoreUnavailable
from runtimestore_server.budget import Bound, Budget, RetryPacing
from runtimestore_server.shutdown import reached

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


class _Item:
    """Work that waits for a thread or runs on one, what it holds in memory, and the future that its caller awaits."""

    __slots__ = ("answer", "size_bytes", "work")

    def __init__(self, work: Callable[[], Any], size_bytes: int | None, answer: asyncio.Future[Any]) -> None:
        self.work = work
        self.size_bytes = size_bytes
        self.answer = answer


class Workers:
    """A pool of threads whose queue is bounded, by number and by bytes.

    A caller that gives up does not make room: its work stays in the queue, with all that it holds, until a thread has
    looked at it.
    """

    def __init__(
        self, *, threads: int, max_waiting: int, max_waiting_bytes: int, pacing: RetryPacing | None = None
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="worker")
        self.budget = Budget(
            pacing or RetryPacing(),
            items=Bound(max_waiting, "waiting_reads", "loads are waiting"),
            size=Bound(max_waiting_bytes, "waiting_bytes", "bytes of requests wait to be checked"),
        )
        self._items: set[_Item] = set()
        self._closed = False

    @property
    def waiting(self) -> int:
        """How much work waits or runs."""
        return len(self._items)

    async def run(self, work: Callable[[], T], *, size_bytes: int | None = None) -> T:
        """What `work` returns or raises, on a thread; `size_bytes` is what of a request it holds while it waits.

        Raises:
            Overloaded: too much is waiting for a thread.
            StoreUnavailable: the server has ended.
        """
        if self._closed:
            raise StoreUnavailable("the server has ended; nothing was done")
        self.budget.take(size_bytes)
        item = _Item(work, size_bytes, self._loop.create_future())
        self._items.add(item)
        self._threads.submit(self._run, item)
        answer: T = await item.answer
        return answer

    def _run(self, item: _Item) -> None:
        result: Any = None
        error: BaseException | None = None
        try:
            if not item.answer.done():  # else the caller gave up while it waited
                result = item.work()
        except BaseException as raised:  # noqa: BLE001  (whatever it is, the caller is told)
            error = raised
        with contextlib.suppress(RuntimeError):  # the loop ended while the database did not answer
            self._loop.call_soon_threadsafe(self._settle, item, result, error)
        del error  # it knows this frame, and the frame the item: a request would stay until the collector runs

    def _settle(self, item: _Item, result: object, error: BaseException | None) -> None:
        self._items.remove(item)
        self.budget.give_back(item.size_bytes)
        if item.answer.done():
            return
        if error is None:
            item.answer.set_result(result)
        else:
            item.answer.set_exception(error)

    def abort(self) -> None:
        """Answer whoever still waits that the store is not available."""
        for item in self._items:
            if not item.answer.done():
                item.answer.set_exception(
                    StoreUnavailable("the server ended before the storage engine answered; nothing was done")
                )

    async def close(self, *, within_seconds: float) -> bool:
        """End the threads; whether what they did has ended in time."""
        self._closed = True
        self._threads.shutdown(wait=False)
        return await reached(lambda: not self._alive(), within_seconds=within_seconds, every_seconds=0.002)

    def _alive(self) -> bool:
        return any(thread.is_alive() for thread in self._threads._threads)  # noqa: SLF001  (there is no public way)
