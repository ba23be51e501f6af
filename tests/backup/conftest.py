"""A backup of a small store, and where a backup is restored."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import pytest

from runtimestore_server.backup import create
from runtimestore_server.store.schema import upgrade
from support.checkers.progress import Nobody
from support.servers.engines import Engine, Postgres, Sqlite

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from support.servers.postgres import Cluster


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


@pytest.fixture
def backup(tmp_path: Path) -> Path:
    """A backup of a small store, `source.db` beside it."""
    url = f"sqlite:///{tmp_path}/source.db"
    upgrade(url)
    create(url, tmp_path / "a.backup", Nobody())
    return tmp_path / "a.backup"
