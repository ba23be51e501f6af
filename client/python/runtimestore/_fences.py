"""Remembers the fences of the runtimes that a client acquired."""

from __future__ import annotations

import threading

__all__ = ["Fences"]


class Fences:
    """The fence of each runtime that the client acquired: it goes with every write to it."""

    def __init__(self) -> None:
        self._fences: dict[str, int] = {}
        self._lock = threading.Lock()

    def held(self, runtime_id: str) -> int | None:
        """Return the fence that is sent with writes to the runtime; `None` if the client did not acquire it."""
        return self._fences.get(runtime_id)

    def hold(self, runtime_id: str, fence: int, *, instead_of: int | None) -> None:
        """Send this fence with every write to the runtime from now on; `instead_of` was held when it was asked for.

        Without `instead_of` it takes the place of older ones only.
        """
        with self._lock:
            held = self._fences.get(runtime_id)
            # Of two that were asked for at once the greater is the newer, whichever was answered last. But not the
            # greatest ever seen: a store that was restored from a backup counts from there.
            self._fences[runtime_id] = fence if held is None or held == instead_of else max(fence, held)
