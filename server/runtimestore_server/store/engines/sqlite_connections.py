"""Connections to an SQLite file: how a file is made, and what every connection is set to."""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from functools import partial
from typing import TYPE_CHECKING

from runtimestore_server.store.engines import direct
from runtimestore_server.store.engines.checkpoints import LARGE_LOG_BYTES
from runtimestore_server.store.engines.sqlite_driver import sqlite3
from runtimestore_server.store.tables import store_identity
from runtimestore_server.store.timeouts import BUSY_TIMEOUT_SECONDS

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection
    from sqlalchemy.pool import ConnectionPoolEntry

CACHE_KIBIBYTES = 12 * 1024
"""How much of the file the connection that commits keeps in memory; SQLite's own default is 2 MB. With a third more a
write takes as long, among 64 runtimes that grow."""

_PAGE_BYTES = 4096
"""SQLite's own size of a page, which every file has that this server made; with larger ones fewer are needed."""
_LATE = "runtimestore spills late"
"""In the `info` of a connection: the pages that its transaction carries."""


def create_private(file: str) -> None:
    """Make a new file readable by its owner only, since OAuth secrets will be in it; one that exists stays as it is."""
    with contextlib.suppress(OSError):  # whatever is wrong with the path, SQLite says it better
        file = os.path.realpath(file)  # O_EXCL takes a link for a file, also one that leads to none
        os.close(os.open(file, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))


def configure(connection: sqlite3.Connection, record: object) -> None:
    """Prepare a connection of a server's."""
    configure_reader(connection, record)
    cursor = connection.cursor()
    _use_write_ahead_log(cursor)  # readers do not wait for the writer
    cursor.execute("PRAGMA synchronous = FULL")  # WAL's default loses acknowledged commits when power fails
    cursor.execute("PRAGMA wal_autocheckpoint = 0")  # it would not tell that it failed: see checkpoints.py
    cursor.close()


def configure_writer(connection: sqlite3.Connection, record: object) -> None:
    """Prepare the connection that commits."""
    del record
    # Else a log that was long once stays so for ever: it is begun anew at its beginning, but never cut.
    connection.execute(f"PRAGMA journal_size_limit = {LARGE_LOG_BYTES}")
    # Else the inner pages of the indexes are read anew for most writes. Beyond it a transaction spills into the log,
    # but for large documents: see spill_late.
    connection.execute(f"PRAGMA cache_size = -{CACHE_KIBIBYTES}")
    connection.execute("PRAGMA secure_delete = ON")  # as Debian's SQLite is built: nothing deleted stays in the file


def configure_reader(connection: sqlite3.Connection, record: object) -> None:
    """Prepare a connection, whatever it is for; changes nothing in the file."""
    del record
    connection.isolation_level = None  # Python's own BEGINs come too late for BEGIN IMMEDIATE and never for DDL
    connection.text_factory = _text
    # Postgres has this function by itself.
    connection.create_function("sha256", 1, _sha256, deterministic=True)
    connection.execute("PRAGMA cell_size_check = ON")  # a damaged page is an error, not a wrong answer


_text = partial(str, encoding="utf-8", errors="surrogateescape")
"""Text as it is stored, whatever it is: a damaged row must be found by who reads it, not break the cursor."""


def _sha256(value: object) -> bytes | None:
    return hashlib.sha256(value).digest() if isinstance(value, bytes) else None


def _use_write_ahead_log(cursor: sqlite3.Cursor) -> None:
    """Switch a new file to WAL. When several connections try at once, SQLite says BUSY without waiting: so we wait."""
    deadline = time.monotonic() + BUSY_TIMEOUT_SECONDS
    while cursor.execute("PRAGMA journal_mode").fetchone()[0] == "delete":
        try:
            if _is_foreign(cursor):
                return
            cursor.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.01)


def _is_foreign(cursor: sqlite3.Cursor) -> bool:
    """Tell whether the file is another program's: it is refused a moment later, and must stay as it is."""
    names = [row[0] for row in cursor.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")]
    return bool(names) and store_identity.name not in names


def spill_late(connection: Connection, carried_bytes: int) -> None:
    """Let a transaction keep what it carries in memory until COMMIT, until `spill_early`.

    Room for a large document is made before it is filled. What had to leave the memory between the two would be
    written to the log, read, written over and read once more for its checksums, while every other write waits.
    """
    carried_pages = connection.info.get(_LATE, 0) + carried_bytes // _PAGE_BYTES
    connection.info[_LATE] = carried_pages
    pages = 1024 * CACHE_KIBIBYTES // _PAGE_BYTES + carried_pages
    connection.exec_driver_sql(f"PRAGMA cache_spill = {pages}")


def spill_early(driver: sqlite3.Connection | None, record: ConnectionPoolEntry) -> None:
    """Let the next transaction of a connection that is given back keep as much in memory as any other."""
    if record.info.pop(_LATE, 0) and driver is not None:
        driver.execute("PRAGMA cache_spill = 1")  # a page: as many as the cache has, which is more, are kept anyway


def begin_immediate(connection: Connection) -> None:
    """Begin a transaction that writes."""
    # A deferred transaction that reads, then writes, fails at once when another one wrote between.
    direct.run(connection, "BEGIN IMMEDIATE", [()])
