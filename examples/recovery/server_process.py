"""A server as a real process: started, waited for, killed, stopped."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

READY_LINE = re.compile(r"serving\b.*\baddress=[\"']?(?P<address>[^\s\"']+)")
"""What a server writes to stderr when it serves."""

KEPT_LOG_LINES = 200


class ServerFailed(Exception):
    """The server did not come up, or did not go in time; its last log lines are in the message."""


class ServerProcess:
    """One server process. As a context manager it leaves no process behind, whatever happens inside."""

    def __init__(
        self,
        arguments: Sequence[str],
        *,
        cwd: Path | None = None,
        python: str = sys.executable,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """`environment` is what it has beside what we have."""
        # Settings of the caller's shell stay out: what the server does is said by its arguments alone.
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("RUNTIMESTORE_")}
        # A session of its own: Ctrl-C reaches the caller alone, and the caller decides what becomes of the server.
        self._process = subprocess.Popen(  # noqa: S603 - an interpreter and arguments of our own, no shell
            [python, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            cwd=cwd,
            env={**inherited, **(environment or {})},
            start_new_session=True,
        )
        self._log: deque[str] = deque(maxlen=KEPT_LOG_LINES)
        self._address: str | None = None
        self._ready = threading.Event()
        self._reader = threading.Thread(target=self._read_log, name="server-log", daemon=True)
        self._reader.start()

    @classmethod
    def serve(
        cls,
        database_url: str,
        *options: str,
        python: str = sys.executable,
        environment: Mapping[str, str] | None = None,
    ) -> Self:
        """Start `runtimestore serve` on a free port of the loopback interface."""
        command = ("-m", "runtimestore_server", "serve", "--listen", "127.0.0.1:0", "--database-url", database_url)
        return cls((*command, *options), python=python, environment=environment)

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    def wait_until_ready(self, timeout_seconds: float = 30.0) -> str:
        """The address that the server serves on, as soon as it says so.

        Raises:
            ServerFailed: it ended, or said nothing in time.
        """
        give_up_at = time.monotonic() + timeout_seconds
        while not self._ready.wait(0.05):
            if self._process.poll() is not None:
                self._reader.join(1.0)
                raise ServerFailed(f"The server ended with {self._process.returncode} before it served.\n{self.log}")
            if time.monotonic() > give_up_at:
                raise ServerFailed(f"The server did not serve within {timeout_seconds:g} s.\n{self.log}")
        if self._address is None:
            raise ServerFailed(f"The server ended before it served.\n{self.log}")
        return self._address

    @property
    def log(self) -> str:
        """The last lines that the server wrote."""
        return "\n".join(self._log)

    def kill(self) -> None:
        """End the process by SIGKILL: no handler runs, nothing is flushed."""
        self._process.kill()
        self._process.wait()

    def stop(self, timeout_seconds: float = 20.0) -> int:
        """End the process by SIGTERM and return its exit code.

        Raises:
            ServerFailed: it did not end in time.
        """
        self._process.terminate()
        try:
            return self._process.wait(timeout_seconds)
        except subprocess.TimeoutExpired:
            raise ServerFailed(f"The server did not end within {timeout_seconds:g} s of SIGTERM.\n{self.log}") from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self.kill()
        self._reader.join(1.0)
        if self._process.stderr is not None and not self._reader.is_alive():
            self._process.stderr.close()

    def _read_log(self) -> None:
        """Read on and on: a full pipe would stop the server."""
        assert self._process.stderr is not None  # noqa: S101 - for the type checker; it was asked for above
        for line in self._process.stderr:
            self._log.append(line.rstrip())
            if self._address is None and (match := READY_LINE.search(line)):
                self._address = match["address"]
                self._ready.set()
        self._ready.set()
