"""The file in which a backup is made or brought to a newer schema before anybody sees it."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from runtimestore_server.store import schema
from runtimestore_server.store.engines import open_database
from runtimestore_server.store.engines.store_file import open_file

if TYPE_CHECKING:
    from pathlib import Path


def migrate_file(file: Path, revision: str = schema.HEAD) -> None:
    """Migrate the tables of an SQLite file that nobody else uses, and leave no log or index file beside it."""
    database = open_database(f"sqlite:///{file}", committer_threads=1, reader_threads=1)
    try:
        with database.writers.begin() as connection:
            schema.run_migrations(connection, revision)
    finally:
        database.dispose()
    with contextlib.closing(open_file(file, options="mode=rw")) as connection:
        connection.execute("PRAGMA journal_mode = DELETE")  # one file, without a log that could be left behind
