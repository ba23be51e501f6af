"""The server as a process of its own, as people start it: waited for, spoken to by signals, killed, stopped."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from queue import Empty, Queue
from typing import TYPE_CHECKING, Any, Self

from support.servers.forked_command import ForkedCommand, can_be_forked

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path
    from types import TracebackType

COMMAND = (sys.executable, "-m", "runtimestore_server")
SERVE = (*COMMAND, "serve")
ANY_PORT = "127.0.0.1:0"
START_SECONDS = 60
WAIT_SECONDS = 60
_ADDRESS = re.compile(r'(?=.*\bserving\b).*\baddress(?:=|": ")([^\s"]+)')  # as text and as JSON


def environment_with(settings: Mapping[str, str]) -> dict[str, str]:
    """The environment without settings that a developer's shell may hold, plus `settings`.

    Without metrics, unless they are asked for: many servers run at once, and their port is one.
    """
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("RUNTIMESTORE_", "OTEL_"))}
    return {**inherited, "RUNTIMESTORE_METRICS_LISTEN": "", **settings}


class ServerProcess:
    """`runtimestore serve` in a context: it serves on entering, and on leaving SIGTERM must end it with `exit_code`.

    It is forked, where that makes no difference to it, unless a `command` is given: `SERVE` starts it as people do.
    Settings are given by their names, in the environment, and `environment` has the last word. Without a database URL
    or with `listen=None` these two are left to `arguments`, `environment` or a file. To start a server anew where
    another one was, give its `address` as `listen`.
    """

    def __init__(
        self,
        database_url: str | None = None,
        *,
        listen: str | None = ANY_PORT,
        command: Sequence[str] | None = None,
        arguments: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        exit_code: int = 0,
        **settings: Any,
    ) -> None:
        given = {"database_url": database_url, "listen": listen, **settings}
        named = {f"RUNTIMESTORE_{name.upper()}": str(value) for name, value in given.items() if value is not None}
        self._environment = environment_with({**named, **(environment or {})})
        self._command = command
        self._arguments = arguments
        self._cwd = cwd
        self._exit_code = exit_code
        self._process: subprocess.Popen[str] | ForkedCommand
        self._reader: threading.Thread
        self.address = ""
        self.lines: list[str] = []

    def __enter__(self) -> Self:
        if self._command is None and can_be_forked(self._environment):
            arguments = ["serve", *self._arguments]
            self._process = ForkedCommand(arguments, environment=self._environment, cwd=self._cwd)
        else:
            self._process = subprocess.Popen(
                [*(self._command or SERVE), *self._arguments],
                cwd=self._cwd,
                env=self._environment,
                stderr=subprocess.PIPE,
                text=True,
                errors="replace",  # a reader that dies of a byte lets the server stand still at its full pipe
                start_new_session=True,
            )
        address: Queue[str | None] = Queue()
        self._reader = threading.Thread(target=self._read, args=(address,), daemon=True)
        self._reader.start()
        try:
            found = address.get(timeout=START_SECONDS)
        except Empty:
            found = None
        if found is None:
            self.kill()
            raise AssertionError(f"the server did not come up:\n{self.log}")
        self.address = found
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.send_signal(signal.SIGTERM)
        self.send_signal(signal.SIGCONT)  # one that a test has stopped would not notice
        try:
            code = self.wait()
        except subprocess.TimeoutExpired:
            self.kill()
            raise
        if error is None:
            assert code in {self._exit_code, -signal.SIGKILL}, f"exit code {code}:\n{self.log}"

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    @property
    def log(self) -> str:
        """What the server has written so far."""
        return "".join(self.lines)

    def wait_for(self, text: str) -> None:
        """Wait until it has written `text`; spaces do not count, for they line columns up."""
        deadline = time.monotonic() + WAIT_SECONDS
        while text.replace(" ", "") not in self.log.replace(" ", ""):
            assert self._process.poll() is None, f"it ended before it said {text!r}:\n{self.log}"
            assert time.monotonic() < deadline, f"it did not say {text!r}:\n{self.log}"
            time.sleep(0.02)

    def send_signal(self, number: int) -> None:
        """Send a signal, if it is still there: to its group, for a server behind make or a shell is meant too."""
        if self._process.poll() is None:
            os.killpg(self._process.pid, number)

    def terminate(self) -> None:
        """Tell it to stop, and do not wait."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it as a crash would."""
        self.send_signal(signal.SIGKILL)
        self.wait()

    def wait(self) -> int:
        """Its exit code, once it has ended and all that it wrote is in `lines`."""
        code = self._process.wait(WAIT_SECONDS)
        self._reader.join(WAIT_SECONDS)
        for stream in (self._process.stdout, self._process.stderr):
            if stream is not None:
                stream.close()
        return code

    def _read(self, address: Queue[str | None]) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            self.lines.append(line)
            if found := _ADDRESS.match(line):
                address.put(found[1])
        address.put(None)
