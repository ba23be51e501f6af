"""The bytes that a server has written: all of them, and those of the log in which its commits stand."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg

if TYPE_CHECKING:
    from bench.targets import RunningTarget

_INDEX_HEADER = struct.Struct("=14xHI12x8s")
"""How the index of SQLite's log begins: the size of a page, how many frames there are, and the salt of this log."""
_FRAME_HEADER_BYTES = 24
_LONGEST_PAGE_BYTES = 65536
"""Which the index has as 1."""


class Written:
    """What is written for one server: SQLite's files by the process itself, Postgres' log by its position.

    `url` is Postgres' where the store is there.
    """

    def __init__(self, target: RunningTarget, url: str | None) -> None:
        self._io = Path(f"/proc/{target.pid}/io")
        self._index = None if target.file is None else Path(f"{target.file}-shm")
        self._connection = psycopg.connect(url, autocommit=True) if url else None
        self._salt, self._in_log, self._in_logs_before = b"", 0, 0

    def read_bytes(self) -> int:
        """How many until now, with what checkpoints brought from SQLite's log into its file."""
        if self._connection is not None:
            return self.log_bytes()
        fields = dict(line.split(": ") for line in self._io.read_text(encoding="ascii").splitlines())
        return int(fields["write_bytes"])

    def log_bytes(self) -> int:
        """How many went into the log until now; 0 where there is none."""
        if self._connection is not None:
            row = self._connection.execute("SELECT pg_current_wal_lsn() - '0/0'").fetchone()
            return int(row[0]) if row else 0
        if self._index is None:
            return 0
        with self._index.open("rb") as index:
            page_bytes, frames, salt = _INDEX_HEADER.unpack(index.read(_INDEX_HEADER.size))
        if salt != self._salt:  # after a checkpoint the log is begun anew, over what was in it
            self._salt, self._in_logs_before = salt, self._in_logs_before + self._in_log
        self._in_log = frames * (_FRAME_HEADER_BYTES + (_LONGEST_PAGE_BYTES if page_bytes == 1 else page_bytes))
        return self._in_logs_before + self._in_log

    def close(self) -> None:
        """End the connection."""
        if self._connection is not None:
            self._connection.close()
