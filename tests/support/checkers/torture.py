"""How long a test of faults goes on, what its randomness begins from, and the figures that it leaves behind.

Every such test has a short form, which runs with all the others, and a long one, which `make torture` runs
(`pytest --torture`). Its figures go into the report that `--torture-report FILE` names.
"""

from __future__ import annotations

import json
import platform
import random
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

Figure = int | float | str | bool


class Trial:
    """One run of a test of faults: its length, its seed, its figures."""

    def __init__(self, name: str, *, long: bool, seed: int) -> None:
        self.name = name
        self.long = long
        self.seed = seed
        self.random = random.Random(seed)  # noqa: S311  (repeatable on purpose)
        """All randomness of the test comes from here, so that `--seed` repeats it."""
        self.figures: dict[str, Figure] = {}
        self._started = time.monotonic()

    def rounds(self, *, short: int, long: int) -> int:
        """How often: a few times with all the tests, as often as promised under `make torture`."""
        return long if self.long else short

    def record(self, **figures: Figure) -> None:
        """Keep figures for the report; the same name again replaces."""
        self.figures.update(figures)

    def report(self) -> dict[str, Any]:
        """What the report says of this trial."""
        seconds = round(time.monotonic() - self._started, 1)
        return {"seed": self.seed, "seconds": seconds, "figures": dict(self.figures)}


def write_report(path: Path, trials: Mapping[str, Mapping[str, Any]]) -> None:
    """Write the report of a whole run as JSON."""
    machine = {"python": platform.python_version(), "system": platform.platform()}
    path.write_text(json.dumps({"machine": machine, "trials": trials}, indent=2) + "\n", encoding="utf-8")
