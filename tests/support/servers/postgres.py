"""A Postgres for the tests: the one that is named, else one started for this run."""

from __future__ import annotations

import contextlib
import os
import uuid
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import sql
from sqlalchemy.engine import make_url

from runtimestore_server.store.schema import upgrade
from scripts.postgres_server import PostgresServer
from support.servers import quick_folders

if TYPE_CHECKING:
    from collections.abc import Iterator

SETTINGS: dict[str, str | int] = {
    # The tests of replicas and of load hold more connections than the 100 of a fresh cluster.
    "max_connections": 200,
    # Nothing here takes the machine's power away: what a process wrote survives every kill. A database is made and
    # dropped several times as fast. Tests of what Postgres syncs, and of what it warns of, have a server of their own.
    "fsync": "off",
    "full_page_writes": "off",
    # It may lie in memory.
    "max_wal_size": "128MB",
}

STRATEGIES_SINCE = 150000
"""The version of Postgres, as it numbers itself, that first asks how a database is to be copied."""


class Cluster:
    """A Postgres server on which databases can be made; `url` names a database to begin from."""

    def __init__(self, url: str) -> None:
        self._url = make_url(url)
        self._template = ""

    def url(self, database: str) -> str:
        """The URL of one of its databases."""
        return self._url.set(database=database).render_as_string(hide_password=False)

    def fresh_database(self, *, migrated: bool = True) -> str:
        """The URL of a new database; a migrated one is the copy of a template, which is quick."""
        if migrated and not self._template:
            self._template = self._create(None)
            upgrade(self.url(self._template))
        return self.url(self._create(self._template if migrated else None))

    def copy(self, url: str) -> str:
        """The URL of a copy of a database. Fails if a connection to it is still open."""
        return self.url(self._create(make_url(url).database))

    def drop(self, url: str) -> None:
        """Drop a database. Fails if a connection to it is still open: whoever used it has to have cleaned up."""
        with self._connected() as connection:
            connection.execute(sql.SQL("DROP DATABASE {}").format(sql.Identifier(make_url(url).database or "")))

    def close(self) -> None:
        """Drop what `fresh_database` needed for itself."""
        if self._template:
            self.drop(self.url(self._template))
            self._template = ""

    def _create(self, template: str | None) -> str:
        name = f"test_{uuid.uuid4().hex}"
        copied = sql.Identifier(template or "template1")
        statement = sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(sql.Identifier(name), copied)
        with self._connected() as connection:
            if connection.info.server_version >= STRATEGIES_SINCE:
                statement += sql.SQL(" STRATEGY file_copy")  # else what is copied is also written to the log
            connection.execute(statement)
        return name

    def _connected(self) -> psycopg.Connection:
        conninfo = self._url.set(drivername="postgresql").render_as_string(hide_password=False)
        return psycopg.connect(conninfo, autocommit=True)


def quick_postgres(**options: Any) -> PostgresServer:
    """A Postgres of a test's own that is quick: in memory, where there is room. Others are for tests of disks."""
    return PostgresServer(parent=quick_folders.parent(), **options)


@contextlib.contextmanager
def postgres() -> Iterator[Cluster]:
    """The cluster behind $TEST_DATABASE_URL, else one of our own that is gone afterwards.

    Raises:
        NoPostgres: there is neither; the message says why.
    """
    named = os.environ.get("TEST_DATABASE_URL")
    with contextlib.ExitStack() as stack:
        cluster = Cluster(named or stack.enter_context(quick_postgres(settings=SETTINGS, keep_template=True)).url)
        stack.callback(cluster.close)
        yield cluster
