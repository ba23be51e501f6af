"""The server as a process of its own, as people start it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from contextlib import contextmanager
from queue import Empty, Queue
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

START_SECONDS = 60
STOP_SECONDS = 30
_SERVING = re.compile(r"\bserving\b.*\baddress=(\S+)")


@contextmanager
def serving(
    directory: Path,
    *,
    command: Sequence[str] = (sys.executable, "-m", "runtimestore_server", "serve"),
    environment: Mapping[str, str] | None = None,
    exit_code: int = 0,
) -> Iterator[str]:
    """The address of a server on a SQLite file in `directory`; on leaving, SIGTERM must end it with `exit_code`."""
    settings = {"RUNTIMESTORE_LISTEN": "127.0.0.1:0", "RUNTIMESTORE_DATABASE_URL": f"sqlite:///{directory}/store.db"}
    with subprocess.Popen(
        command,
        cwd=directory,
        env=_environment({**settings, **(environment or {})}),
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        lines: list[str] = []
        address: Queue[str | None] = Queue()
        reader = threading.Thread(target=_read, args=(process, lines, address), daemon=True)
        reader.start()
        try:
            yield _address(address, lines)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGTERM)  # the group: a server behind make or a shell is meant too
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                raise
            finally:
                reader.join()
        assert process.returncode == exit_code, "".join(lines)


def _read(process: subprocess.Popen[str], lines: list[str], address: Queue[str | None]) -> None:
    assert process.stderr is not None
    for line in process.stderr:
        lines.append(line)
        if found := _SERVING.search(line):
            address.put(found[1])
    address.put(None)


def _address(address: Queue[str | None], lines: list[str]) -> str:
    try:
        found = address.get(timeout=START_SECONDS)
    except Empty:
        found = None
    if found is None:
        raise AssertionError("the server did not come up:\n" + "".join(lines))
    return found


def _environment(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment without settings that a developer's shell may hold, plus `environment`."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("RUNTIMESTORE_")}
    return {**inherited, **environment}
