"""What makes an acknowledged write durable is set on every connection that writes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from sqlalchemy import text

if TYPE_CHECKING:
    from runtimestore_server.store.engines import Database

FULL = 2
"""What SQLite answers for `synchronous = FULL`."""


@pytest.mark.parametrize("renewed", [False, True])
def test_sqlite_syncs_its_log_before_a_commit_is_answered(sqlite_database: Database, *, renewed: bool) -> None:
    if renewed:
        with sqlite_database.writers.connect() as connection:
            sqlite_database.discard(connection)
    with sqlite_database.writers.connect() as connection:
        assert connection.execute(text("PRAGMA synchronous")).scalar_one() == FULL
        assert connection.execute(text("PRAGMA journal_mode")).scalar_one() == "wal"


def test_postgres_commits_as_durably_as_its_operator_said(postgres_database: Database) -> None:
    said = text("SELECT setting, source FROM pg_settings WHERE name = 'synchronous_commit'")
    with postgres_database.writers.connect() as connection:
        setting, source = connection.execute(said).one()

    assert setting == "on"
    assert source in ("default", "configuration file")  # and not "session": the store does not touch it
