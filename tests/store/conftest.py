"""The store itself: databases without a server in front of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from runtimestore_server.store.engines import Database, open_database
from runtimestore_server.store.schema import upgrade_database

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from support.servers.postgres import Cluster


def _opened(url: str) -> Database:
    database = open_database(url, committer_threads=2, reader_threads=2)
    upgrade_database(database)
    return database


@pytest.fixture
def database(fresh_url: str) -> Iterator[Database]:
    """A migrated database of each engine."""
    found = _opened(fresh_url)
    yield found
    found.dispose()


@pytest.fixture
def postgres_database(postgres_cluster: Cluster) -> Iterator[Database]:
    """A migrated database on Postgres, for what only an engine with concurrent writers can do."""
    url = postgres_cluster.fresh_database()
    found = _opened(url)
    yield found
    found.dispose()
    postgres_cluster.drop(url)


@pytest.fixture
def sqlite_database(tmp_path: Path) -> Iterator[Database]:
    """A migrated SQLite file, for what only SQLite tells."""
    found = _opened(f"sqlite:///{tmp_path}/store.db")
    yield found
    found.dispose()
