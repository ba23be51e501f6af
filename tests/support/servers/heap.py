"""A server that tells how much of its heap is in use."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from support.servers.server_process import WAIT_SECONDS, ServerProcess

if TYPE_CHECKING:
    from collections.abc import Iterable

_PROBE = Path(__file__).with_name("heap_probe.py")
_LOOKS = 3
_PAUSE_SECONDS = 0.2


class ProbedServer(ServerProcess):
    """`runtimestore serve`, which can be asked what is in use; `told` is a file for its answers."""

    def __init__(self, database_url: str, told: Path, **settings: Any) -> None:
        super().__init__(
            database_url,
            command=(sys.executable, str(_PROBE), "serve"),
            environment={"PYTHONMALLOC": "malloc", "HEAP_PROBE_FILE": str(told)},
            **settings,
        )
        self._told = told

    def heap_bytes(self) -> int:
        """What is in use at rest: the least of a few looks, for whatever ends in between is not lost."""
        return min(self._looks())

    def _looks(self) -> Iterable[int]:
        for _ in range(_LOOKS):
            time.sleep(_PAUSE_SECONDS)
            self._told.unlink(missing_ok=True)
            os.kill(self.pid, signal.SIGUSR1)
            deadline = time.monotonic() + WAIT_SECONDS
            while not self._told.exists():
                assert time.monotonic() < deadline, f"it did not tell:\n{self.log}"
                time.sleep(0.01)
            yield int(self._told.read_text())
