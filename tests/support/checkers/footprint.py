"""What a process holds of its machine: memory, threads, open files, connections to its database."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, NamedTuple, Self

import psutil
import sqlalchemy as sa
from sqlalchemy.pool import NullPool

from runtimestore_server.settings import Settings

if TYPE_CHECKING:
    from support.servers.server_process import ServerProcess

SAMPLE_SECONDS = 0.02
"""How often the memory of a process is looked at."""


class Handles(NamedTuple):
    """What a process has open."""

    files: int
    threads: int
    connections: int


FILES_OF_A_CONNECTION = 3
"""A socket; or SQLite's file, log and index."""
THREADS_OF_GRPC = 4
"""So many gRPC may start later, and keep, in its own pool."""


CONNECTIONS = Settings().reader_threads + 1 + Settings().committer_threads + 1
"""The most that the pools of a server hold: for loads, for the health check, for writes, for maintenance."""


def with_spares(baseline: Handles) -> Handles:
    """A baseline, and what a server opens later and keeps: the rest of its pools, and the threads that use them."""
    later = max(0, CONNECTIONS - baseline.connections)
    return Handles(
        files=baseline.files + later * FILES_OF_A_CONNECTION,
        threads=baseline.threads + later + THREADS_OF_GRPC,
        connections=baseline.connections + later,
    )


def pid_of(server: ServerProcess) -> int:
    """The process id of a server."""
    return server._process.pid


def handles(pid: int, database_url: str) -> Handles:
    """What a process has open; of the connections, those to its database, wherever they can be counted."""
    return Handles(
        files=psutil.Process(pid).num_fds(),
        threads=psutil.Process(pid).num_threads(),
        connections=_connections(pid, database_url),
    )


def _connections(pid: int, database_url: str) -> int:
    if database_url.startswith("sqlite:///"):
        path = database_url.removeprefix("sqlite:///")
        return sum(file.path == path for file in psutil.Process(pid).open_files())
    if not database_url.startswith("postgresql"):
        return 0
    statement = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    return _asked(database_url, statement)


def unfinished_transactions(database_url: str) -> int:
    """How many connections sit in a transaction that nobody goes on with; 0 where the engine keeps no such list."""
    if not database_url.startswith("postgresql"):
        return 0
    statement = (
        "SELECT count(*) FROM pg_stat_activity "
        "WHERE datname = current_database() AND pid <> pg_backend_pid() AND state <> 'idle'"
    )
    return _asked(database_url, statement)


def _asked(database_url: str, statement: str) -> int:
    engine = sa.create_engine(database_url, poolclass=NullPool)
    with engine.connect() as connection:
        return int(connection.execute(sa.text(statement)).scalar_one())


def resident_bytes(pid: int) -> int:
    """The memory that a process holds now."""
    return int(psutil.Process(pid).memory_info().rss)


def most_resident_bytes(pid: int) -> int:
    """The most memory that a process has had."""
    with open(f"/proc/{pid}/status") as file:  # noqa: PTH123  (one line)
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmHWM:"))


class PeakMemory:
    """Watches the memory of a process from a thread; `peak_bytes` is the most that was seen inside the context."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="peak-memory", daemon=True)
        self.first_bytes = self.peak_bytes = resident_bytes(pid)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._ended.wait(SAMPLE_SECONDS):
            self.peak_bytes = max(self.peak_bytes, resident_bytes(self._pid))


def settled(pid: int, database_url: str, baseline: Handles, *, seconds: float = 60.0) -> Handles:
    """What a process has open once it is at its baseline again, or still has after so long."""
    deadline = time.monotonic() + seconds
    while True:
        found = handles(pid, database_url)
        at_rest = all(now <= before for now, before in zip(found, baseline, strict=True))
        if at_rest or time.monotonic() > deadline:
            return found
        time.sleep(0.1)
