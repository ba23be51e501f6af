"""The migrations make what the tables say, keep what is there, and refuse what is not theirs."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from runtimestore.errors import RevisionNotKept
from runtimestore_migrations.carrying import FORMER
from runtimestore_server.store import schema, tables
from runtimestore_server.store.engines import Database, open_database
from runtimestore_server.store.engines.sqlite_driver import sqlite3
from runtimestore_server.store.schema import HEAD, REVISIONS, SchemaNotCurrent, upgrade, upgrade_database
from runtimestore_server.store.values import Outcome, SessionSnapshot, SnapshotEdits
from runtimestore_server.store.versions.chains import load_session
from runtimestore_server.store.versions.edits import Edit, encode
from runtimestore_server.store.writes import Acquisition, Write
from support.faults.killed_processes import run_killed
from support.generators.store_writes import (
    boundary,
    commit,
    document,
    new_id,
    oauth,
    ops,
    runtime,
    snapshot,
    statements,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from support.servers.postgres import Cluster

PROCESS_SECONDS = 120


@pytest.fixture(params=["sqlite", "postgres"])
def empty_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A database without any table."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/store.db"
        return
    cluster: Cluster = request.getfixturevalue("postgres_cluster")
    url = cluster.fresh_database(migrated=False)
    yield url
    cluster.drop(url)


@pytest.fixture
def database(empty_url: str) -> Iterator[Database]:
    found = open_database(empty_url, committer_threads=2, reader_threads=2)
    yield found
    found.dispose()


def _execute(database: Database, *statements_to_run: str) -> None:
    with database.writers.begin() as connection:
        for statement in statements_to_run:
            connection.exec_driver_sql(statement)


def _upgrade_to(database: Database, revision: str) -> None:
    config = schema.migrations_config()
    with database.writers.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, revision)


@contextlib.contextmanager
def _plainly(database: Database) -> Iterator[sa.Connection]:
    """A connection without the store's own settings: its binary results are more than reflection understands."""
    url = database.readers.url
    # Two copies of SQLite in one process would drop each other's locks on the file.
    options = {"module": sqlite3} if url.get_backend_name() == "sqlite" else {}
    engine = sa.create_engine(url, poolclass=sa.NullPool, **options)
    with engine.connect() as connection:
        yield connection


def _contents(database: Database) -> dict[str, list[dict[str, Any]]]:
    """Every row of every table that is there, as the engine has it."""
    found = sa.MetaData()
    with _plainly(database) as connection:
        found.reflect(connection)
        return {
            table.name: [
                {name: bytes(value) if isinstance(value, memoryview) else value for name, value in row.items()}
                for row in connection.execute(sa.select(table).order_by(*table.primary_key.columns)).mappings()
            ]
            for table in found.sorted_tables
        }


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

    with _plainly(database) as connection:
        options = {"compare_type": True, "compare_server_default": True}
        assert compare_metadata(MigrationContext.configure(connection, opts=options), tables.metadata) == []


def test_the_engine_describes_migrated_tables_and_those_of_the_code_alike(database: Database) -> None:
    upgrade_database(database)
    migrated = _catalog(database)
    _execute(database, *(f"DROP TABLE {table.name}" for table in tables.metadata.sorted_tables))

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
    contents = [_contents(database) for database in (made, migrated)]
    for database, rows in zip((made, migrated), contents, strict=True):
        with database.readers.connect() as connection:
            ids.add(schema.store_id(connection))
        rows["store_identity"][0]["store_id"] = "of each its own"
    assert contents[0] == contents[1]
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


def _write_everything(database: Database) -> None:
    key, other = runtime(), runtime("ä\n'\"")
    written = commit(
        database,
        Write(
            key,
            new_id(),
            snapshot=snapshot("\0 é", total_tokens=2**63 - 1),
            receipt=boundary(sequence=2**64 - 1),
            inputs=tuple(document(str(number)) for number in range(3)),
            runtime_state="running",
            ops=ops(),
        ),
        Write(other, runtime_state="idle"),
        oauth(bytes(range(256)), request_id=new_id()),
    )
    assert written == [Outcome(1)] * 3


