"""The SQLite that opens the store's files: pysqlite3 brings a current one; else it is the standard library's.

Every module that opens a store's file takes `sqlite3` from here. Two copies of SQLite in one process would drop each
other's locks: POSIX ends all locks of a process on a file as soon as it closes any handle on it. See
docs/decisions/0040.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import sqlite3
else:
    try:
        from pysqlite3 import dbapi2 as sqlite3
    except ImportError:  # no wheel for this platform: see pyproject.toml
        import sqlite3

__all__ = ["HEADER_BYTES", "MAGIC", "VERSION", "has_reset_defect", "open_blob", "sqlite3"]

HEADER_BYTES = 100
MAGIC = b"SQLite format 3\0"
"""With how much, and with what, a file begins: sqlite.org/fileformat.html, "The Database Header"."""

VERSION = sqlite3.sqlite_version
"""Of SQLite itself, such as `3.53.4`."""


def has_reset_defect(version: str = VERSION) -> bool:
    """Tell whether this SQLite may lose commits where one connection makes a checkpoint while another one commits."""
    parts = tuple(int(part) for part in version.split("."))
    # Where it was corrected, in two older lines too: sqlite.org/wal.html, "The WAL-Reset Bug".
    corrected = parts >= (3, 51, 3) or (3, 50, 7) <= parts < (3, 51) or (3, 44, 6) <= parts < (3, 45)
    return not corrected


def open_blob(driver: Any, table: str, column: str, rowid: int) -> Any:
    """Open a value for reading and writing in pieces."""
    opens = driver.open_blob if hasattr(driver, "open_blob") else driver.blobopen  # pysqlite3's name, and Python's
    return opens(table, column, rowid)
