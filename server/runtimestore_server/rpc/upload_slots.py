"""Bounds how many messages are received at once.

gRPC keeps each whole, and nobody knows its size before it is there.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, OrderedDict
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from runtimestore.errors import RuntimeStoreError
    from runtimestore_server.budget import RetryPacing


ENDS = "the server is shutting down"
"""Why most messages that have not come are received no more."""

RELEASE_SECONDS = 1.0
"""How long a call that was given up keeps its slot at most, while gRPC lets go of its message. That takes a moment, but
for a connection that takes nothing any more: it must not keep the slots of all."""


LATE_SHARE = 0.25
"""Who kept a slot for longer than this share of the patience was late: a message that is sent is there by then."""

MOST_LATE = 4096
"""How many connections it is remembered of that they were late; the oldest are forgotten first."""


class NotReceived(Exception):
    """The message has not come and will not be received, for a reason that is the server's."""

    def __init__(self, because: str = ENDS) -> None:
        super().__init__(because)
        self.because = because


class _Slot(NamedTuple):
    """What a call has whose message is being received."""

    connection: str
    since: float


class UploadSlots:
    """Lets the messages of few calls be received at once; more calls wait for their turn.

    Turns go round the connections, and one connection never has more than half of the slots: what stands still on one
    keeps nobody else out. Of what waits gRPC holds no more than its window of a stream. A message that takes too long
    while others wait is refused; its call ends, gRPC drops what it had of it, and then the slot is free. So the bound
    holds whatever callers do.

    A call is the task that receives its message, runs its handler and sends its answer.

    Args:
        at_once: how many slots there are.
        patience_seconds: how long a message may be on its way while another connection, which has no slot, waits for
            one, and this connection has more.
        longest_seconds: how long a message may be on its way while anybody waits for its slot.
        pacing: tells after how long one who is refused should come back.
        late_seconds: for how long a connection that was late has its turns after those that were not.
    """

    def __init__(
        self,
        *,
        at_once: int,
        patience_seconds: float,
        longest_seconds: float,
        pacing: RetryPacing,
        late_seconds: float = 0.0,
    ) -> None:
        self.at_once = at_once
        self._share = (at_once + 1) // 2
        self._patience_seconds = patience_seconds
        self._longest_seconds = longest_seconds
        self._pacing = pacing
        self._late_seconds = late_seconds
        self._late_until: OrderedDict[str, float] = OrderedDict()
        self._slots: dict[asyncio.Task[Any], _Slot] = {}
        self._held: Counter[str] = Counter()
        self._queues: OrderedDict[str, OrderedDict[asyncio.Task[Any], asyncio.Future[None]]] = OrderedDict()
        self._refused: dict[asyncio.Task[Any], RuntimeStoreError | NotReceived] = {}
        self._receiving: dict[asyncio.Task[Any], Callable[[RuntimeStoreError | NotReceived], None]] = {}
        self._leaving: set[asyncio.Task[Any]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self.waiting = 0
        """How many calls wait for their turn."""

    @property
    def received(self) -> int:
        """How many messages are being received."""
        return len(self._slots)

    async def begin(self, call: asyncio.Task[Any], connection: str) -> bool:
        """Wait for the call's turn, and count it until `end`, however this ends; whether it had to wait.

        Raises:
            NotReceived: the server ends.
        """
        if not self.must_wait(connection):
            self.take(call, connection)
            return False
        turn = asyncio.get_running_loop().create_future()
        self._queues.setdefault(connection, OrderedDict())[call] = turn
        self.waiting += 1
        self._watch()
        try:
            await turn
        except BaseException:
            self._leave(call, connection)
            raise
        return True

    def end(self, call: asyncio.Task[Any]) -> None:
        """Give up the slot: the call's message is there, or is not wanted; nothing happens the second time."""
        self._refused.pop(call, None)
        self._receiving.pop(call, None)
        self._release(call)

    def receiving(self, call: asyncio.Task[Any], tell: Callable[[RuntimeStoreError | NotReceived], None]) -> None:
        """Note that gRPC has begun to receive the message of a call that has a slot.

        Given up from now on, the call is not cancelled, for gRPC would go on behind its back: its caller is told by
        `tell`, with which gRPC ends it, and the call waits until gRPC has.
        """
        self._receiving[call] = tell

    def _release(self, call: asyncio.Task[Any]) -> None:
        """Let the next one have the slot of a call, if the call has one."""
        self._leaving.discard(call)
        slot = self._slots.pop(call, None)
        if slot is None:
            return
        self._held[slot.connection] -= 1
        if not self._held[slot.connection]:
            del self._held[slot.connection]
        if self._late_seconds and time.monotonic() - slot.since > self._patience_seconds * LATE_SHARE:
            self._note_late(slot.connection)
        self._give()

    def _note_late(self, connection: str) -> None:
        """Have the turns of a connection come after those of others for a while."""
        self._late_until[connection] = time.monotonic() + self._late_seconds
        self._late_until.move_to_end(connection)
        if len(self._late_until) > MOST_LATE:
            self._late_until.popitem(last=False)

    def _was_late(self, connection: str) -> bool:
        return self._late_until.get(connection, 0.0) > time.monotonic()

    def refusal(self, call: asyncio.Task[Any]) -> RuntimeStoreError | NotReceived | None:
        """Say why the call's message was given up, if the call was cancelled for that."""
        return self._refused.get(call)

    def abort(self, because: str = ENDS) -> None:
        """Give up whatever waits or is being received."""
        for queue in self._queues.values():
            for turn in queue.values():
                if not turn.done():
                    turn.set_exception(NotReceived(because))
        for call in list(self._slots):
            self.give_up(call, NotReceived(because))

    def must_wait(self, connection: str) -> bool:
        """Tell whether there is no slot for one more call of this connection now."""
        room = len(self._slots) < self.at_once and self._held[connection] < self._share
        return not room or connection in self._queues

    def take(self, call: asyncio.Task[Any], connection: str) -> None:
        """Give the call a slot, until `end`; there must be one for it."""
        self._slots[call] = _Slot(connection, time.monotonic())
        self._held[connection] += 1

    def _leave(self, call: asyncio.Task[Any], connection: str) -> None:
        """Take a call that goes while it waits out of the queue."""
        queue = self._queues.get(connection)
        if queue is not None and queue.pop(call, None) is not None:
            self.waiting -= 1
            if not queue:
                del self._queues[connection]

    def _give(self) -> None:
        """Give free slots to those who wait, to each connection in turn."""
        while len(self._slots) < self.at_once and (connection := self._next()) is not None:
            queue = self._queues[connection]
            self._queues.move_to_end(connection)
            call, turn = queue.popitem(last=False)
            self.waiting -= 1
            if not queue:
                del self._queues[connection]
            if not turn.done():
                self.take(call, connection)
                turn.set_result(None)

    def _next(self) -> str | None:
        """Find the connection whose turn it is, of those without their share: who was late comes after the others."""
        late = None
        for connection in self._queues:
            if self._held[connection] >= self._share:
                continue
            if not self._was_late(connection):
                return connection
            late = late or connection
        return late

    def _watch(self) -> None:
        if self._timer is None and self._queues:
            self._timer = asyncio.get_running_loop().call_later(self._patience_seconds / 10, self._look)

    def _look(self) -> None:
        """Refuse one upload that takes too long, if another call waits for its slot; the next look finds the next.

        Where the slot of one is about to be free, nobody else has to go.
        """
        self._timer = None
        call = None if self._leaving else next(self._too_long(), None)
        if call is not None:
            told = "the message took too long to arrive while others waited for its place; nothing was done"
            self.give_up(call, self._pacing.refusal(told, waiting_to_be_received=self.waiting))
        self._watch()

    def _too_long(self) -> Iterator[asyncio.Task[Any]]:
        """Yield whose slots others need more, those that began first before all."""
        if not self._queues:
            return  # whoever waited when this look was arranged has a slot by now, or has gone
        now = time.monotonic()
        full = len(self._slots) >= self.at_once
        newcomers = [connection for connection in self._queues if not self._held[connection]]  # no slot is for them
        prompt = any(not self._was_late(connection) for connection in newcomers)
        for call, slot in self._slots.items():
            if call not in self._refused and (full or slot.connection in self._queues):
                for_newcomers = (newcomers and self._held[slot.connection] > 1) or (
                    prompt and self._was_late(slot.connection)
                )
                if now - slot.since >= (self._patience_seconds if for_newcomers else self._longest_seconds):
                    yield call

    def give_up(self, call: asyncio.Task[Any], error: RuntimeStoreError | NotReceived) -> None:
        """Refuse a call, whose message is being received, with this error."""
        if call in self._refused:
            return
        self._refused[call] = error
        if (tell := self._receiving.get(call)) is None:
            call.cancel()
            return
        self._leaving.add(call)
        tell(error)
        asyncio.get_running_loop().call_later(RELEASE_SECONDS, self._leave_behind, call)

    def _leave_behind(self, call: asyncio.Task[Any]) -> None:
        """Free the slot of a refused call whose caller could not be told in time."""
        if call in self._leaving:
            self._release(call)
