"""A database beneath the store: at any revision, and everything that is in it."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from alembic import command

from runtimestore_server.store import schema
from runtimestore_server.store.engines.sqlite_driver import sqlite3

if TYPE_CHECKING:
    from collections.abc import Iterator

    from runtimestore_server.store.engines import Database


def execute(database: Database, *statements_to_run: str) -> None:
    """Run these in one transaction, past the store."""
    with database.writers.begin() as connection:
        for statement in statements_to_run:
            connection.exec_driver_sql(statement)


def upgrade_to(database: Database, revision: str) -> None:
    """Run the migrations up to one, as Alembic's own command would."""
    config = schema.migrations_config()
    with database.writers.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, revision)


@contextlib.contextmanager
def plainly(database: Database) -> Iterator[sa.Connection]:
    """A connection without the store's own settings: its binary results are more than reflection understands."""
    url = database.readers.url
    # Two copies of SQLite in one process would drop each other's locks on the file.
    options = {"module": sqlite3} if url.get_backend_name() == "sqlite" else {}
    engine = sa.create_engine(url, poolclass=sa.NullPool, **options)
    with engine.connect() as connection:
        yield connection


def contents(database: Database) -> dict[str, list[dict[str, Any]]]:
    """Every row of every table that is there, as the engine has it."""
    found = sa.MetaData()
    with plainly(database) as connection:
        found.reflect(connection)
        return {
            table.name: [
                {name: bytes(value) if isinstance(value, memoryview) else value for name, value in row.items()}
                for row in connection.execute(sa.select(table).order_by(*table.primary_key.columns)).mappings()
            ]
            for table in found.sorted_tables
        }
