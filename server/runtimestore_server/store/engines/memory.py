"""An ephemeral store: SQLite in memory."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from sqlalchemy import event
from sqlalchemy.engine import make_url

from runtimestore_server.store.engines.any_sqlite import AnySqlite
from runtimestore_server.store.engines.sqlite_connections import begin_immediate

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy.engine import Connection


class MemoryDatabase(AnySqlite):
    """An SQLite database in memory behind one connection, which readers and the writer take in turns."""

    name = "memory"
    ephemeral = True
    creates_itself = True

    def __init__(self) -> None:
        self.writers = self._engine(make_url("sqlite+pysqlite:///:memory:"), pool_size=1)
        event.listen(self.writers, "begin", begin_immediate)
        self.readers = self.writers

    @contextlib.contextmanager
    def one_moment(self, connection: Connection) -> Iterator[None]:
        """Begin nothing: whoever has the one connection is alone with it, and within a transaction."""
        del connection
        yield

    def discard(self, connection: Connection) -> None:
        """End its transaction and no more: the one connection is the store."""
        connection.connection.rollback()
