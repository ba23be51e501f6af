"""A store comes back from its backup exactly, on either engine, and takes the place of another only when told."""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa

from runtimestore import AsyncRuntimeStoreClient
from runtimestore_server.backup import create
from runtimestore_server.backup import manifest as manifests
from runtimestore_server.store import tables
from runtimestore_server.store.engines import open_database
from runtimestore_server.store.engines.sqlite_driver import sqlite3
from runtimestore_server.store.values import RuntimeKey
from runtimestore_server.store.versions.chains import load_session
from support.checkers.progress import Nobody
from support.generators.calls import RUNTIME_WRITES, everything, named
from support.generators.documents import new_id, session
from support.servers.backups import change_manifest, manifest_of, run_backup, run_restore
from support.servers.command import run
from support.servers.engines import DURABLE, Engine
from support.servers.server import ServerProcess, in_process

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.usefixtures("runner")

SESSION = new_id()
RUNTIMES = [f"rt:{letter}" for letter in "aé日"]


async def _fill(url: str) -> dict[str, Any]:
    """Something in every table, and how it reads."""
    async with in_process(url) as app, AsyncRuntimeStoreClient(app.address) as store:
        for runtime_id in RUNTIMES:
            for write in RUNTIME_WRITES:
                await write(store, runtime_id, f"of {named(write)}", request_id=new_id())
            await store.acquire_runtime(runtime_id, owner="host-1")
        await store.persist_auth_oauth_flow_snapshot(b"\x00secret\xff")
        return await _read(store)


async def _read(store: AsyncRuntimeStoreClient) -> dict[str, Any]:
    found = {runtime_id: await everything(store, runtime_id) for runtime_id in RUNTIMES}
    return {
        **found,
        "oauth": await store.load_auth_oauth_flow_snapshot(),
        "authority": await store.auth_authority_key(),
    }


async def _served(url: str) -> dict[str, Any]:
    async with in_process(url) as app, AsyncRuntimeStoreClient(app.address) as store:
        return await _read(store)


@pytest.mark.needs(DURABLE)
async def test_a_store_comes_back_from_its_backup_exactly_on_either_engine(
    fresh_url: str, there: str, tmp_path: Path
) -> None:
    before = await _fill(fresh_url)
    file = tmp_path / "a.backup"

    taken = run_backup(fresh_url, file)
    restored = run_restore(file, there)

    assert (taken.returncode, restored.returncode) == (0, 0), taken.stderr + restored.stderr
    assert await _served(there) == before
    again = tmp_path / "again.backup"
    assert run_backup(there, again).returncode == 0
    assert manifest_of(again).tables == manifest_of(file).tables


@pytest.mark.needs(DURABLE)
async def test_a_large_session_and_what_rests_on_it_come_back_on_either_engine(
    fresh_url: str, there: str, tmp_path: Path
) -> None:
    large = [session("what was said. " * 400_000 + end, session_id=SESSION) for end in ("", "more")]
    async with in_process(fresh_url) as app, AsyncRuntimeStoreClient(app.address) as store:
        for body in large:
            await store.commit_session_snapshot("rt:large", body)
    file = tmp_path / "a.backup"

    taken, restored = run_backup(fresh_url, file), run_restore(file, there)

    assert (taken.returncode, restored.returncode) == (0, 0), taken.stderr + restored.stderr
    assert file.stat().st_size < len(large[0])
    async with in_process(there) as app, AsyncRuntimeStoreClient(app.address) as store:
        for revision, body in enumerate(large, start=1):
            assert await store.load_session_snapshot("rt:large", as_of_revision=revision) == body
    checked = run("verify", "--json", "--database-url", there, cwd=tmp_path)
    assert json.loads(checked.stdout)["findings"] == []
    assert run("verify", "--database-url", there, cwd=tmp_path).returncode == 0


async def test_a_store_is_replaced_only_when_told_and_what_was_there_is_kept_on_sqlite(
    other: Engine, backup: Path
) -> None:
    url = other.fresh_url()
    before = await _fill(url)

    refused = run_restore(backup, url)
    assert refused.returncode == 2
    assert "--replace" in refused.stderr
    assert await _served(url) == before

    replaced = run_restore(backup, url, "--replace")
    assert replaced.returncode == 0, replaced.stderr
    assert (await _served(url))["rt:a"] != before["rt:a"]
    kept = [word for word in replaced.stdout.split() if ".replaced-" in word]
    assert len(kept) == (other.name == "sqlite")
    for file in kept:
        assert await _served(f"sqlite:///{file}") == before
    other.drop(url)


