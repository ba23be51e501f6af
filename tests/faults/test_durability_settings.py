"""Postgres can be set to forget what it acknowledged: the server says so when it starts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from runtimestore_server.store.engines import open_database
from runtimestore_server.store.schema import upgrade
from support.servers.postgres import quick_postgres
from support.servers.server import ServerProcess

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from scripts.postgres_server import PostgresServer

WARNED = "durability settings are off"


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    with quick_postgres(tcp=True) as found:
        upgrade(found.url)
        found.stop("fast")
        found.run("pg_checksums", "--enable", "--no-sync")
        found.start()
        yield found


def _warnings(url: str) -> list[str]:
    """The settings that the server warns of, on a database as a server sees it."""
    database = open_database(url, committer_threads=1, reader_threads=1)
    try:
        with database.readers.connect() as connection:
            return [warning.partition(":")[0] for warning in database.durability_warnings(connection)]
    finally:
        database.dispose()


def test_a_postgres_that_keeps_what_it_acknowledges_is_served_without_a_warning(server: PostgresServer) -> None:
    assert _warnings(server.url) == []
    with ServerProcess(server.url) as serving:
        assert WARNED not in serving.log


def test_every_setting_that_is_off_is_told_in_one_line(server: PostgresServer) -> None:
    server.restart("fast", fsync="off", full_page_writes="off", synchronous_commit="off")
    try:
        told = ["fsync = off", "full_page_writes = off", "synchronous_commit = off"]
        assert _warnings(server.url) == told
        with ServerProcess(server.url) as serving:
            (line,) = [line for line in serving.lines if WARNED in line]
            assert all(setting in line for setting in told), line
    finally:
        server.restart("fast")


def test_a_setting_of_the_database_or_the_role_counts(server: PostgresServer) -> None:
    server.execute("ALTER DATABASE postgres SET synchronous_commit = off")
    try:
        assert _warnings(server.url) == ["synchronous_commit = off"]
    finally:
        server.execute("ALTER DATABASE postgres RESET synchronous_commit")


def test_a_commit_that_does_not_wait_for_the_standby_is_told_where_there_is_one(server: PostgresServer) -> None:
    server.execute("ALTER ROLE postgres SET synchronous_commit = local")
    try:
        assert _warnings(server.url) == []
        server.restart("fast", synchronous_standby_names="*")
        assert _warnings(server.url) == ["synchronous_commit = local"]
    finally:
        server.restart("fast")
        server.execute("ALTER ROLE postgres RESET synchronous_commit")


def test_missing_checksums_are_told(server: PostgresServer) -> None:
    server.stop("fast")
    server.run("pg_checksums", "--disable", "--no-sync")
    server.start()
    assert _warnings(server.url) == ["data_checksums = off"]
    server.stop("fast")
    server.run("pg_checksums", "--enable", "--no-sync")
    server.start()


def test_an_engine_whose_settings_are_the_servers_own_warns_of_none(tmp_path: Path) -> None:
    assert _warnings(f"sqlite:///{tmp_path}/store.db") == []