def _write_everything_and_acquire(database: Database) -> None:
    _write_everything(database)
    assert commit(database, Acquisition(runtime(), "an owner")) == [Outcome(1)]


def _write_before_versions(database: Database) -> None:
    """What the code wrote that knew one snapshot a runtime, and the newest alone."""
    key, body, digest = {"realm": "test", "runtime_id": "ä\n'\""}, b'{"text": "\0 \xc3\xa9"}', b"d" * 32
    row_of: dict[str, dict[str, Any]] = {
        "runtimes": {**key, "revision": 17, "runtime_state": "running"},
        "requests": {
            "realm": "test",
            "request_id": new_id(),
            "fingerprint": digest,
            "revision": 3,
            "recorded_at_ms": 5,
        },
        "session_snapshots": {**key, "session_id": new_id(), "sha256": digest, "body": body},
        "sessions": {
            "realm": "test",
            "session_id": new_id(),
            "runtime_id": key["runtime_id"],
            "created_at_ms": 1,
            "updated_at_ms": 2,
            "message_count": 3,
            "total_tokens": 2**63 - 1,
        },
        "inputs": {**key, "input_id": new_id(), "sha256": digest, "state_json": body},
        "receipts": {**key, "run_id": new_id(), "sequence": "18446744073709551615", "sha256": digest, "receipt": body},
        "ops_snapshots": {**key, "epoch_id": new_id(), "sha256": digest, "snapshot_json": body},
        "oauth_flow_snapshots": {"realm": "test", "version": 1, "sha256": digest, "snapshot_json": bytes(range(256))},
        "fences": {**key, "fence": 4, "owner": "an owner", "acquired_at_ms": 5},
    }
    found = sa.MetaData()
    with _plainly(database) as connection:
        found.reflect(connection)
        for name, row in row_of.items():
            if name in found.tables:
                connection.execute(sa.insert(found.tables[name]).values(row))
        other = {"realm": "test", "runtime_id": "without a session", "revision": 1}
        connection.execute(sa.insert(found.tables["runtimes"]).values(other))
        connection.commit()


def _write_while_carrying(database: Database) -> None:
    """What an upgrade left that was cut off: one session was carried over, one was not."""
    _write_everything_and_acquire(database)
    with _plainly(database) as connection:
        former = sa.Table(FORMER, sa.MetaData(), autoload_with=connection)
        row = {"realm": "test", "runtime_id": "ä\n'\"", "session_id": new_id(), "sha256": b"d" * 32, "body": b"{}"}
        connection.execute(sa.insert(former).values(row))
        connection.commit()


# How a database of each revision is filled. An older revision needs statements of its own, as its code is gone.
POPULATE: dict[str, Callable[[Database], None]] = {
    "0001": _write_before_versions,
    "0002": _write_before_versions,
    "0003": _write_while_carrying,
    HEAD: _write_everything_and_acquire,
}


@pytest.mark.parametrize("revision", REVISIONS)
def test_an_upgrade_from_any_revision_keeps_every_byte(database: Database, revision: str) -> None:
    _upgrade_to(database, revision)
    POPULATE[revision](database)
    before = _contents(database)
    assert all(before.values())

    assert upgrade_database(database) == (revision, HEAD)

    after = _contents(database)
    del before["alembic_version"]
    snapshots = [*before.pop("session_snapshots", []), *before.pop(FORMER, [])]
    if snapshots:
        keys = {(row["realm"], row["runtime_id"]) for row in snapshots}
        carried = [row for row in after["session_versions"] if (row["realm"], row["runtime_id"]) in keys]
        assert [{column: row[column] for column in snapshots[0]} for row in carried] == snapshots
        after["session_versions"] = [row for row in after["session_versions"] if row not in carried]
        told = {(row["realm"], row["runtime_id"]): row for row in after["runtimes"]}
        assert [told[row["realm"], row["runtime_id"]]["session_sha256"] for row in snapshots] == [
            row["sha256"] for row in snapshots
        ]
    for name, rows in before.items():
        said = ("session_revision", "session_sha256") if name == "runtimes" else ()  # of what was carried: above
        kept = [{column: row[column] for column in rows[0] if column not in said} for row in after[name]]
        assert kept == [{column: row[column] for column in row if column not in said} for row in rows]
    assert after["alembic_version"] == [{"version_num": HEAD}]


