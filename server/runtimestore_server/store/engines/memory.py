"""An ephemeral store: SQLite in memory."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from sqlalchemy import event
from sqlalchemy.engine import make_url

from runtimestore_server.store.engines.file_identity import FileIdentity
from runtimestore_server.store.engines.sqlite import SqliteDatabase
from runtimestore_server.store.engines.sqlite_connections import begin_immediate

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from sqlalchemy.engine import Connection


class MemoryDatabase(SqliteDatabase):
    """An SQLite database in memory behind one connection, which readers and the writer take in turns."""

    name = "memory"
    ephemeral = True

    def __init__(self) -> None:
        self._file = ""
        self._identity = FileIdentity(self._file)
        self.writers = self._engine(make_url("sqlite+pysqlite:///:memory:"), pool_size=1)
        event.listen(self.writers, "begin", begin_immediate)
        self.readers = self.writers

    @contextlib.contextmanager
    def one_moment(self, connection: Connection) -> Iterator[None]:
        """Nothing to do: whoever has the one connection is alone with it, and within a transaction."""
        del connection
        yield

    def check_identity(self) -> None:
        """Nothing: there is no file."""

    def problem_of_writes(self) -> str | None:
        """None: there is no file."""
        return None

    def after_commit(self, connection: Connection, *, writes: int, carried_bytes: int) -> None:
        """Nothing: there is no log."""

    def _wait_for_checkpoint(self) -> None:
        """Nothing: there is no log."""

    @property
    def log_bytes(self) -> int | None:
        """None: there is no log."""
        return None

    @property
    def checkpoint_counts(self) -> Mapping[str, int]:
        """None: there is no log."""
        return {}

    @property
    def untidy(self) -> bool:
        """Never."""
        return False

    def defects(self) -> list[str]:
        """None that matters: there is no file that anybody else could open."""
        return []

    def discard(self, connection: Connection) -> None:
        """End its transaction and no more: the one connection is the store."""
        connection.connection.rollback()
