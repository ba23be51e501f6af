"""A migration waits as long as a write for whoever holds the lock of an SQLite file, and not for ever."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest
from sqlalchemy.exc import OperationalError

from runtimestore_server.store import schema
from runtimestore_server.store.engines import any_sqlite, open_database, sqlite, sqlite_connections
from runtimestore_server.store.engines.sqlite_driver import sqlite3
from runtimestore_server.store.schema import HEAD, create_if_empty, upgrade

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from runtimestore_server.store.engines import Database

BUSY_SECONDS = 0.05


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A store's file of which SQLite itself waits for nobody's lock for long."""
    for module in (any_sqlite, sqlite, sqlite_connections):
        monkeypatch.setattr(module, "BUSY_TIMEOUT_SECONDS", BUSY_SECONDS)
    return tmp_path / "store.db"


def _create(database_url: str) -> None:
    database: Database = open_database(database_url, committer_threads=1, reader_threads=1)
    try:
        create_if_empty(database)
    finally:
        database.dispose()


def _wait_for(
    file: Path, work: Callable[[str], object], *, held_seconds: float, journal: str = "WAL", lock: str = "IMMEDIATE"
) -> None:
    """Do work while another process' transaction holds the file's lock for so long."""
    holder = sqlite3.connect(file, isolation_level=None, check_same_thread=False)
    holder.execute(f"PRAGMA journal_mode = {journal}")
    holder.execute(f"BEGIN {lock}")
    end = threading.Timer(held_seconds, holder.execute, ["COMMIT"])
    end.start()
    try:
        work(f"sqlite:///{file}")
    finally:
        end.join()
        holder.close()


@pytest.mark.parametrize(("journal", "lock"), [("WAL", "IMMEDIATE"), ("DELETE", "EXCLUSIVE")])
@pytest.mark.parametrize("work", [upgrade, _create])
def test_a_migration_waits_for_a_transaction_that_takes_longer_than_sqlite_waits_by_itself(
    file: Path, work: Callable[[str], object], journal: str, lock: str
) -> None:
    _wait_for(file, work, held_seconds=20 * BUSY_SECONDS, journal=journal, lock=lock)

    assert upgrade(f"sqlite:///{file}") == (HEAD, HEAD)


def test_a_migration_does_not_wait_for_ever(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schema, "TRANSIENT_LIMIT_SECONDS", 5 * BUSY_SECONDS)

    with pytest.raises(OperationalError, match="database is locked"):
        _wait_for(file, upgrade, held_seconds=40 * BUSY_SECONDS)

    assert upgrade(f"sqlite:///{file}") == (None, HEAD)