@pytest.mark.parametrize("revision", REVISIONS[:2])
def test_the_snapshots_of_an_older_store_are_the_newest_versions_of_their_sessions(
    database: Database, revision: str
) -> None:
    _upgrade_to(database, revision)
    _write_before_versions(database)
    body = b'{"text": "\0 \xc3\xa9"}'
    with _plainly(database) as connection:
        connection.execute(sa.text("UPDATE session_snapshots SET sha256 = :d"), {"d": sha256(body).digest()})
        connection.commit()
    upgrade_database(database)
    key, without = runtime("ä\n'\""), runtime("without a session")

    with database.readers.connect() as connection:
        found, stored = load_session(connection, key)
        assert stored is not None
        assert (found, stored.body, stored.revision) == (17, body, 17)
        assert load_session(connection, without) == (1, None)
        with pytest.raises(RevisionNotKept) as refusal:
            load_session(connection, key, as_of_revision=16)
        assert refusal.value.oldest_revision == 17

    edits = SnapshotEdits(sha256(body).digest(), encode([Edit(0, 1, b"[")]), required=True)
    result = b"[" + body[1:]
    after = SessionSnapshot(stored.session_id, result, sha256(result).digest(), 1, 2, 3, 4, edits)
    assert commit(database, Write(key, snapshot=after)) == [Outcome(18, as_edits=True)]
    with database.readers.connect() as connection:
        _, newest = load_session(connection, key)
        assert newest is not None
        assert newest.body == result
        _, before = load_session(connection, key, as_of_revision=17)
        assert before == stored


def test_an_upgrade_that_is_killed_anywhere_goes_on_from_there_and_loses_no_session(
    empty_url: str, database: Database
) -> None:
    _upgrade_to(database, "0002")
    names = [f"rt:{number}" for number in range(6)]
    with _plainly(database) as connection:
        found = sa.MetaData()
        found.reflect(connection)
        for name in names:
            key = {"realm": "test", "runtime_id": name}
            connection.execute(sa.insert(found.tables["runtimes"]).values(**key, revision=7))
            row = {**key, "session_id": new_id(), "sha256": sha256(name.encode()).digest(), "body": name.encode()}
            connection.execute(sa.insert(found.tables["session_snapshots"]).values(row))
        connection.commit()
    database.readers.dispose()
    database.writers.dispose()

    killed, last = run_killed(Path(__file__).with_name("carrier.py"), empty_url, within_seconds=PROCESS_SECONDS)

    assert last == {"revision": HEAD, "session_versions": names}
    partly = 0
    for state in killed:
        former: list[str] = state.get(FORMER, [])
        carried: list[str] = state.get("session_versions", [])
        # Whoever serves the version before finds all of them, or no table.
        assert state.get("session_snapshots", names) == names
        assert sorted([*state.get("session_snapshots", former), *carried]) == names
        partly += bool(former and carried)
    assert partly >= 3
    for name in names:
        with database.readers.connect() as connection:
            revision, stored = load_session(connection, runtime(name))
        assert stored is not None
        assert (revision, stored.revision, stored.body) == (7, 7, name.encode())


def test_every_upgrade_that_has_nothing_to_do_sends_no_write(database: Database) -> None:
    assert upgrade_database(database) == (None, HEAD)
    _write_everything(database)
    before = _contents(database)

    with statements(database.writers) as sent:
        assert upgrade_database(database) == (HEAD, HEAD)

    assert sent == []
    assert _contents(database) == before


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


