"""The test's end of `crash/zygote.py`: processes that are quick to start and are there to be killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from types import TracebackType

TESTS = Path(__file__).resolve().parents[2]
START_SECONDS = 30
END_SECONDS = 30


class Zygote:
    """The process that forks others. Nothing of it, or of them, is left after the context."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._servers = 0

    def __enter__(self) -> Self:
        path = os.pathsep.join(filter(None, (str(TESTS), os.environ.get("PYTHONPATH"))))
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("RUNTIMESTORE_")}
        self._process = subprocess.Popen(
            [sys.executable, str(TESTS / "crash" / "zygote.py")],
            env={**inherited, "PYTHONPATH": path},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        code = self._process.wait(END_SECONDS)
        self._process.stdout.close()
        assert code == 0

    def serve(self, database_url: str) -> ForkedServer:
        """`runtimestore serve` on a database; returns before it serves."""
        self._servers += 1
        return ForkedServer(self, database_url, self._folder / f"{self._servers}")

    def commit(
        self,
        database_url: str,
        realm: str,
        turns: list[dict[str, int]],
        *,
        dies_at: int | None = None,
        dies_within_seconds: float | None = None,
    ) -> dict[str, Any]:
        """Batches of lives' turns, committed by a process that kills itself at a step, or some time into a COMMIT."""
        found: dict[str, Any] = self.ask(
            "commit",
            url=database_url,
            realm=realm,
            turns=turns,
            dies_at=dies_at,
            dies_within_seconds=dies_within_seconds,
        )
        return found

    def ask(self, do: str, **arguments: Any) -> Any:
        """The answer to a command."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"do": do, **arguments}) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        assert answer, "the zygote ended"
        return json.loads(answer)


class ForkedServer:
    """A server at a unix socket."""

    def __init__(self, zygote: Zygote, database_url: str, path: Path) -> None:
        self._zygote = zygote
        self._log = path.with_suffix(".log")
        self._socket = path.with_suffix(".sock")
        self.address = f"unix:{self._socket}"
        environment = {
            "RUNTIMESTORE_DATABASE_URL": database_url,
            "RUNTIMESTORE_LISTEN": self.address,
            "RUNTIMESTORE_HEALTH_INTERVAL_SECONDS": "60",
        }
        self._process: int = zygote.ask("serve", environment=environment, log=str(self._log))

    def wait_until_it_serves(self) -> None:
        """Wait until it says so."""
        deadline = time.monotonic() + START_SECONDS
        while not self._log.exists() or " serving " not in self._log.read_text():
            assert time.monotonic() < deadline, self._log.read_text()
            time.sleep(0.002)

    def kill(self) -> None:
        """End it as a crash would; returns when it is gone."""
        os.kill(self._process, signal.SIGKILL)
        assert self._zygote.ask("wait", process=self._process) == -signal.SIGKILL, self._log.read_text()
        self._log.unlink(missing_ok=True)
        self._socket.unlink(missing_ok=True)
