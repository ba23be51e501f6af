"""Threads for what would keep the event loop too long: loads, and the checks of large requests."""

from __future__ import annotations

import asyncio
import contextlib
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar

from runtimestore.errors import Overloaded, StoreUnavailable
from runtimestore_server.store.comebacks import Comebacks

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


class _Item:
    """Work that waits for a thread or runs on one, what it holds in memory, and the future that its caller awaits."""

    __slots__ = ("answer", "size_bytes", "work")

    def __init__(self, work: Callable[[], Any], size_bytes: int, answer: asyncio.Future[Any]) -> None:
        self.work = work
        self.size_bytes = size_bytes
        self.answer = answer


class Readers:
    """A pool of threads whose queue is bounded, by number and by bytes.

    A caller that gives up does not make room: its work stays in the queue, with all that it holds, until a thread has
    looked at it.
    """

    def __init__(
        self, *, threads: int, max_waiting: int, max_waiting_bytes: int, comebacks: Comebacks | None = None
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="reader")
        self._max_waiting = max_waiting
        self._comebacks = comebacks or Comebacks()
        self._max_waiting_bytes = max_waiting_bytes
        self._items: set[_Item] = set()
        self._waiting_bytes = 0

    @property
    def waiting(self) -> int:
        """How much work waits or runs."""
        return len(self._items)

    async def run(self, work: Callable[[], T], *, size_bytes: int = 0) -> T:
        """What `work` returns or raises, on a thread; `size_bytes` is what it holds in memory while it waits.

        Raises:
            Overloaded: too much is waiting for a thread.
        """
        if len(self._items) >= self._max_waiting:
            raise Overloaded(
                f"{len(self._items)} loads are waiting; try again later",
                metadata={"waiting_reads": str(len(self._items))},
                retry_after_seconds=self._comebacks.seconds(),
            )
        # One that is larger than the whole bound must still find its way in when nothing else waits.
        if size_bytes and self._waiting_bytes and self._waiting_bytes + size_bytes > self._max_waiting_bytes:
            raise Overloaded(
                f"{self._waiting_bytes} bytes of requests wait to be checked; try again later",
                metadata={"waiting_bytes": str(self._waiting_bytes)},
                retry_after_seconds=self._comebacks.seconds(),
            )
        item = _Item(work, size_bytes, self._loop.create_future())
        self._items.add(item)
        self._waiting_bytes += size_bytes
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
        self._waiting_bytes -= item.size_bytes
        if item.answer.done():
            return
        if error is None:
            item.answer.set_result(result)
        else:
            item.answer.set_exception(error)

    def abandon(self) -> None:
        """Answer whoever still waits that the store is not available."""
        for item in self._items:
            if not item.answer.done():
                item.answer.set_exception(
                    StoreUnavailable("the server ended before the storage engine answered; nothing was done")
                )

    async def close(self, *, within_seconds: float) -> bool:
        """End the threads; whether what they did has ended in time."""
        self._threads.shutdown(wait=False)
        deadline = time.monotonic() + within_seconds
        # Polling, once in a process' life: a thread that a database keeps cannot be waited for in any other way.
        while self._alive() and time.monotonic() < deadline:  # noqa: ASYNC110  (see above)
            await asyncio.sleep(0.002)
        return not self._alive()

    def _alive(self) -> bool:
        return any(thread.is_alive() for thread in self._threads._threads)  # noqa: SLF001  (there is no public way)
