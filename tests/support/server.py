"""Servers to test against: one in this process, and one in a process of its own that can be killed."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
from queue import Empty, Queue
from typing import TYPE_CHECKING, Any, Self

from pydantic import SecretStr

from runtimestore_server.app import Application
from runtimestore_server.settings import Settings
from support.clean_up import open_connections

if TYPE_CHECKING:
    import threading as _threading
    from collections.abc import AsyncIterator
    from types import TracebackType

START_SECONDS = 60
STOP_SECONDS = 30
_SERVING = re.compile(r"\bserving\b.*\baddress=(\S+)")


@contextlib.asynccontextmanager
async def in_process(database_url: str, **settings: Any) -> AsyncIterator[Application]:
    """A running server in this process; afterwards no thread and no connection of it is left."""
    app = Application(
        Settings(
            _env_file=None,
            listen="127.0.0.1:0",
            database_url=SecretStr(database_url),
            grace_period_seconds=settings.pop("grace_period_seconds", 5.0),
            **settings,
        )
    )
    async with app:
        yield app
        pools = (app.store.database.writers.pool, app.store.database.readers.pool)
        threads = {lane._thread for lane in app.store._committer._lanes} | set(app.store._readers._threads._threads)
    assert app.ended
    assert [thread.name for thread in threads if thread.is_alive()] == []
    assert await open_connections(pools) == 0


class ServerProcess:
    """`runtimestore serve` as a process of its own. Leaving the context ends it by SIGTERM; `kill` by SIGKILL."""

    def __init__(self, database_url: str, **settings: Any) -> None:
        self._environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("RUNTIMESTORE_")},
            "RUNTIMESTORE_DATABASE_URL": database_url,
            "RUNTIMESTORE_LISTEN": "127.0.0.1:0",
            **{f"RUNTIMESTORE_{name.upper()}": str(value) for name, value in settings.items()},
        }
        self.address = ""
        self.lines: list[str] = []
        self._process: subprocess.Popen[str]
        self._reader: _threading.Thread

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "runtimestore_server", "serve"],
            env=self._environment,
            stderr=subprocess.PIPE,
            text=True,
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
        killed = self._process.poll() == -signal.SIGKILL
        if not killed:
            self._process.terminate()
        try:
            code = self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()
            raise
        self._end_reader()
        assert killed or code == 0, self.log

    @property
    def log(self) -> str:
        """What the server wrote."""
        return "".join(self.lines)

    def kill(self) -> None:
        """End it as a crash would."""
        self._process.kill()
        self._process.wait(STOP_SECONDS)
        self._end_reader()

    def _end_reader(self) -> None:
        self._reader.join()
        assert self._process.stderr is not None
        self._process.stderr.close()

    def _read(self, address: Queue[str | None]) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            self.lines.append(line)
            if found := _SERVING.search(line):
                address.put(found[1])
        address.put(None)
