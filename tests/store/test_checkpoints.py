"""A checkpoint of SQLite's log after one that failed begins with the whole log, however long that cannot be said."""

from __future__ import annotations

import os
from contextlib import closing
from typing import TYPE_CHECKING, Any, cast

from runtimestore_server.store.engines.checkpoints import CHECKPOINT_BYTES, LARGE_COMMIT_BYTES, Checkpoints
from runtimestore_server.store.engines.sqlite_driver import sqlite3

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import pytest


class Driver:
    """A connection whose first checkpoint fails, as it does where the disk fails; it tells what was done in order."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self.done: list[str] = []

    def execute(self, statement: str) -> Any:
        if "wal_checkpoint" in statement:
            self.done.append("checkpoint")
            if self.done.count("checkpoint") == 1:
                raise sqlite3.OperationalError("disk I/O error")
        return self._connection.execute(statement)


def _failing_once(driver: Driver, write: Callable[..., int]) -> Callable[..., int]:
    def pwrite(file: int, content: bytes, offset: int) -> int:
        driver.done.append("begin anew")
        if driver.done.count("begin anew") == 1:
            raise OSError(5, "Input/output error")
        return write(file, content, offset)

    return pwrite


def test_that_the_next_checkpoint_begins_anew_is_said_before_it_begins_if_not_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(sqlite3.connect(tmp_path / "store.db", isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("CREATE TABLE kept (value)")
        driver, checkpoints = Driver(connection), Checkpoints(tmp_path / "store.db-wal")
        monkeypatch.setattr(os, "pwrite", _failing_once(driver, os.pwrite))

        for _ in range(3):
            checkpoints.after_commit(cast("sqlite3.Connection", driver), CHECKPOINT_BYTES)
            connection.execute("INSERT INTO kept VALUES ('x')")

        assert driver.done == ["checkpoint", "begin anew", "begin anew", "checkpoint", "checkpoint"]
        assert connection.execute("SELECT count(*) FROM kept").fetchone() == (3,)


class _Counting:
    """A connection whose checkpoints are counted."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self.checkpoints = 0

    def execute(self, statement: str) -> Any:
        self.checkpoints += "wal_checkpoint" in statement
        return self._connection.execute(statement)


def test_a_large_commit_leaves_its_checkpoint_to_the_next_or_to_a_moment_without_one(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "store.db", isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        counting, checkpoints = _Counting(connection), Checkpoints(tmp_path / "store.db-wal")
        driver = cast("sqlite3.Connection", counting)

        checkpoints.after_commit(driver, LARGE_COMMIT_BYTES)
        assert counting.checkpoints == 0
        assert checkpoints.owed  # so that it is made where nothing comes, too
        checkpoints.after_commit(driver, 1)
        assert counting.checkpoints == 1
        assert not checkpoints.owed

        checkpoints.after_commit(driver, CHECKPOINT_BYTES)
        assert counting.checkpoints == 2
