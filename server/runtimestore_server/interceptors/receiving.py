"""How many messages are received at once: gRPC keeps each whole, and nobody knows its size before it is there."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from typing import Any

PATIENCE_SECONDS = 10.0
"""How long a message may be on its way and keep a place. What comes slower, or stands still, is received for as long as
it takes, but no longer counts."""

STANDSTILL_SECONDS = 2.0
"""How long calls wait while no message at all arrives whole. Then all of them are let in: nobody's bad network, and no
number of callers who stand still, keeps everybody else out."""


class Receiving:
    """The calls whose messages are being received, few at once; more wait for their turn in the order they came.

    Of what waits gRPC holds no more than its window of a stream.
    """

    def __init__(self, *, at_once: int) -> None:
        self._at_once = at_once
        self._since: dict[asyncio.Task[Any], float] = {}
        self._waiting: OrderedDict[asyncio.Task[Any], asyncio.Future[None]] = OrderedDict()
        self._last_received = 0.0
        self._timer: asyncio.TimerHandle | None = None

    @property
    def waiting(self) -> int:
        """How many calls wait for their turn."""
        return len(self._waiting)

    async def begin(self) -> bool:
        """Wait for the turn of the call whose task this is, and count it until `end`; whether it had to wait."""
        call = _this_call()
        call.add_done_callback(self._over)  # however it ends, its place must not be lost
        if len(self._since) < self._at_once:
            self._since[call] = time.monotonic()
            return False
        turn = self._waiting[call] = asyncio.get_running_loop().create_future()
        if len(self._waiting) == 1:
            self._last_received = time.monotonic()  # nobody has waited for anything until now
        self._watch()
        await turn
        return True

    def end(self) -> None:
        """The message of this task's call is there, or is not wanted."""
        call = _this_call()
        if call in self._since:
            self._last_received = time.monotonic()
        self._over(call)

    def _over(self, call: asyncio.Task[Any]) -> None:
        """Nothing happens the second time."""
        self._waiting.pop(call, None)
        if self._since.pop(call, None) is None:
            return
        while self._waiting and len(self._since) < self._at_once:
            following, turn = self._waiting.popitem(last=False)
            if not turn.done():
                self._since[following] = time.monotonic()
                turn.set_result(None)

    def _watch(self) -> None:
        if self._timer is None and self._waiting:
            at = self._last_received + STANDSTILL_SECONDS
            if self._since:
                at = min(at, next(iter(self._since.values())) + PATIENCE_SECONDS)
            self._timer = asyncio.get_running_loop().call_later(max(0.001, at - time.monotonic()), self._look)

    def _look(self) -> None:
        """Give away the places of those who are too slow, and at a standstill let everybody in."""
        self._timer = None
        now = time.monotonic()
        for call in [call for call, since in self._since.items() if since <= now - PATIENCE_SECONDS]:
            self._over(call)
        if self._waiting and self._last_received <= now - STANDSTILL_SECONDS:
            self._since.clear()
            for turn in self._waiting.values():
                if not turn.done():
                    turn.set_result(None)
            self._waiting.clear()
        self._watch()


def _this_call() -> asyncio.Task[Any]:
    """The task that receives the message of a call, runs its handler and sends its answer."""
    if (call := asyncio.current_task()) is None:
        raise RuntimeError("messages are received in the tasks of their calls")
    return call
