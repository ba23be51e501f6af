"""Progress that nobody looks at."""

from __future__ import annotations


class Nobody:
    """Who wants to see how far something long is, and does not."""

    def begin(self, step: str, total: int) -> None:
        del step, total

    def advance(self, done: int) -> None:
        del done
