"""What a test must not leave behind: threads, tasks, connections that somebody still holds."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from sqlalchemy.pool import Pool

T = TypeVar("T")

SETTLE_SECONDS = 5.0
"""What was told to end may take this long to be gone."""

_OF_THE_LOOP = "asyncio_"
"""Threads of the loop's own executor: they belong to the session, not to a test."""

_OF_THE_SERVER = ("AioServer._request_call", "AioServer._request_registered_call")
"""Tasks in which gRPC's server waits for the next call of a method."""


async def threads_left(before: Iterable[threading.Thread]) -> set[str]:
    """The names of the threads that were not there `before` and do not end."""
    known = set(before)

    def left() -> set[str]:
        return {
            thread.name for thread in set(threading.enumerate()) - known if not thread.name.startswith(_OF_THE_LOOP)
        }

    return await _settled(left)


async def tasks_left(before: Iterable[asyncio.Task[Any]]) -> set[str]:
    """The tasks of this loop that were not there `before` and do not end."""
    known = {*before, asyncio.current_task()}

    def left() -> set[str]:
        return {
            repr(task)
            for task in asyncio.all_tasks()
            if task not in known and getattr(task.get_coro(), "__qualname__", "") not in _OF_THE_SERVER
        }

    return await _settled(left)


async def open_connections(pools: Iterable[Pool]) -> int:
    """How many connections somebody took out of a pool and does not give back."""
    watched = tuple(pools)

    def left() -> int:
        return sum(pool.checkedout() for pool in watched)  # type: ignore[attr-defined]  # every pool here is a QueuePool

    return await _settled(left)


async def until(condition: Callable[[], bool]) -> None:
    """Wait for what no event tells; fails if it does not come."""
    assert not await _settled(lambda: 0 if condition() else 1)


async def _settled(left: Callable[[], T]) -> T:
    deadline = time.monotonic() + SETTLE_SECONDS
    while (found := left()) and time.monotonic() < deadline:  # noqa: ASYNC110  (no event tells of a thread's end)
        await asyncio.sleep(0.005)
    return found
