"""A Postgres to measure on: the one that was named, or one started for this run."""

from __future__ import annotations

import contextlib
import re
import subprocess
import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import psycopg
from psycopg import sql

from bench import usage
from scripts.postgres_installation import NoPostgres
from scripts.postgres_server import PostgresServer

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["MeasuredPostgres", "NoPostgres"]

SHOWN_SETTINGS = ("server_version", "fsync", "synchronous_commit", "shared_buffers")


@dataclass(frozen=True)
class MeasuredPostgres:
    """A Postgres server on which databases can be made."""

    url: str
    pid: int | None
    _migrated: dict[str, str] = field(default_factory=dict)
    """By interpreter, the URL of a database that its server's migrations made."""

    @classmethod
    @contextlib.contextmanager
    def found(cls, url: str | None) -> Iterator[MeasuredPostgres]:
        """The server behind `url`, else one started for this run.

        Raises:
            NoPostgres: there is neither.
        """
        with contextlib.ExitStack() as stack:
            if url is None:
                url = stack.enter_context(PostgresServer()).url
            try:
                server = cls(url, usage.postmaster_pid(url))
            except psycopg.OperationalError as error:
                raise NoPostgres(str(error)) from error
            yield server

    def fresh_database(self) -> str:
        """The URL of a new, empty database."""
        return self._created(sql.SQL(""))

    def migrated_database(self, python: str) -> str:
        """The URL of a new database with the tables of the server of this interpreter: migrated once, then copied."""
        if python not in self._migrated:
            url = self.fresh_database()
            command = (python, "-m", "runtimestore_server", "migrate", "--database-url", url)
            subprocess.run(command, check=True, capture_output=True)  # noqa: S603 - arguments of our own
            self._migrated[python] = url
        return self.copy(self._migrated[python])

    def copy(self, url: str) -> str:
        """The URL of a new database with all that is in the one behind `url`, to which nobody may be connected."""
        name = re.sub(r"^\w+://[^/?]*/([^?]*).*", r"\1", url)
        return self._created(sql.SQL(" TEMPLATE {}").format(sql.Identifier(name)))

    def _created(self, how: sql.Composable) -> str:
        name = f"bench_{uuid.uuid4().hex}"
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)) + how)
        # The database is what stands between the authority and the query.
        return re.sub(r"^(\w+://[^/?]*)/?[^?]*", rf"\1/{name}", self.url)

    def facts(self) -> dict[str, str]:
        """What decides about its speed."""
        with psycopg.connect(self.url) as connection:
            rows = connection.execute(
                "SELECT name, setting FROM pg_settings WHERE name = ANY(%s)", [list(SHOWN_SETTINGS)]
            )
            return dict(rows.fetchall())
