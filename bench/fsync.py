"""One fsync: how long this disk takes to make a page durable. No commit is faster than that."""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from pathlib import Path

PAGE_BYTES = 4096


def milliseconds(folder: Path | None = None, *, count: int = 50) -> dict[str, float]:
    """The median, the least and the most over so many pages, each appended to one file in the folder and synced."""
    took = []
    with tempfile.TemporaryDirectory(prefix="runtimestore-", dir=folder) as made:
        file = os.open(Path(made) / "pages", os.O_WRONLY | os.O_CREAT, 0o600)
        try:
            for _ in range(count):
                os.write(file, os.urandom(PAGE_BYTES))
                started = time.perf_counter()
                os.fsync(file)
                took.append((time.perf_counter() - started) * 1000)
        finally:
            os.close(file)
    return {"median": statistics.median(took), "least": min(took), "most": max(took)}