def test_an_upgrade_that_fails_half_way_leaves_nothing(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    run = schema.run_migrations

    def fail(connection: sa.Connection, revision: str) -> None:
        run(connection, revision)
        raise RuntimeError("the power went")

    with monkeypatch.context() as patched:
        patched.setattr(schema, "run_migrations", fail)
        with pytest.raises(RuntimeError, match="the power went"):
            upgrade_database(database)
    with database.readers.connect() as connection:
        assert sa.inspect(connection).get_table_names() == []

    assert upgrade_database(database) == (None, HEAD)


def _migrate(url: str) -> subprocess.Popen[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RUNTIMESTORE_")}
    return subprocess.Popen(
        [sys.executable, "-m", "runtimestore_server", "migrate"],
        env={**environment, "RUNTIMESTORE_DATABASE_URL": url},
        stderr=subprocess.PIPE,
        text=True,
    )


def test_two_processes_that_migrate_at_once_both_succeed_and_make_one_schema(
    empty_url: str, database: Database
) -> None:
    processes = [_migrate(empty_url) for _ in range(2)]
    logs = [process.communicate(timeout=PROCESS_SECONDS)[1] for process in processes]

    assert [process.returncode for process in processes] == [0, 0], logs
    contents = _contents(database)
    assert contents["alembic_version"] == [{"version_num": HEAD}]
    assert len(contents["store_identity"]) == 1
    assert sum("schema upgraded" in log for log in logs) >= 1


def test_many_that_migrate_in_the_same_moment_all_succeed(empty_url: str, database: Database) -> None:
    barrier = threading.Barrier(4)

    def migrate() -> tuple[str | None, str]:
        barrier.wait(PROCESS_SECONDS)
        return upgrade(empty_url)

    with ThreadPoolExecutor(4) as pool:
        results = [future.result(PROCESS_SECONDS) for future in [pool.submit(migrate) for _ in range(4)]]

    assert sorted(results, key=repr) == [*[(HEAD, HEAD)] * 3, (None, HEAD)]
    assert len(_contents(database)["store_identity"]) == 1


def test_whoever_comes_second_waits_for_the_lock_and_finds_nothing_to_do(
    empty_url: str, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked = threading.Event()
    inspect = schema.inspect

    def look(connection: sa.Connection) -> schema.SchemaState:
        state = inspect(connection)
        looked.set()
        return state

    with ThreadPoolExecutor(1) as pool, database.writers.begin() as connection:
        database.migration_lock(connection)
        monkeypatch.setattr(schema, "inspect", look)
        second = pool.submit(upgrade, empty_url)
        assert looked.wait(PROCESS_SECONDS)  # it has seen an empty database, and now wants the lock
        schema.run_migrations(connection)
        connection.commit()
        assert second.result(PROCESS_SECONDS) == (HEAD, HEAD)


@pytest.mark.parametrize("check", [upgrade_database, schema.check])
def test_a_foreign_database_is_refused_and_left_alone(database: Database, check: Callable[[Database], object]) -> None:
    _execute(database, "CREATE TABLE customers (id INTEGER PRIMARY KEY)", "INSERT INTO customers VALUES (7)")

    with pytest.raises(SchemaNotCurrent) as refused:
        check(database)
    schema.create_if_empty(database)

    assert HEAD in str(refused.value)
    assert "runtimestore migrate" in str(refused.value)
    assert _contents(database) == {"customers": [{"id": 7}]}


@pytest.mark.parametrize("check", [upgrade_database, schema.check])
def test_a_foreign_database_that_numbers_its_revisions_alike_is_refused(
    database: Database, check: Callable[[Database], object]
) -> None:
    _execute(
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
    _execute(database, "UPDATE alembic_version SET version_num = '9999'")
    before = _contents(database)

    with pytest.raises(SchemaNotCurrent) as refused:
        check(database)

    for part in (HEAD, "9999", "runtimestore migrate"):
        assert part in str(refused.value)
    assert _contents(database) == before


def test_an_alembic_database_of_another_program_is_refused_and_left_alone(database: Database) -> None:
    _execute(
        database,
        "CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL PRIMARY KEY)",
        "INSERT INTO alembic_version VALUES ('ae1027a6acf')",
        "CREATE TABLE customers (id INTEGER PRIMARY KEY)",
    )
    before = _contents(database)

    with pytest.raises(SchemaNotCurrent, match="ae1027a6acf"):
        upgrade_database(database)
    assert _contents(database) == before


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