async def test_a_store_that_a_server_has_open_is_not_replaced(other: Engine, backup: Path) -> None:
    url = other.fresh_url()
    with ServerProcess(url) as server:
        async with AsyncRuntimeStoreClient(server.address) as store:
            await store.commit_session_snapshot("rt:a", session("mine"))
            refused = await asyncio.to_thread(run_restore, backup, url, "--replace")
            still = await store.load_session_snapshot("rt:a")

    assert refused.returncode == 2
    assert "stop it first" in refused.stderr
    assert still is not None
    other.drop(url)


async def test_a_log_left_beside_a_store_is_no_part_of_what_is_restored(backup: Path, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/killed.db"
    file, log = tmp_path / "killed.db", tmp_path / "killed.db-wal"
    with ServerProcess(url, exit_code=-9) as server:
        async with AsyncRuntimeStoreClient(server.address) as store:
            await store.commit_session_snapshot("rt:a", session("mine"))
        server.kill()
    assert log.stat().st_size
    file.unlink()  # as who restores by hand

    done = run_restore(backup, url, "--replace")

    assert done.returncode == 0, done.stderr
    assert not log.exists()
    assert run("verify", "--strict", "--database-url", url, cwd=tmp_path).returncode == 0
    async with in_process(url) as app, AsyncRuntimeStoreClient(app.address) as store:
        assert await store.load_session_snapshot("rt:a") is None


def _newest_sessions(file: Path) -> list[tuple[str, str, str, bytes, bytes]]:
    """The newest session of each runtime in an SQLite file: its row as older versions had it."""
    database = open_database(f"sqlite:///{file}", committer_threads=1, reader_threads=1)
    found = []
    with database.readers.connect() as connection:
        keys = connection.execute(sa.select(tables.runtimes.c.realm, tables.runtimes.c.runtime_id)).all()
        for key in keys:
            _, stored = load_session(connection, RuntimeKey(*key))
            if stored is not None and stored.body is not None:
                found.append((*key, stored.session_id, stored.sha256, stored.body))
    database.dispose()
    return found


async def test_a_backup_of_an_older_schema_is_brought_to_this_one(there: str, tmp_path: Path) -> None:
    source, old = tmp_path / "source.db", tmp_path / "old.backup"
    before = await _fill(f"sqlite:///{source}")
    create(f"sqlite:///{source}", old, Nobody())
    sessions = _newest_sessions(source)
    assert sessions
    with contextlib.closing(sqlite3.connect(old)) as connection:  # as version 0001 left it
        connection.execute(
            "CREATE TABLE session_snapshots (realm TEXT NOT NULL, runtime_id TEXT NOT NULL, session_id TEXT NOT NULL,"
            " sha256 BLOB NOT NULL, body BLOB NOT NULL, PRIMARY KEY (realm, runtime_id))"
        )
        connection.executemany("INSERT INTO session_snapshots VALUES (?, ?, ?, ?, ?)", sessions)
        for statement in (
            "DROP TABLE fences",
            "DROP TABLE session_versions",
            "ALTER TABLE runtimes DROP COLUMN session_revision",
            "ALTER TABLE runtimes DROP COLUMN session_sha256",
            "ALTER TABLE receipts DROP COLUMN committed_revision",
            "UPDATE receipts SET sha256 = substr(sha256, 1, 32)",  # which had no seal behind it then
            "UPDATE oauth_flow_snapshots SET sha256 = substr(sha256, 1, 32)",
            "UPDATE alembic_version SET version_num = '0001'",
        ):
            connection.execute(statement)
        connection.commit()
        held = manifests.digests(connection, Nobody(), "")
        change_manifest(connection, schema_revision="0001", tables={name: of._asdict() for name, of in held.items()})
        connection.commit()

    done = run_restore(old, there)

    assert done.returncode == 0, done.stderr
    assert run("verify", "--strict", "--database-url", there, cwd=tmp_path).returncode == 0
    assert await _served(there) == before
