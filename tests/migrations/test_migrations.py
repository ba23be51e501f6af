"""The migrations make what the tables say, and each store has an id of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from runtimestore_server.store import schema, tables
from runtimestore_server.store.engines import Database, open_database
from runtimestore_server.store.schema import HEAD, REVISIONS, upgrade, upgrade_database
from support.generators.store_writes import (
    statements,
)
from support.servers.schemas import contents, execute, plainly

if TYPE_CHECKING:
    from pathlib import Path


def _catalog(database: Database) -> Any:
    """The tables as the engine itself describes them: types, NULLs, collations, keys, indexes, storage."""
    with database.readers.connect() as connection:
        if connection.dialect.name == "sqlite":
            names = [name for name in sa.inspect(connection).get_table_names() if name != "alembic_version"]
            described: dict[str, Any] = {}
            for name in names:
                created = connection.exec_driver_sql(
                    "SELECT sql FROM sqlite_master WHERE name = ?", (name,)
                ).scalar_one()
                indexes = connection.exec_driver_sql(f"PRAGMA index_list({name})").all()
                described[name] = (
                    connection.exec_driver_sql(f"PRAGMA table_xinfo({name})").all(),
                    "WITHOUT ROWID" in created,
                    sorted(
                        (index[1], tuple(connection.exec_driver_sql(f"PRAGMA index_xinfo({index[1]})").all()))
                        for index in indexes
                    ),
                )
            return described
        columns = connection.exec_driver_sql(
            "SELECT table_name, ordinal_position, column_name, data_type, character_maximum_length, is_nullable,"
            " collation_name, column_default FROM information_schema.columns"
            " WHERE table_schema = 'public' AND table_name <> 'alembic_version' ORDER BY 1, 2"
        ).all()
        indexes = connection.exec_driver_sql(
            "SELECT indexdef FROM pg_indexes WHERE schemaname = 'public' AND tablename <> 'alembic_version' ORDER BY 1"
        ).all()
        return columns, indexes


def test_the_revisions_that_the_server_knows_are_those_of_the_tree() -> None:
    tree = ScriptDirectory.from_config(schema.migrations_config())

    assert tree.get_heads() == [HEAD]
    assert tuple(script.revision for script in tree.walk_revisions())[::-1] == REVISIONS


def test_the_tables_are_what_the_migrations_make(database: Database) -> None:
    upgrade_database(database)

    with plainly(database) as connection:
        options = {"compare_type": True, "compare_server_default": True}
        assert compare_metadata(MigrationContext.configure(connection, opts=options), tables.metadata) == []


def test_the_engine_describes_migrated_tables_and_those_of_the_code_alike(database: Database) -> None:
    upgrade_database(database)
    migrated = _catalog(database)
    execute(database, *(f"DROP TABLE {table.name}" for table in tables.metadata.sorted_tables))

    with database.writers.begin() as connection:
        tables.metadata.create_all(connection)

    assert migrated
    assert _catalog(database) == migrated


def test_a_store_that_a_server_makes_is_the_one_that_the_migrations_make(tmp_path: Path) -> None:
    made, migrated = (
        open_database(f"sqlite:///{tmp_path}/{name}.db", committer_threads=1, reader_threads=1)
        for name in ("made", "migrated")
    )
    schema.create_if_empty(made)
    schema.create_if_empty(made)
    upgrade_database(migrated)

    assert _catalog(made) == _catalog(migrated)
    assert _versions_and_indexes(made) == _versions_and_indexes(migrated)
    ids = set()
    found = [contents(database) for database in (made, migrated)]
    for database, rows in zip((made, migrated), found, strict=True):
        with database.readers.connect() as connection:
            ids.add(schema.store_id(connection))
        rows["store_identity"][0]["store_id"] = "of each its own"
    assert found[0] == found[1]
    assert len(ids) == 2
    with statements(made.writers) as sent:
        assert upgrade_database(made) == (HEAD, HEAD)
    assert sent == []
    for database in (made, migrated):
        database.dispose()


def _versions_and_indexes(database: Database) -> list[tuple[str, str]]:
    """What the file says of Alembic's own table, and of indexes with their conditions: names, and texts in words."""
    with database.readers.connect() as connection:
        found = connection.exec_driver_sql(
            "SELECT name, sql FROM sqlite_master WHERE name = 'alembic_version' OR (type = 'index' AND sql IS NOT NULL)"
        )
        return sorted((name, " ".join(text.split())) for name, text in found)


def test_the_store_id_is_minted_once_and_survives(empty_url: str, database: Database) -> None:
    upgrade_database(database)
    with database.readers.connect() as connection:
        minted = schema.store_id(connection)
    upgrade(empty_url)

    reopened = open_database(empty_url, committer_threads=1, reader_threads=1)
    with reopened.readers.connect() as connection:
        assert schema.store_id(connection) == minted
    reopened.dispose()


def test_two_stores_have_two_ids(tmp_path: Path) -> None:
    minted = set()
    for name in ("one", "two"):
        found = open_database(f"sqlite:///{tmp_path}/{name}.db", committer_threads=1, reader_threads=1)
        upgrade_database(found)
        with found.readers.connect() as connection:
            minted.add(schema.store_id(connection))
        found.dispose()

    assert len(minted) == 2
