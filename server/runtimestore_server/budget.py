"""Bounds how much may be held at once, and paces those who were refused for it."""

from __future__ import annotations

import time
from dataclasses import dataclass

from runtimestore.errors import Overloaded

REFUSALS_PER_SECOND = 100
"""How many of those who were refused come back in a second. A refusal costs a good part of what serving a small call
costs; ten times the load that a server can take would leave it little time for anything else."""

SOONEST_SECONDS = 0.1
LATEST_SECONDS = 10.0
"""Beyond this no order can be kept: callers give up, and a server should not look dead to those who remain."""


class RetryPacing:
    """Spreads the retries of refused callers over time, so that refusals alone never use the server up.

    One after the other while there are many, soon again when there are few.
    """

    def __init__(self) -> None:
        self._next = 0.0

    def seconds(self) -> float:
        """Tell after how long one more caller should come back."""
        now = time.monotonic()
        self._next = min(max(self._next + 1 / REFUSALS_PER_SECOND, now + SOONEST_SECONDS), now + LATEST_SECONDS)
        return self._next - now

    def refusal(self, told: str, **metadata: object) -> Overloaded:
        """Make the refusal of one for whom there is no room now, and say when to come back."""
        metadata_told = {key: str(value) for key, value in metadata.items()}
        return Overloaded(told, metadata=metadata_told, retry_after_seconds=self.seconds())


@dataclass(slots=True)
class Bound:
    """The most of one thing that a budget lets in, and how its refusal names it."""

    most: int
    key: str
    """Under which the refusal's metadata tell how much there is."""
    words: str
    """What the refusal's sentence says after the number."""


class Budget:
    """Counts what is held at once, in items and in bytes, and refuses what would go beyond its bounds.

    The bytes go beyond their bound in one case: what is larger than the whole bound must still find its way in when
    nothing else that has a size is there.
    """

    def __init__(self, pacing: RetryPacing, *, items: Bound | None = None, size: Bound | None = None) -> None:
        self._pacing = pacing
        self.items_bound = items
        self.size_bound = size
        self.items = 0
        self.bytes = 0

    def refusal(self, size_bytes: int | None = 0, *, ahead: int = 0, items: int = 1) -> Overloaded | None:
        """Return why one more item would exceed a bound, given how many others go first; None if it fits.

        An item without a size (None) is not asked for bytes; one of 0 bytes is refused where the bound is exceeded.
        With 0 items it is a part of one that is held.
        """
        bound = self.items_bound
        if bound is not None and items and (held := self.items + ahead) >= bound.most:
            return self._of(bound, held)
        bound = self.size_bound
        if bound is None or size_bytes is None or not self.bytes or self.bytes + size_bytes <= bound.most:
            return None
        return self._of(bound, self.bytes)

    def _of(self, bound: Bound, held: int) -> Overloaded:
        return self._pacing.refusal(f"{held} {bound.words}; try again later", **{bound.key: held})

    def take(self, size_bytes: int | None = 0, *, items: int = 1) -> None:
        """Count one more item and its bytes until they are given back; with 0 items, more bytes of a counted one.

        Raises:
            Overloaded: it would go beyond a bound; nothing is held of it.
        """
        if (refusal := self.refusal(size_bytes, items=items)) is not None:
            raise refusal
        self.items += items
        self.bytes += size_bytes or 0

    def give_back(self, size_bytes: int | None = 0, *, items: int = 1) -> None:
        """Stop counting items and their bytes; with 0 items, a part of one item's bytes."""
        self.items -= items
        self.bytes -= size_bytes or 0
