"""`runtimestore backup` and `restore` as people start them: exact on either engine, refused when unsafe."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa

from runtimestore import AsyncRuntimeStoreClient
from runtimestore_server.backup import CannotBackUp, CannotRestore, create, restore
from runtimestore_server.backup import manifest as manifests
from runtimestore_server.store import tables
from runtimestore_server.store.engines import open_database, store_file
from runtimestore_server.store.engines.sqlite_driver import sqlite3
from runtimestore_server.store.schema import upgrade
from runtimestore_server.store.values import RuntimeKey
from runtimestore_server.store.versions.chains import load_session
from support.checkers.progress import Nobody
from support.generators.calls import RUNTIME_WRITES, everything, named
from support.generators.documents import new_id, session
from support.servers.command import run
from support.servers.engines import DURABLE, Engine, Postgres, Sqlite
from support.servers.server import ServerProcess, in_process

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from subprocess import CompletedProcess

    from support.servers.postgres import Cluster

pytestmark = pytest.mark.usefixtures("runner")

STORED = "SELECT manifest FROM runtimestore_backup"
CHANGE = "UPDATE runtimestore_backup SET manifest = ?"
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


@pytest.fixture(params=[Sqlite, Postgres], ids=lambda kind: kind.name)
def other(request: pytest.FixtureRequest, tmp_path: Path, postgres_cluster: Cluster) -> Engine:
    """The engine that a backup is restored onto."""
    if request.param is Postgres:
        return Postgres(postgres_cluster)
    (tmp_path / "other").mkdir()
    return Sqlite(tmp_path / "other")


@pytest.fixture
def there(other: Engine) -> Iterator[str]:
    """A database with nothing in it to restore into."""
    url = other.fresh_url(migrated=False)
    yield url
    with contextlib.suppress(FileNotFoundError):  # what is refused leaves nothing, not even an empty file
        other.drop(url)


def _backup(url: str, file: Path, *arguments: str) -> CompletedProcess[str]:
    return run("backup", str(file), "--database-url", url, *arguments, cwd=file.parent)


def _restore(file: Path, url: str, *arguments: str) -> CompletedProcess[str]:
    return run("restore", str(file), "--database-url", url, *arguments, cwd=file.parent)


@pytest.fixture
def backup(tmp_path: Path) -> Path:
    """A backup of a small store, `source.db` beside it."""
    url = f"sqlite:///{tmp_path}/source.db"
    upgrade(url)
    create(url, tmp_path / "a.backup", Nobody())
    return tmp_path / "a.backup"


@pytest.mark.needs(DURABLE)
async def test_a_store_comes_back_from_its_backup_exactly_on_either_engine(
    fresh_url: str, there: str, tmp_path: Path
) -> None:
    before = await _fill(fresh_url)
    file = tmp_path / "a.backup"

    taken = _backup(fresh_url, file)
    restored = _restore(file, there)

    assert (taken.returncode, restored.returncode) == (0, 0), taken.stderr + restored.stderr
    assert await _served(there) == before
    again = tmp_path / "again.backup"
    assert _backup(there, again).returncode == 0
    assert _manifest(again).tables == _manifest(file).tables
    assert run("verify", "--database-url", there, cwd=tmp_path).returncode == 0


def _manifest(file: Path) -> manifests.Manifest:
    with contextlib.closing(store_file.open_file(file)) as connection:
        return manifests.Manifest.from_json(connection.execute(STORED).fetchone()[0])


def test_a_backup_carries_every_table_and_every_column(backup: Path) -> None:
    with contextlib.closing(store_file.open_file(backup)) as connection:
        carried = {shape.name: list(shape.columns) for shape in store_file.shapes(connection)}

    assert carried == {name: table.columns.keys() for name, table in tables.metadata.tables.items()}
    assert _manifest(backup).tables.keys() == tables.metadata.tables.keys()


@pytest.mark.needs(DURABLE)
async def test_a_backup_beside_writers_is_one_moment_and_passes_verify(engine: Engine, tmp_path: Path) -> None:
    url = engine.fresh_url()
    file = tmp_path / "a.backup"
    with ServerProcess(url) as server:
        async with AsyncRuntimeStoreClient(server.address) as store:
            writing = asyncio.create_task(_write_on(store))
            await asyncio.sleep(0.5)
            taken = await asyncio.to_thread(_backup, url, file)
            writing.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await writing
    engine.drop(url)

    assert taken.returncode == 0, taken.stderr
    copy = tmp_path / "copy.db"
    assert _restore(file, f"sqlite:///{copy}").returncode == 0
    checked = run("verify", "--json", "--database-url", f"sqlite:///{copy}", cwd=tmp_path)
    assert json.loads(checked.stdout)["findings"] == []
    assert _manifest(file).tables["runtimes"].rows > 0


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

    done = _backup(url, tmp_path / "a.backup")

    manifest = _manifest(tmp_path / "a.backup")
    assert manifest.store_id in done.stdout
    assert f"sqlite:{tmp_path}/source.db" in done.stdout
    assert "sha256" in done.stdout
    assert "runtimestore verify" in done.stdout


def test_a_backup_never_overwrites_a_file(backup: Path, tmp_path: Path) -> None:
    before = backup.read_bytes()

    done = _backup(f"sqlite:///{tmp_path}/source.db", backup)

    assert done.returncode == 2
    assert f"{backup} is there already" in done.stderr
    assert backup.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.backup", "source.db"]


def test_what_an_interrupted_backup_left_is_in_nobodys_way(backup: Path, tmp_path: Path) -> None:
    backup.unlink()
    Path(f"{backup}.partial").write_bytes(b"half")

    assert _backup(f"sqlite:///{tmp_path}/source.db", backup).returncode == 0
    assert not Path(f"{backup}.partial").exists()


class _Meanwhile(Nobody):
    """Does something in the midst of a backup or restore, when a step of that name begins."""

    def __init__(self, step: str, happens: Callable[[], object]) -> None:
        self._step = step
        self._happens: Callable[[], object] | None = happens

    def begin(self, step: str, total: int) -> None:
        """Do it, once."""
        del total
        happens, self._happens = (self._happens, None) if step == self._step else (None, self._happens)
        if happens is not None:
            happens()


def test_two_backups_into_one_file_are_one_backup_and_one_refusal(tmp_path: Path) -> None:
    for name in ("one", "two"):
        upgrade(f"sqlite:///{tmp_path}/{name}.db")
    file = tmp_path / "a.backup"
    other: list[CompletedProcess[str]] = []
    meanwhile = _Meanwhile("adding up", lambda: other.append(_backup(f"sqlite:///{tmp_path}/two.db", file)))

    taken = create(f"sqlite:///{tmp_path}/one.db", file, meanwhile)

    assert other[0].returncode == 2
    assert "another backup" in other[0].stderr
    assert _manifest(file) == taken.manifest
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.backup", "one.db", "two.db"]


def test_a_file_that_comes_while_a_backup_is_written_is_not_overwritten(backup: Path, tmp_path: Path) -> None:
    backup.unlink()
    meanwhile = _Meanwhile("adding up", lambda: backup.write_bytes(b"precious"))

    with pytest.raises(CannotBackUp, match="is there already"):
        create(f"sqlite:///{tmp_path}/source.db", backup, meanwhile)

    assert backup.read_bytes() == b"precious"


@pytest.mark.parametrize("step", ["copying", "adding up", "restoring"])
async def test_a_store_that_is_made_while_a_restore_is_under_way_is_not_replaced(
    step: str, backup: Path, other: Engine, there: str
) -> None:
    if other.name == "sqlite":
        os.close(os.open(there.removeprefix("sqlite:///"), os.O_CREAT))  # an empty file: nothing is there yet

    with pytest.raises(CannotRestore, match=r"meanwhile|a server is connected"):
        restore(backup, there, _Meanwhile(step, lambda: upgrade(there)))

    assert await _authority(there) != await _authority(f"sqlite:///{backup.parent}/source.db")


async def _authority(url: str) -> str | None:
    async with in_process(url) as app, AsyncRuntimeStoreClient(app.address) as store:
        return await store.auth_authority_key()


@pytest.mark.parametrize("where", ["missing.db", "empty.db", "foreign.db"])
def test_what_is_no_store_cannot_be_backed_up(where: str, tmp_path: Path) -> None:
    if where != "missing.db":
        with contextlib.closing(sqlite3.connect(tmp_path / where)) as connection:
            connection.execute("CREATE TABLE other (x)" if where == "foreign.db" else "PRAGMA user_version = 1")
            connection.commit()

    done = _backup(f"sqlite:///{tmp_path}/{where}", tmp_path / "a.backup")

    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "a.backup").exists()


def _damaged(backup: Path, how: str) -> None:
    with contextlib.closing(sqlite3.connect(backup)) as connection:
        match how:
            case "cut off":
                os.truncate(backup, backup.stat().st_size // 2)
            case "no database":
                backup.write_bytes(b"hello" * 1000)
            case "no backup":
                connection.execute(f"DROP TABLE {store_file.BACKUP_TABLE}")
            case "a row more":
                connection.execute("INSERT INTO runtimes VALUES ('default', 'rt:x', 1, NULL, NULL, NULL)")
            case "a value changed":
                connection.execute("UPDATE store_identity SET store_id = ?", (new_id(),))
            case "a table less":
                connection.execute("DROP TABLE fences")
            case "a newer schema":
                connection.execute("UPDATE alembic_version SET version_num = '9999'")
                _change_manifest(connection, schema_revision="9999")
            case "a newer format":
                _change_manifest(connection, format=manifests.FORMAT + 1)
            case "no manifest":
                connection.execute(CHANGE, ("{",))
        with contextlib.suppress(sqlite3.DatabaseError):
            connection.commit()


def _change_manifest(connection: sqlite3.Connection, **changes: Any) -> None:
    (stored,) = connection.execute(STORED).fetchone()
    changed = json.dumps(json.loads(stored) | changes)
    connection.execute(CHANGE, (changed,))


DAMAGE = {
    "cut off": "damaged or cut off",
    "no database": "not even an SQLite file",
    "no backup": "no backup",
    "a row more": "runtimes",
    "a value changed": "store_identity",
    "a table less": "fences",
    "a newer schema": "9999",
    "a newer format": "newer version",
    "no manifest": "altered",
}


@pytest.mark.parametrize("how", DAMAGE)
def test_what_is_cut_off_altered_or_newer_is_refused_and_touches_nothing(
    how: str, backup: Path, tmp_path: Path
) -> None:
    _damaged(backup, how)

    with pytest.raises(CannotRestore, match=DAMAGE[how]):
        restore(backup, f"sqlite:///{tmp_path}/there.db", Nobody(), replace=True)

    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.backup", "source.db"]


def test_a_refused_restore_says_so_in_one_sentence(backup: Path, there: str) -> None:
    _damaged(backup, "a row more")

    done = _restore(backup, there, "--replace")

    assert done.returncode == 2
    assert done.stdout == ""
    assert (
        done.stderr
        == f"runtimestore: {backup}: it is not as it was written: runtimes differ from what its manifest says\n"
    )


async def test_a_store_is_replaced_only_when_told_and_what_was_there_is_kept_on_sqlite(
    other: Engine, backup: Path
) -> None:
    url = other.fresh_url()
    before = await _fill(url)

    refused = _restore(backup, url)
    assert refused.returncode == 2
    assert "--replace" in refused.stderr
    assert await _served(url) == before

    replaced = _restore(backup, url, "--replace")
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
            refused = await asyncio.to_thread(_restore, backup, url, "--replace")
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

    done = _restore(backup, url, "--replace")

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
            "UPDATE alembic_version SET version_num = '0001'",
        ):
            connection.execute(statement)
        connection.commit()
        held = manifests.digests(connection, Nobody(), "")
        _change_manifest(connection, schema_revision="0001", tables={name: of._asdict() for name, of in held.items()})
        connection.commit()

    done = _restore(old, there)

    assert done.returncode == 0, done.stderr
    assert run("verify", "--strict", "--database-url", there, cwd=tmp_path).returncode == 0
    assert await _served(there) == before
