"""`runtimestore` with a probe: on SIGUSR1 it collects garbage and writes how many bytes of its heap are in use.

Resident memory says what an allocator keeps, which goes up and down by tens of megabytes while nothing is lost. What is
in use does not: with PYTHONMALLOC=malloc Python, gRPC's core, SQLite and libpq all take their memory from malloc, and
malloc counts what it has handed out.
"""

from __future__ import annotations

import ctypes
import gc
import os
import signal
import sys
from pathlib import Path

_FIELDS = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost"


class _Mallinfo2(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in _FIELDS.split()]


def in_use_bytes() -> int:
    """What malloc has handed out in this process, of all arenas, once garbage is collected."""
    gc.collect()
    mallinfo2 = ctypes.CDLL(None).mallinfo2
    mallinfo2.restype = _Mallinfo2
    found = mallinfo2()
    return int(found.uordblks + found.hblkhd)


def _tell(_number: int, _frame: object) -> None:
    told = Path(os.environ["HEAP_PROBE_FILE"])
    written = told.with_suffix(".new")
    written.write_text(f"{in_use_bytes()}")
    written.rename(told)


if __name__ == "__main__":
    del sys.path[0]  # this file's directory, whose modules have names that others have too
    signal.signal(signal.SIGUSR1, _tell)
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # as `main` has it, before anything loads gRPC
    from runtimestore_server.__main__ import main
    from runtimestore_server.store.engines import sqlite_connections

    # Else it grows with the file for longer than is looked at, and hides what is lost.
    sqlite_connections.CACHE_KIBIBYTES = 2000

    sys.exit(main())
