"""What processes use: CPU time and memory, as the system counts it."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

import psutil

MIB = 1024 * 1024

_SCHEDULER = 2
"""In the number of a process' clock, as clock_getcpuclockid(3) makes it: that of all its time, to the nanosecond."""


def cpu_seconds(pid: int) -> float:
    """The CPU time of a process and of all its descendants, of those too that have ended."""
    process = psutil.Process(pid)
    ended = process.cpu_times()
    total = own_cpu_seconds(pid) + ended.children_user + ended.children_system
    for child in process.children(recursive=True):
        with contextlib.suppress(OSError):  # it ends just now
            total += own_cpu_seconds(child.pid)
    return float(total)


def own_cpu_seconds(pid: int) -> float:
    """The CPU time of one process by the clock that Linux has for it: what is told elsewhere are ticks of 10 ms."""
    return time.clock_gettime(~pid << 3 | _SCHEDULER)


def resident_bytes(pid: int) -> int:
    """The resident memory of a process now."""
    return int(psutil.Process(pid).memory_info().rss)


class PeakMemory:
    """The highest resident memory of a process since this was made; Linux only."""

    def __init__(self, pid: int) -> None:
        self._folder = Path(f"/proc/{pid}")
        (self._folder / "clear_refs").write_text("5")  # sets the high-water mark back to now

    def read_bytes(self) -> int:
        """The high-water mark."""
        for line in (self._folder / "status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
        raise LookupError("the system tells no VmHWM")


def postmaster_pid(url: str) -> int | None:
    """The process id of the Postgres server behind a URL if it runs on this machine."""
    import psycopg

    with psycopg.connect(url) as connection:
        try:
            backend = psutil.Process(connection.info.backend_pid)
            # Of a server elsewhere the number names another process here, or none.
            return int(backend.ppid()) if "postgres" in backend.name() else None
        except psutil.NoSuchProcess:
            return None
