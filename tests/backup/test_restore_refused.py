"""Backups that were altered, and disks without room: a restore is exact, or it is refused and leaves nothing."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import pytest

from runtimestore_server.backup import CannotRestore, create, restore
from runtimestore_server.store.engines import store_file
from runtimestore_server.store.engines.sqlite_driver import sqlite3
from runtimestore_server.store.schema import upgrade
from support.checkers.progress import Nobody
from support.faults.disk import small_disk

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def backup(tmp_path: Path) -> Path:
    """A backup of a small store, `source.db` beside it."""
    url = f"sqlite:///{tmp_path}/source.db"
    upgrade(url)
    create(url, tmp_path / "a.backup", Nobody())
    return tmp_path / "a.backup"


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
