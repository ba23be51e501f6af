"""A Postgres to measure on: the one that was named, or one started for this run."""

from __future__ import annotations

import contextlib
import re
import uuid
from dataclasses import dataclass
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
