"""Bounds the streams that watch health, which anybody may open and nobody has to end."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from runtimestore_server.budget import Bound, Budget, RetryPacing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

WATCH = "/grpc.health.v1.Health/Watch"

MOST_WATCHES = 2000
"""How many are open at once of callers who are known, or of all where nobody is asked who calls. Each holds about 20 KB
until its caller ends it."""

MOST_WATCHES_OF_STRANGERS = 200
"""How many are open at once of those who show no credential where one is asked for: they take no place of others."""


class Watches:
    """The open watches: those of strangers, and those of all others."""

    def __init__(self) -> None:
        # A pacing of their own: those who are refused here must not send callers of the store away for longer.
        pacing = RetryPacing()
        self.known, self.strangers = (
            Budget(pacing, items=Bound(most, "health_watches", "health watches are open"))
            for most in (MOST_WATCHES, MOST_WATCHES_OF_STRANGERS)
        )

    @contextmanager
    def open(self, *, stranger: bool) -> Iterator[Callable[[], None]]:
        """Count a watch for as long as it is open; what it comes with counts it among those of strangers from then on.

        Raises (that, too):
            Overloaded: too many are open; it is counted as before.
        """
        counted = self.strangers if stranger else self.known
        counted.take(0)

        def pass_to_strangers() -> None:
            nonlocal counted
            if counted is not self.strangers:
                self.strangers.take(0)
                counted.give_back(0)
                counted = self.strangers

        try:
            yield pass_to_strangers
        finally:
            counted.give_back(0)
