"""A Postgres that takes fewer connections than a server may open: the server says so when it starts."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import psycopg
import pytest
from sqlalchemy.engine import make_url

from runtimestore_server.store.engines import open_database
from runtimestore_server.store.schema import upgrade
from support.servers.postgres import quick_postgres
from support.servers.server import ServerProcess

if TYPE_CHECKING:
    from collections.abc import Iterator

    from scripts.postgres_server import PostgresServer

WARNED = "connections may run out"
CONNECTED = "SELECT numbackends FROM pg_stat_database WHERE datname = 'postgres'"
WAIT_SECONDS = 20


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    with quick_postgres(tcp=True) as found:
        upgrade(found.url)
        yield found


def _until_nobody_is_connected(server: PostgresServer) -> None:
    """A connection that was closed is counted until its process has ended."""
    elsewhere = make_url(server.url).set(drivername="postgresql", database="template1")
    deadline = time.monotonic() + WAIT_SECONDS
    with psycopg.connect(elsewhere.render_as_string(hide_password=False), autocommit=True) as connection:
        while connection.execute(CONNECTED).fetchone() != (0,):
            assert time.monotonic() < deadline
            time.sleep(0.01)


def _warnings(url: str, *, reader_threads: int = 4) -> list[str]:
    database = open_database(url, committer_threads=1, reader_threads=reader_threads)
    try:
        with database.readers.connect() as connection:
            return database.connection_warnings(connection)
    finally:
        database.dispose()


def test_a_server_that_may_open_more_than_max_connections_tells_so_at_start_and_serves(server: PostgresServer) -> None:
    server.restart("fast", max_connections="11")  # less the three that are kept for superusers
    try:
        assert _warnings(server.url, reader_threads=3) == []
        (told,) = _warnings(server.url, reader_threads=4)
        assert told.startswith("max_connections leaves 8 connections")
        assert "up to 9" in told
        with ServerProcess(server.url) as serving:
            (line,) = [line for line in serving.lines if WARNED in line]
            assert "max_connections" in line
    finally:
        server.restart("fast")


def test_a_limit_of_the_database_counts(server: PostgresServer) -> None:
    server.execute("ALTER DATABASE postgres CONNECTION LIMIT 8")
    _until_nobody_is_connected(server)
    try:
        (told,) = _warnings(server.url)
        assert told.startswith("the database's CONNECTION LIMIT leaves 8 connections")
    finally:
        server.execute("ALTER DATABASE postgres CONNECTION LIMIT -1")


def test_a_limit_of_the_role_counts(server: PostgresServer) -> None:
    server.execute("CREATE ROLE few LOGIN CONNECTION LIMIT 8")
    _until_nobody_is_connected(server)
    (told,) = _warnings(make_url(server.url).set(username="few").render_as_string(hide_password=False))
    assert told.startswith("the role's CONNECTION LIMIT leaves 8 connections")


def test_a_postgres_with_room_is_served_without_a_warning(server: PostgresServer) -> None:
    assert _warnings(server.url) == []
    with ServerProcess(server.url) as serving:
        assert WARNED not in serving.log
