"""Backups that were altered, and disks without room: a restore is exact, or it is refused and leaves nothing."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Any

import pytest

from runtimestore_server.backup import CannotRestore, restore
from runtimestore_server.backup import manifest as manifests
from runtimestore_server.store.engines import store_file
from runtimestore_server.store.engines.sqlite_driver import sqlite3
from support.checkers.progress import Nobody
from support.faults.disk import small_disk
from support.generators.documents import new_id
from support.servers.backups import CHANGE, change_manifest, run_restore

if TYPE_CHECKING:
    from pathlib import Path


def _schema(file: Path) -> list[Any]:
    with contextlib.closing(store_file.open_file(file)) as connection:
        version = connection.execute("PRAGMA user_version").fetchone()
        own = "SELECT type, name, tbl_name, sql FROM sqlite_schema WHERE tbl_name != ? ORDER BY type, name"
        return [version, *connection.execute(own, (store_file.BACKUP_TABLE,))]


def test_a_backup_with_a_bit_turned_anywhere_is_refused_or_restored_exactly(backup: Path, tmp_path: Path) -> None:
    content, there = backup.read_bytes(), tmp_path / "there.db"
    whole = restore(backup, f"sqlite:///{there}", Nobody()).tables
    schema = _schema(there)
    there.unlink()
    refused = 0
    places = [*range(18, 100, 7), *range(200, 4096, 200), *range(4100, len(content), len(content) // 20)]
    for place in places:
        backup.write_bytes(content[:place] + bytes([content[place] ^ 0x20]) + content[place + 1 :])
        try:
            restored = restore(backup, f"sqlite:///{there}", Nobody())
        except CannotRestore:
            refused += 1
        else:  # nothing that the store has was there
            assert (restored.tables, _schema(there)) == (whole, schema), place
            there.unlink()
        assert sorted(path.name for path in tmp_path.iterdir()) == ["a.backup", "source.db"]
    assert 0 < refused < len(places)


def test_of_a_backup_rows_alone_are_restored(backup: Path, tmp_path: Path) -> None:
    with contextlib.closing(sqlite3.connect(backup)) as connection:
        connection.execute("CREATE TRIGGER meddling AFTER INSERT ON runtimes BEGIN DELETE FROM fences; END")
        connection.execute("CREATE INDEX another ON runtimes (revision)")
        connection.execute("PRAGMA user_version = 7")
        connection.commit()

    restore(backup, f"sqlite:///{tmp_path}/there.db", Nobody())

    assert _schema(tmp_path / "there.db") == _schema(tmp_path / "source.db")


@pytest.mark.root
@pytest.mark.parametrize("size_bytes", [8 * 1024, 40 * 1024, 80 * 1024])
def test_a_restore_that_finds_no_room_is_refused_in_a_sentence_and_leaves_nothing(
    size_bytes: int, backup: Path, tmp_path: Path
) -> None:
    with small_disk(tmp_path / "disk", size_bytes=size_bytes):
        with pytest.raises(CannotRestore, match=r"[Nn]o (room|space)"):
            restore(backup, f"sqlite:///{tmp_path}/disk/there.db", Nobody())
        assert list((tmp_path / "disk").iterdir()) == []


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
                change_manifest(connection, schema_revision="9999")
            case "a newer format":
                change_manifest(connection, format=manifests.FORMAT + 1)
            case "no manifest":
                connection.execute(CHANGE, ("{",))
        with contextlib.suppress(sqlite3.DatabaseError):
            connection.commit()


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

    done = run_restore(backup, there, "--replace")

    assert done.returncode == 2
    assert done.stdout == ""
    assert (
        done.stderr
        == f"runtimestore: {backup}: it is not as it was written: runtimes differ from what its manifest says\n"
    )
