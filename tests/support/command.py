"""The command `runtimestore` as a process of its own, in a folder and an environment of the test's."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    import signal
    from collections.abc import Mapping
    from pathlib import Path

WAIT_SECONDS = 40
COMMAND = (sys.executable, "-m", "runtimestore_server")
_SERVING = re.compile(r"\bserving\b.*\baddress=(\S+)")


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment without settings that a developer's shell may hold, plus `extra`."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("RUNTIMESTORE_")}
    return {**inherited, "COLUMNS": "120", **(extra or {})}


def run(
    *arguments: str, cwd: Path, extra: Mapping[str, str] | None = None, command: tuple[str, ...] = COMMAND
) -> subprocess.CompletedProcess[str]:
    """A command that ends by itself."""
    return subprocess.run(
        [*command, *arguments],
        cwd=cwd,
        env=environment(extra),
        capture_output=True,
        text=True,
        check=False,
        timeout=WAIT_SECONDS,
    )


class Serving:
    """`runtimestore serve …` that runs until it is told to stop; whatever happens, it is gone after the context."""

    def __init__(self, *arguments: str, cwd: Path, extra: Mapping[str, str] | None = None) -> None:
        self._lines: list[str] = []
        self._process = subprocess.Popen(
            [*COMMAND, "serve", *arguments], cwd=cwd, env=environment(extra), stderr=subprocess.PIPE, text=True
        )
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self.exit_code()

    @property
    def log(self) -> str:
        """What it has written so far."""
        return "".join(self._lines)

    @property
    def address(self) -> str:
        """Where it serves; waits until it does."""
        self.wait_for("serving address=")
        found = _SERVING.search(self.log)
        assert found, self.log
        return found[1]

    def wait_for(self, text: str) -> None:
        """Wait until it has written `text`."""
        deadline = time.monotonic() + WAIT_SECONDS
        while text.replace(" ", "") not in self.log.replace(" ", ""):
            assert self._process.poll() is None, f"it ended before it said {text!r}:\n{self.log}"
            assert time.monotonic() < deadline, f"it did not say {text!r}:\n{self.log}"
            time.sleep(0.02)

    def tell(self, number: signal.Signals) -> None:
        """Send it a signal."""
        self._process.send_signal(number)

    def exit_code(self) -> int:
        """Its exit code, once it has ended."""
        code = self._process.wait(WAIT_SECONDS)
        self._reader.join(WAIT_SECONDS)
        assert self._process.stderr is not None
        self._process.stderr.close()
        return code

    def _read(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            self._lines.append(line)
