"""An upgrade from any revision keeps everything, wherever it is cut off, and one at a time."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import sqlalchemy as sa

from runtimestore.errors import RevisionNotKept
from runtimestore_migrations.carrying import FORMER
from runtimestore_server.store import schema
from runtimestore_server.store.schema import HEAD, REVISIONS, upgrade, upgrade_database
from runtimestore_server.store.values import Outcome, SessionSnapshot, SnapshotEdits
from runtimestore_server.store.versions.chains import load_session
from runtimestore_server.store.versions.edits import Edit, encode
from runtimestore_server.store.writes import Write
from support.faults.killed_processes import run_killed
from support.generators.older_stores import (
    write_before_versions,
    write_everything,
    write_everything_and_acquire,
    write_while_carrying,
)
from support.generators.store_writes import (
    commit,
    new_id,
    runtime,
    statements,
)
from support.servers.forked_command import ForkedCommand
from support.servers.schemas import contents, plainly, upgrade_to
from support.servers.server_process import environment_with

if TYPE_CHECKING:
    from collections.abc import Callable

    from runtimestore_server.store.engines import Database


PROCESS_SECONDS = 120

# How a database of each revision is filled. An older revision needs statements of its own, as its code is gone.
POPULATE: dict[str, Callable[[Database], None]] = {
    "0001": write_before_versions,
    "0002": write_before_versions,
    "0003": write_while_carrying,
    "0004": write_everything_and_acquire,
    "0005": write_everything_and_acquire,
    HEAD: write_everything_and_acquire,
}


def _migrate(url: str) -> ForkedCommand:
    environment = environment_with({"RUNTIMESTORE_DATABASE_URL": url})
    return ForkedCommand(["migrate"], environment=environment, cwd=None)


@pytest.mark.parametrize("revision", REVISIONS)
def test_an_upgrade_from_any_revision_keeps_every_byte(database: Database, revision: str) -> None:
    upgrade_to(database, revision)
    POPULATE[revision](database)
    before = contents(database)
    assert all(before.values())

    assert upgrade_database(database) == (revision, HEAD)

    after = contents(database)
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
    upgrade_to(database, revision)
    write_before_versions(database)
    body = b'{"text": "\0 \xc3\xa9"}'
    with plainly(database) as connection:
        connection.execute(sa.text("UPDATE session_snapshots SET sha256 = :d"), {"d": sha256(body).digest()})
        connection.commit()
    upgrade_database(database)
    key, without = runtime("ä\n'\""), runtime("without a session")

    with database.readers.connect() as connection:
        found, stored = load_session(connection, key)
        assert stored is not None
        assert (found, stored.body, stored.revision) == (17, body, 17)
        assert load_session(connection, without) == (1, None)
        for earlier in (0, 1, 16):
            with pytest.raises(RevisionNotKept) as refusal:
                load_session(connection, key, as_of_revision=earlier)
            assert refusal.value.oldest_revision == 17
        for later in (17, 18, 2**64 - 1):
            assert load_session(connection, key, as_of_revision=later) == (17, stored)

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
    upgrade_to(database, "0002")
    names = [f"rt:{number}" for number in range(6)]
    with plainly(database) as connection:
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
    write_everything(database)
    before = contents(database)

    with statements(database.writers) as sent:
        assert upgrade_database(database) == (HEAD, HEAD)

    assert sent == []
    assert contents(database) == before


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


def test_two_processes_that_migrate_at_once_both_succeed_and_make_one_schema(
    empty_url: str, database: Database
) -> None:
    processes = [_migrate(empty_url) for _ in range(2)]
    logs = [process.outcome(PROCESS_SECONDS).stderr for process in processes]

    assert [process.returncode for process in processes] == [0, 0], logs
    found = contents(database)
    assert found["alembic_version"] == [{"version_num": HEAD}]
    assert len(found["store_identity"]) == 1
    assert sum("schema upgraded" in log for log in logs) >= 1


def test_many_that_migrate_in_the_same_moment_all_succeed(empty_url: str, database: Database) -> None:
    barrier = threading.Barrier(4)

    def migrate() -> tuple[str | None, str]:
        barrier.wait(PROCESS_SECONDS)
        return upgrade(empty_url)

    with ThreadPoolExecutor(4) as pool:
        results = [future.result(PROCESS_SECONDS) for future in [pool.submit(migrate) for _ in range(4)]]

    assert sorted(results, key=repr) == [*[(HEAD, HEAD)] * 3, (None, HEAD)]
    assert len(contents(database)["store_identity"]) == 1


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
