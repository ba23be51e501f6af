"""A database that is not at the schema of this version is refused in a sentence, and left alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from runtimestore_server.store import schema
from runtimestore_server.store.schema import HEAD, REVISIONS, SchemaNotCurrent, upgrade_database
from support.servers.schemas import contents, execute

if TYPE_CHECKING:
    from collections.abc import Callable

    from runtimestore_server.store.engines import Database


@pytest.mark.parametrize("check", [upgrade_database, schema.check])
def test_a_foreign_database_is_refused_and_left_alone(database: Database, check: Callable[[Database], object]) -> None:
    execute(database, "CREATE TABLE customers (id INTEGER PRIMARY KEY)", "INSERT INTO customers VALUES (7)")

    with pytest.raises(SchemaNotCurrent) as refused:
        check(database)
    schema.create_if_empty(database)

    assert HEAD in str(refused.value)
    assert "runtimestore migrate" in str(refused.value)
    assert contents(database) == {"customers": [{"id": 7}]}


@pytest.mark.parametrize("check", [upgrade_database, schema.check])
def test_a_foreign_database_that_numbers_its_revisions_alike_is_refused(
    database: Database, check: Callable[[Database], object]
) -> None:
    execute(
        database,
        "CREATE TABLE customers (id INTEGER PRIMARY KEY)",
        "CREATE TABLE alembic_version (version_num VARCHAR(32) PRIMARY KEY)",
        f"INSERT INTO alembic_version VALUES ('{HEAD}')",  # noqa: S608  (the test's own text)
    )

    with pytest.raises(SchemaNotCurrent):
        check(database)


@pytest.mark.parametrize("check", [upgrade_database, schema.check])
def test_a_database_from_the_future_is_refused_and_left_alone(
    database: Database, check: Callable[[Database], object]
) -> None:
    upgrade_database(database)
    execute(database, "UPDATE alembic_version SET version_num = '9999'")
    before = contents(database)

    with pytest.raises(SchemaNotCurrent) as refused:
        check(database)

    for part in (HEAD, "9999", "runtimestore migrate"):
        assert part in str(refused.value)
    assert contents(database) == before


def test_an_alembic_database_of_another_program_is_refused_and_left_alone(database: Database) -> None:
    execute(
        database,
        "CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL PRIMARY KEY)",
        "INSERT INTO alembic_version VALUES ('ae1027a6acf')",
        "CREATE TABLE customers (id INTEGER PRIMARY KEY)",
    )
    before = contents(database)

    with pytest.raises(SchemaNotCurrent, match="ae1027a6acf"):
        upgrade_database(database)
    assert contents(database) == before


def test_a_database_that_is_behind_is_refused_with_both_revisions_and_the_command(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    upgrade_database(database)
    monkeypatch.setattr(schema, "HEAD", "9998")
    monkeypatch.setattr(schema, "REVISIONS", (*REVISIONS, "9998"))

    with pytest.raises(SchemaNotCurrent) as refused:
        schema.check(database)

    for part in (HEAD, "9998", "behind", "runtimestore migrate"):
        assert part in str(refused.value)


def test_an_empty_database_is_refused_until_it_is_migrated(database: Database) -> None:
    with pytest.raises(SchemaNotCurrent, match=rf"empty.*{HEAD}.*runtimestore migrate"):
        schema.check(database)

    upgrade_database(database)

    assert schema.check(database).current


DAMAGED = {
    "another digit": "UPDATE alembic_version SET version_num = '00\x01q'",
    "no text": "UPDATE alembic_version SET version_num = ''",
    "no row": "DELETE FROM alembic_version",
    "no table": "DROP TABLE alembic_version",
}


@pytest.mark.parametrize("damage", DAMAGED)
@pytest.mark.parametrize("check", [upgrade_database, schema.check])
def test_a_store_whose_revision_is_damaged_is_told_so_and_left_alone(
    database: Database, check: Callable[[Database], object], damage: str
) -> None:
    upgrade_database(database)
    execute(database, DAMAGED[damage])
    before = contents(database)

    with pytest.raises(SchemaNotCurrent, match=r"revision is damaged.*restore a backup"):
        check(database)

    assert contents(database) == before
