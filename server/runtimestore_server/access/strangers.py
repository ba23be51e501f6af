"""Bounds the open calls of unauthenticated callers (strangers), and closes the connection that has most of them.

A stranger's call is over when its connection has taken the answer or the refusal. One that lets nothing be sent to it
(a window of no bytes) takes none: each of its calls then stays, with some 13 KB, until the connection ends.
"""

from __future__ import annotations

import time
from collections import Counter
from typing import TYPE_CHECKING, Any

import structlog

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

_log = structlog.get_logger(__name__)

MOST_CALLS = 5000
"""How many are open at once: 65 MB. Those that watch health and those that wait to ask for it are among them."""

TELL_SECONDS = 1.0
"""How often a line tells of connections that were closed."""


class StrangersCalls:
    """Counts the calls of strangers, on the event loop.

    Args:
        close: closes the connection of a peer.
    """

    def __init__(self, close: Callable[[str], bool]) -> None:
        self._close = close
        self._open: Counter[str] = Counter()
        self._closing: set[str] = set()
        self._total = 0
        self._told = -TELL_SECONDS
        self.closed = 0
        """How many connections were closed since the start."""

    def __len__(self) -> int:
        return self._total

    def add(self, call: asyncio.Task[Any], peer: str) -> None:
        """Count a call until it is over; where there are too many, the connection that has most of them is closed."""
        self._open[peer] += 1
        self._total += 1
        call.add_done_callback(lambda _call: self._over(peer))
        if self._total > MOST_CALLS:
            self._close_largest()

    def _over(self, peer: str) -> None:
        self._total -= 1
        self._open[peer] -= 1
        if not self._open[peer]:
            del self._open[peer]
            self._closing.discard(peer)

    def _close_largest(self) -> None:
        """Close the connection with most of the calls that are not about to end; once for each."""
        if self._total - sum(self._open[peer] for peer in self._closing) <= MOST_CALLS:
            return  # those of the connections that were closed are about to end
        peer = max((peer for peer in self._open if peer not in self._closing), key=self._open.__getitem__)
        self._closing.add(peer)
        if not self._close(peer):
            return
        self.closed += 1
        if (now := time.monotonic()) - self._told >= TELL_SECONDS:
            self._told = now
            _log.warning(
                "a connection of strangers was closed: it had most of their calls, and too many were open",
                peer=peer,
                calls=self._open[peer],
                closed=self.closed,
            )
