"""Bounds the streams that watch health, which anybody may open and nobody has to end."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from runtimestore_server.budget import Bound, Budget, RetryPacing

if TYPE_CHECKING:
    from collections.abc import Iterator

WATCH = "/grpc.health.v1.Health/Watch"

MOST_WATCHES = 2000
"""How many are open at once of callers who are known, or of all where nobody is asked who calls. Each holds about 20 KB
until its caller ends it."""

MOST_WATCHES_OF_STRANGERS = 200
"""How many are open at once of those who show no credential where one is asked for: they take no place of others."""


class OpenWatch:
    """A watch that is open, and among whom it is counted."""

    def __init__(self, budget: Budget, strangers: Budget) -> None:
        self._strangers = strangers
        self.budget = budget
        budget.take(0)

    def pass_to_strangers(self) -> None:
        """Count it among those of strangers from now on.

        Raises:
            Overloaded: too many of theirs are open; it is counted as before.
        """
        if self.budget is not self._strangers:
            self._strangers.take(0)
            self.budget.give_back(0)
            self.budget = self._strangers

    def close(self) -> None:
        """Count it no more."""
        self.budget.give_back(0)


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
    def open(self, *, stranger: bool) -> Iterator[OpenWatch]:
        """Count a watch for as long as it is open.

        Raises:
            Overloaded: too many are open.
        """
        watch = OpenWatch(self.strangers if stranger else self.known, self.strangers)
        try:
            yield watch
        finally:
            watch.close()
