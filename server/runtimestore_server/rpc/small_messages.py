"""Bounds the messages of methods whose requests are small by nature: all but those that write documents.

gRPC has one bound for all methods of a server, and knows the size of a message before it receives it, but tells nobody.
So a message that is there is measured before it is decoded; and one that comes is given up as soon as the process grows
meanwhile. Small ones come with their call, in one packet.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from runtimestore_server import memory
from runtimestore_server.documents.identifiers import bad_field

if TYPE_CHECKING:
    from collections.abc import Callable

    from runtimestore.errors import InvalidRequest, Overloaded, RuntimeStoreError
    from runtimestore_server.budget import RetryPacing
    from runtimestore_server.rpc.upload_slots import UploadSlots

MOST_BYTES = 64 * 1024
"""How large a message of these methods may be; they hold a few ids, and none of them a document."""

LOOK_SECONDS = 0.01
"""How often it is looked whether the process grows, while a message is late. gRPC receives megabytes meanwhile."""

MOST_GROWTH_BYTES = 16 * 1024 * 1024
"""How much a process may grow, for whatever reason, while it waits for a message that is late."""


LOOKS_OF_OTHERS = 4
"""How often a message to another method than health must have been found missing. On a busy loop one that has come is
seen some turns later only, and whoever is known is not to be refused for that."""


def too_large(size_bytes: int) -> InvalidRequest:
    """Make the refusal of a message that is larger than any of its method."""
    description = f"must have {MOST_BYTES} bytes at most in this method, and has {size_bytes}"
    return bad_field("request", description, size_bytes=str(size_bytes), limit_bytes=str(MOST_BYTES))


def late() -> InvalidRequest:
    """Make the refusal of a message to health that is late while the process grows."""
    description = f"must have {MOST_BYTES} bytes at most in this method, and come with the call"
    return bad_field("request", description, limit_bytes=str(MOST_BYTES))


def late_beside_growth(pacing: RetryPacing) -> Overloaded:
    """Make that of other methods, whose callers are known: it may well be another's message that makes it grow."""
    return pacing.refusal(
        "the request did not come with its call while memory was filling; nothing was done, send it again. Requests of "
        f"this method have {MOST_BYTES} bytes at most",
        limit_bytes=MOST_BYTES,
    )


class LateMessages:
    """Refuses calls whose messages are slow to arrive while the process grows; used on the event loop.

    Nobody knows whose message makes it grow: who is late then may be refused for another's, and may try again.
    Where the system does not tell how large the process is, the slots are the only bound.

    Args:
        refusal: makes what they are refused with.
        looks: how often a message must have been found missing.
        resident_bytes: how large the process is.
    """

    def __init__(
        self,
        refusal: Callable[[], RuntimeStoreError] = late,
        *,
        looks: int = 2,
        resident_bytes: Callable[[], int | None] | None = None,
    ) -> None:
        self._refusal = refusal
        self._looks = looks
        self._resident_bytes = resident_bytes or memory.resident_bytes
        self._waiting: dict[asyncio.Task[Any], _Late] = {}
        self._timer: asyncio.TimerHandle | None = None

    def begin(self, call: asyncio.Task[Any], slots: UploadSlots) -> None:
        """Look at the message of a call that has one of these slots, until `end`."""
        self._waiting[call] = _Late(slots)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(LOOK_SECONDS, self._look)

    def end(self, call: asyncio.Task[Any]) -> None:
        """Look no more: the message is there, or is not wanted; nothing happens the second time."""
        self._waiting.pop(call, None)

    def _look(self) -> None:
        self._timer = None
        if not self._waiting:
            return
        now = self._resident_bytes()
        if now is None:
            return
        for call, found in list(self._waiting.items()):
            if not found.looks:
                found.before = now
            found.looks += 1
            if found.looks >= self._looks and now - found.before > MOST_GROWTH_BYTES:
                self.end(call)
                found.slots.give_up(call, self._refusal())
        self._timer = asyncio.get_running_loop().call_later(LOOK_SECONDS, self._look)


@dataclass(slots=True)
class _Late:
    """A message that was not there at once."""

    slots: UploadSlots
    looks: int = 0
    """How often it was found missing."""
    before: int = 0
    """How large the process was the first time."""
