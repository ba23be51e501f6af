"""Answers `/readyz`: the outcome of the last look at each thing that serving needs, without a look of its own."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

NOT_LOOKED = "nobody has looked for too long: the server is stuck"


class Readiness:
    """Named checks and what they found; told on one thread, read on any.

    Args:
        stale_seconds: how old the last look may be.
    """

    def __init__(self, *, stale_seconds: float) -> None:
        self._stale_seconds = stale_seconds
        self._lock = threading.Lock()
        self._problems: dict[str, str | None] = {}
        self._looked = time.monotonic()
        self._own: dict[str, Callable[[], str | None]] = {}
        self._warnings: dict[str, Callable[[], str | None]] = {}

    def report(self, problems: Mapping[str, str | None]) -> None:
        """Store what checks found: why each fails, or None. Checks that are not among them keep what they had."""
        with self._lock:
            self._problems |= problems
            self._looked = time.monotonic()

    def add(self, name: str, problem: Callable[[], str | None]) -> None:
        """Add a check that is asked each time, on the thread of whoever asks; it may wait for nothing."""
        self._own[name] = problem

    def add_warning(self, name: str, warning: Callable[[], str | None]) -> None:
        """Add a check that is asked like those of `add`, but tells of what does not keep the server from serving."""
        self._warnings[name] = warning

    def warnings(self) -> dict[str, str | None]:
        """Tell what somebody should look after while the server serves, by the check's name; None where nothing is."""
        return {name: _asked(warning) for name, warning in self._warnings.items()}

    def checks(self) -> dict[str, str | None]:
        """Say why each check fails, by name; None where it does not. Of `warnings` there are the names."""
        with self._lock:
            found = {**self._problems}
            stale = time.monotonic() - self._looked > self._stale_seconds
        found["event loop"] = NOT_LOOKED if stale else None
        found |= {name: _asked(problem) for name, problem in self._own.items()}
        return found | dict.fromkeys(self._warnings)


def _asked(check: Callable[[], str | None]) -> str | None:
    try:
        return check()
    except Exception as error:  # noqa: BLE001  (a check that fails is not passed)
        return f"the check failed: {type(error).__name__}"
