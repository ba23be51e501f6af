"""Whose messages take too long, and when: the rules of the places themselves, without a wire."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

from runtimestore.errors import Overloaded
from runtimestore_server.budget import RetryPacing
from runtimestore_server.rpc.upload_slots import NotReceived, UploadSlots
from support.checkers.clean_up import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

LONG_SECONDS = 1000.0
PATIENCE_SECONDS = 0.3
WAIT_SECONDS = 20


class Calls:
    """Calls whose messages do not come; each ends when the test says so, or when it is cancelled."""

    def __init__(self, slots: UploadSlots) -> None:
        self.slots = slots
        self.told: list[asyncio.Task[None]] = []
        """The calls that were cancelled for their slowness, in this order."""
        self._tasks: list[asyncio.Task[None]] = []

    async def add(self, *connections: str, deaf: bool = False) -> list[asyncio.Task[None]]:
        """One more of each of these connections; a deaf one goes on for a while after it is cancelled."""
        added = []
        for connection in connections:
            before = self.slots.received + self.slots.waiting
            added.append(asyncio.create_task(self._receive(connection, deaf=deaf)))
            await until(lambda: self.slots.received + self.slots.waiting > before)  # noqa: B023  (awaited here)
        self._tasks += added
        return added

    async def _receive(self, connection: str, *, deaf: bool) -> None:
        call = asyncio.current_task()
        assert call is not None
        try:
            await self.slots.begin(call, connection)
            await asyncio.sleep(LONG_SECONDS)
        except asyncio.CancelledError:
            if isinstance(self.slots.refusal(call), Overloaded):
                self.told.append(call)
            if deaf:
                await asyncio.sleep(4 * PATIENCE_SECONDS)
        finally:
            self.slots.end(call)

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        assert (self.slots.received, self.slots.waiting) == (0, 0)
        assert not any(self.slots.refusal(task) for task in self._tasks)  # nothing is kept of who is gone


@contextlib.asynccontextmanager
async def _calls(*, at_once: int, **seconds: Any) -> AsyncIterator[Calls]:
    patience = {"patience_seconds": LONG_SECONDS, "longest_seconds": LONG_SECONDS, **seconds}
    calls = Calls(UploadSlots(at_once=at_once, pacing=RetryPacing(), **patience))
    try:
        yield calls
    finally:
        await calls.close()


async def test_a_connection_that_has_one_place_keeps_it_for_as_long_as_anybody_may() -> None:
    async with _calls(at_once=2, patience_seconds=PATIENCE_SECONDS) as calls:
        await calls.add("one", "another", "newcomer")
        await asyncio.sleep(3 * PATIENCE_SECONDS)
        assert calls.told == []
        assert calls.slots.waiting == 1


async def test_who_has_places_and_waits_for_more_makes_nobody_hurry() -> None:
    async with _calls(at_once=4, patience_seconds=PATIENCE_SECONDS) as calls:
        await calls.add("one", "one", "another", "another", "one", "another")
        await asyncio.sleep(3 * PATIENCE_SECONDS)
        assert calls.told == []
        assert calls.slots.waiting == 2


async def test_nobody_is_told_when_the_one_who_waited_has_gone() -> None:
    async with _calls(at_once=2, longest_seconds=PATIENCE_SECONDS, patience_seconds=PATIENCE_SECONDS) as calls:
        await calls.add("one", "another")
        await asyncio.sleep(2 * PATIENCE_SECONDS)
        (newcomer,) = await calls.add("newcomer")
        newcomer.cancel()
        await asyncio.sleep(2 * PATIENCE_SECONDS)
        assert calls.told == []


async def test_a_connection_that_waits_for_its_own_slow_messages_has_the_slowest_refused() -> None:
    async with _calls(at_once=4, longest_seconds=PATIENCE_SECONDS, patience_seconds=PATIENCE_SECONDS) as calls:
        first, *_ = await calls.add("one", "one", "one")
        await until(lambda: calls.slots.waiting == 0)
        assert calls.told[0] is first


async def test_one_who_takes_long_to_go_does_not_keep_the_next_one_from_being_told() -> None:
    async with _calls(at_once=4, patience_seconds=PATIENCE_SECONDS) as calls:
        slow = await calls.add("one", "one", "another", "another", deaf=True)
        await calls.add("newcomer")
        await until(lambda: len(calls.told) >= 2)
        assert calls.told[:2] == slow[:2]
        assert calls.slots.waiting == 1  # neither has gone yet


async def test_who_takes_too_long_is_told_soon_after() -> None:
    async with _calls(at_once=4, patience_seconds=1.0) as calls:
        await calls.add("one", "one", "another", "another", "newcomer")
        # Somebody waits who could go on: what is looked at once in a while must be looked at often.
        async with asyncio.timeout(6.0):
            while not calls.told:  # noqa: ASYNC110  (no event tells of it)
                await asyncio.sleep(0.01)


async def test_what_is_given_up_at_the_end_is_told_so() -> None:
    async with _calls(at_once=2) as calls:
        (received, waiting) = await calls.add("one", "one")
        calls.slots.abort()
        assert isinstance(calls.slots.refusal(received), NotReceived)
        assert isinstance((await asyncio.gather(waiting, return_exceptions=True))[0], NotReceived)
