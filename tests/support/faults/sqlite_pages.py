"""SQLite files beneath SQLite: their pages, found by what they hold, and damaged where they lie."""

from __future__ import annotations

import contextlib
import os
from hashlib import sha256
from typing import TYPE_CHECKING

from runtimestore_server.store.engines.sqlite_driver import sqlite3

if TYPE_CHECKING:
    from pathlib import Path

PAGE_BYTES = 4096


def root_page(file: Path, name: str) -> int:
    """The number of the first page of a table, or of an index by its name."""
    with contextlib.closing(sqlite3.connect(file)) as connection:
        (page,) = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = ?", (name,)).fetchone()
    return int(page)


def overwrite(file: Path, page: int, offset: int, data: bytes) -> None:
    """Put bytes into a page."""
    with file.open("r+b") as opened:
        opened.seek((page - 1) * PAGE_BYTES + offset)
        opened.write(data)


def on_page(file: Path, page: int, offset: int, length: int) -> bytes:
    """Some bytes of a page."""
    with file.open("rb") as opened:
        opened.seek((page - 1) * PAGE_BYTES + offset)
        return opened.read(length)


def replace(file: Path, old: bytes, new: bytes) -> None:
    """Put bytes over the first place that holds others of the same length."""
    assert len(old) == len(new)
    damaged = file.read_bytes().replace(old, new, 1)
    assert new in damaged
    file.write_bytes(damaged)


def cut_in_half(file: Path) -> None:
    """Take away the second half of a file's pages."""
    os.truncate(file, file.stat().st_size // 2 // PAGE_BYTES * PAGE_BYTES)


def contents(folder: Path) -> dict[str, str]:
    """What a folder holds: the name and the SHA-256 of each file."""
    return {file.name: sha256(file.read_bytes()).hexdigest() for file in folder.iterdir() if file.is_file()}
