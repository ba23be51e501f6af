"""`runtimestore backup` as people start it: a moment of the whole store, in a file of its own, refused when unsafe."""

from __future__ import annotations

import asyncio
import contextlib
import json
import stat
from pathlib import Path

import pytest

from runtimestore import AsyncRuntimeStoreClient
from runtimestore_server.store import tables
from runtimestore_server.store.engines import store_file
from runtimestore_server.store.engines.sqlite_driver import sqlite3
from runtimestore_server.store.schema import upgrade
from support.generators.documents import session
from support.servers.backups import manifest_of, run_backup, run_restore
from support.servers.command import run
from support.servers.engines import DURABLE, Engine
from support.servers.server import ServerProcess

pytestmark = pytest.mark.usefixtures("runner")


def test_a_backup_carries_every_table_and_every_column(backup: Path) -> None:
    with contextlib.closing(store_file.open_file(backup)) as connection:
        carried = {shape.name: list(shape.columns) for shape in store_file.shapes(connection)}

    assert carried == {name: table.columns.keys() for name, table in tables.metadata.tables.items()}
    assert manifest_of(backup).tables.keys() == tables.metadata.tables.keys()


@pytest.mark.needs(DURABLE)
async def test_a_backup_beside_writers_is_one_moment_and_passes_verify(engine: Engine, tmp_path: Path) -> None:
    url = engine.fresh_url()
    file = tmp_path / "a.backup"
    with ServerProcess(url) as server:
        async with AsyncRuntimeStoreClient(server.address) as store:
            writing = asyncio.create_task(_write_on(store))
            await asyncio.sleep(0.5)
            taken = await asyncio.to_thread(run_backup, url, file)
            writing.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await writing
    engine.drop(url)

    assert taken.returncode == 0, taken.stderr
    copy = tmp_path / "copy.db"
    assert run_restore(file, f"sqlite:///{copy}").returncode == 0
    checked = run("verify", "--json", "--database-url", f"sqlite:///{copy}", cwd=tmp_path)
    assert json.loads(checked.stdout)["findings"] == []
    assert manifest_of(file).tables["runtimes"].rows > 0


async def _write_on(store: AsyncRuntimeStoreClient) -> None:
    number = 0
    while True:
        number += 1
        await store.commit_session_snapshot(f"rt:{number % 50}", session("x" * 1000))


def test_a_backup_holds_secrets_so_its_owner_alone_may_read_it(backup: Path) -> None:
    assert stat.S_IMODE(backup.stat().st_mode) == 0o600


def test_a_backup_says_what_it_is_of_and_how_to_check_it(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/source.db"
    upgrade(url)

    done = run_backup(url, tmp_path / "a.backup")

    manifest = manifest_of(tmp_path / "a.backup")
    assert manifest.store_id in done.stdout
    assert f"sqlite:{tmp_path}/source.db" in done.stdout
    assert "sha256" in done.stdout
    assert "runtimestore verify" in done.stdout


def test_a_backup_never_overwrites_a_file(backup: Path, tmp_path: Path) -> None:
    before = backup.read_bytes()

    done = run_backup(f"sqlite:///{tmp_path}/source.db", backup)

    assert done.returncode == 2
    assert f"{backup} is there already" in done.stderr
    assert backup.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.backup", "source.db"]


def test_what_an_interrupted_backup_left_is_in_nobodys_way(backup: Path, tmp_path: Path) -> None:
    backup.unlink()
    Path(f"{backup}.partial").write_bytes(b"half")

    assert run_backup(f"sqlite:///{tmp_path}/source.db", backup).returncode == 0
    assert not Path(f"{backup}.partial").exists()


@pytest.mark.parametrize("where", ["missing.db", "empty.db", "foreign.db"])
def test_what_is_no_store_cannot_be_backed_up(where: str, tmp_path: Path) -> None:
    if where != "missing.db":
        with contextlib.closing(sqlite3.connect(tmp_path / where)) as connection:
            connection.execute("CREATE TABLE other (x)" if where == "foreign.db" else "PRAGMA user_version = 1")
            connection.commit()

    done = run_backup(f"sqlite:///{tmp_path}/{where}", tmp_path / "a.backup")

    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "a.backup").exists()
