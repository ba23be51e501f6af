"""An empty database on each engine."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from runtimestore_server.store.engines import Database, open_database

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from support.servers.postgres import Cluster


@pytest.fixture(params=["sqlite", "postgres"])
def empty_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A database without any table."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/store.db"
        return
    cluster: Cluster = request.getfixturevalue("postgres_cluster")
    url = cluster.fresh_database(migrated=False)
    yield url
    cluster.drop(url)


@pytest.fixture
def database(empty_url: str) -> Iterator[Database]:
    found = open_database(empty_url, committer_threads=2, reader_threads=2)
    yield found
    found.dispose()
