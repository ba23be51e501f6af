"""Gives memory back to the system that the allocator would keep after large documents.

glibc keeps what was freed, for each of its arenas, that is for each few threads: what has less than 32 MiB lies in them
once one such thing was freed, and at the end of each 64 MiB may stay. Here it is told to take large things from the
system and to keep little, and, for what lies scattered, is asked from time to time to give back all that it can.
"""

from __future__ import annotations

import contextlib
import os
import threading
from typing import TYPE_CHECKING, Any

from runtimestore_server.supervision import CLOSE_SECONDS, reached

if TYPE_CHECKING:
    from collections.abc import Mapping

    from runtimestore_server.supervision import Supervision

OWN_BYTES = 4 * 1024 * 1024
"""What is so large has its memory of the system, and goes back to it at once."""

KEPT_BYTES = 8 * 1024 * 1024
"""How much may stay at the end of an arena."""

LOOK_SECONDS = 10.0
"""How often it is looked whether the process grew. What is given back has to be had anew: under a stream of large
documents that would cost more, were it asked for after each of them."""

GROWN_BYTES = 32 * 1024 * 1024
"""By how much more than after the last time the process must be larger for it to be worth ten milliseconds of CPU."""

_SETTINGS = {"MALLOC_TRIM_THRESHOLD_": (-1, KEPT_BYTES), "MALLOC_MMAP_THRESHOLD_": (-3, OWN_BYTES)}
"""By the variables that have the last word about them: glibc's numbers of what is set, and to what."""

_TUNABLES = ("glibc.malloc.trim_threshold=", "glibc.malloc.mmap_threshold=")
"""The same in `GLIBC_TUNABLES`."""

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


def resident_bytes() -> int | None:
    """Tell how much memory this process has; None where the system does not tell."""
    with contextlib.suppress(OSError, ValueError, IndexError), open("/proc/self/statm", "rb") as file:  # noqa: PTH123
        return int(file.read().split()[1]) * _PAGE_BYTES
    return None


def is_decided(environment: Mapping[str, str]) -> bool:
    """Tell whether whoever started this process has decided how much glibc keeps."""
    tunables = environment.get("GLIBC_TUNABLES", "")
    return any(name in environment for name in _SETTINGS) or any(name in tunables for name in _TUNABLES)


class FreedMemory:
    """What was freed in this process, given back to the system from time to time by a thread."""

    def __init__(self) -> None:
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self, supervision: Supervision) -> None:
        """Keep little from now on."""
        self._thread = supervision.thread("freed-memory", self._run)

    async def close(self) -> None:
        """End the thread."""
        self._closing.set()
        if (thread := self._thread) is not None:
            await reached(lambda: not thread.is_alive(), within_seconds=CLOSE_SECONDS)

    def _run(self) -> None:
        if (glibc := _glibc()) is None or (least_bytes := resident_bytes()) is None:
            return
        if not is_decided(os.environ):
            for number, value in _SETTINGS.values():
                glibc.mallopt(number, value)
        while not self._closing.wait(LOOK_SECONDS):
            now_bytes = resident_bytes() or least_bytes
            if now_bytes > least_bytes + GROWN_BYTES:
                glibc.malloc_trim(0)
                now_bytes = least_bytes = resident_bytes() or now_bytes
            least_bytes = min(least_bytes, now_bytes)


def _glibc() -> Any:
    """Find what this process has its memory of; None where that is another allocator, or out of reach."""
    with contextlib.suppress(ImportError, AttributeError, OSError):
        import ctypes  # here and nowhere else, in most servers; not every Python has it

        library = ctypes.CDLL(None)
        return library if library.malloc_trim and library.mallopt else None
    return None
