"""Streams a load while it still runs: its beginning is sent while a worker reads the rest."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from runtimestore.errors import StoreUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

B = TypeVar("B")
B_co = TypeVar("B_co", covariant=True)


class Begun(Protocol[B_co]):
    """The result of a load whose beginning was handed over before."""

    @property
    def beginning(self) -> B_co:
        """What it began with."""


T = TypeVar("T", bound=Begun[object])


class Loading(Generic[B, T]):
    """A load on a worker that hands over its beginning before it is done, if it takes a while."""

    def __init__(self, load: Callable[[Callable[[B], None]], Coroutine[None, None, T]]) -> None:
        """`load` is called with a function that takes its beginning, from any thread."""
        self._loop = asyncio.get_running_loop()
        self._first: asyncio.Future[B | None] = self._loop.create_future()
        self._told: B | None = None
        self._whole = self._loop.create_task(load(self._begun))
        self._whole.add_done_callback(self._ended)

    async def beginning(self) -> B | None:
        """Wait until the load has told its beginning, or is at its end."""
        return await self._first

    async def whole(self) -> T:
        """Wait until the load is at its end.

        Raises:
            StoreUnavailable: the attempt that told its beginning failed, and another one began otherwise.
            RuntimeStoreError: as the load does.
        """
        whole = await self._whole
        if self._told is not None and whole.beginning != self._told:
            raise StoreUnavailable(
                "the storage engine failed while the runtime was read, and it has changed since; try again",
                metadata={"store_error": "read_failed"},
            )
        return whole

    def abandon(self) -> None:
        """Wait no longer: nobody asks for the rest."""
        self._whole.cancel()
        self._first.cancel()

    def _begun(self, beginning: B) -> None:
        """Take the beginning, on the thread of the load, which may begin anew."""
        if self._told is None:
            self._told = beginning
            with contextlib.suppress(RuntimeError):  # the loop ended while the database did not answer
                self._loop.call_soon_threadsafe(self._tell, beginning)

    def _tell(self, beginning: B | None) -> None:
        if not self._first.done():
            self._first.set_result(beginning)

    def _ended(self, whole: asyncio.Future[T]) -> None:
        self._tell(None)
        if not whole.cancelled():
            whole.exception()  # it may be that nobody asks any more
