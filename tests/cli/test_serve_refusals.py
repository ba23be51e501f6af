"""`runtimestore serve` refuses a database that it cannot serve in a sentence, and never tells a password."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import psycopg
import pytest
from alembic import command as alembic_command
from sqlalchemy.engine import make_url

from runtimestore import RuntimeState, RuntimeStoreClient
from runtimestore_server.store import schema
from runtimestore_server.store.engines import open_database
from runtimestore_server.store.engines.sqlite_driver import sqlite3
from runtimestore_server.store.schema import HEAD, REVISIONS, upgrade
from support.servers.command import run, serving

if TYPE_CHECKING:
    from pathlib import Path

    from support.servers.postgres import Cluster

RUNTIME = "rt:session:one"
PASSWORD = "correct-horse-7b1"  # noqa: S105  (nobody's)
ANYWHERE = ("--listen", "127.0.0.1:0")


def _refusal(url: str, cwd: Path) -> str:
    """The one sentence with which serve refuses a database; the environment holds the URL, as in production."""
    done = run("serve", *ANYWHERE, cwd=cwd, extra={"RUNTIMESTORE_DATABASE_URL": url})
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert "serving" not in done.stderr
    return done.stderr


def _sqlite(path: Path, *statements: str) -> str:
    connection = sqlite3.connect(path)
    for statement in statements:
        connection.execute(statement)
    connection.commit()
    connection.close()
    return f"sqlite:///{path}"


def test_serve_refuses_a_database_from_the_future(tmp_path: Path) -> None:
    upgrade(f"sqlite:///{tmp_path}/ahead.db")
    url = _sqlite(tmp_path / "ahead.db", "UPDATE alembic_version SET version_num = '9999'")

    told = _refusal(url, tmp_path)

    for part in ("9999", HEAD, "runtimestore migrate"):
        assert part in told


@pytest.mark.parametrize("revision", REVISIONS[:-1])
def test_serve_refuses_a_database_that_is_behind_until_it_is_migrated(tmp_path: Path, revision: str) -> None:
    url = f"sqlite:///{tmp_path}/behind.db"
    database = open_database(url, committer_threads=1, reader_threads=1)
    config = schema.migrations_config()
    with database.writers.begin() as connection:
        config.attributes["connection"] = connection
        alembic_command.upgrade(config, revision)
    database.dispose()

    told = _refusal(url, tmp_path)

    for part in (revision, HEAD, "runtimestore migrate"):
        assert part in told
    assert run("migrate", "--database-url", url, cwd=tmp_path).returncode == 0
    with serving(*ANYWHERE, "--database-url", url, cwd=tmp_path) as server:
        assert server.address


def test_serve_refuses_a_foreign_sqlite_file_and_leaves_it_alone(tmp_path: Path) -> None:
    url = _sqlite(tmp_path / "foreign.db", "CREATE TABLE customers (id INTEGER)")

    told = _refusal(url, tmp_path)

    assert HEAD in told
    assert "runtimestore migrate" in told
    connection = sqlite3.connect(tmp_path / "foreign.db")
    assert connection.execute("SELECT name FROM sqlite_master").fetchall() == [("customers",)]
    connection.close()


def test_serve_refuses_a_file_that_is_no_database(tmp_path: Path) -> None:
    (tmp_path / "text.db").write_text("no database at all " * 100)

    assert _refusal(f"sqlite:///{tmp_path}/text.db", tmp_path).startswith("runtimestore: ")


def test_serve_refuses_an_empty_postgres_until_it_is_migrated(postgres_cluster: Cluster, tmp_path: Path) -> None:
    url = postgres_cluster.fresh_database(migrated=False)
    extra = {"RUNTIMESTORE_DATABASE_URL": url}

    told = _refusal(url, tmp_path)
    for part in ("no revision", HEAD, "runtimestore migrate"):
        assert part in told

    assert run("migrate", cwd=tmp_path, extra=extra).returncode == 0
    with serving(*ANYWHERE, cwd=tmp_path, extra=extra) as server:
        assert server.address
        server.send_signal(signal.SIGTERM)
        assert server.wait() == 0
    postgres_cluster.drop(url)


@pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII"])
@pytest.mark.parametrize("command", ["serve", "migrate"])
def test_a_postgres_that_is_not_encoded_in_utf_8_is_refused_in_one_sentence(
    postgres_cluster: Cluster, tmp_path: Path, encoding: str, command: str
) -> None:
    name = f"test_{encoding.lower()}_{command}"
    with psycopg.connect(postgres_cluster.url("postgres"), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} ENCODING '{encoding}' LOCALE 'C' TEMPLATE template0".encode())

    done = run(command, cwd=tmp_path, extra={"RUNTIMESTORE_DATABASE_URL": postgres_cluster.url(name)})

    assert done.returncode == 1
    assert encoding in done.stderr
    assert "UTF8" in done.stderr
    assert "Traceback" not in done.stderr
    postgres_cluster.drop(postgres_cluster.url(name))


def test_a_postgres_that_cannot_be_reached_gives_one_sentence_without_the_password(tmp_path: Path) -> None:
    told = _refusal(f"postgresql://app:{PASSWORD}@127.0.0.1:1/store", tmp_path)

    assert told.startswith("runtimestore: the database does not answer")
    assert told.count("\n") == 1, told
    assert "127.0.0.1" in told
    assert PASSWORD not in told


@pytest.mark.parametrize("command", ["serve", "migrate"])
@pytest.mark.parametrize(
    "url",
    [
        f"postgresql://app:{PASSWORD}/store",  # the host was forgotten, and the password stands where the port does
        f"postgresql://app:{PASSWORD}@host:port/store",
        f"postgresql:/{PASSWORD}",
    ],
)
def test_a_database_url_that_cannot_be_read_names_the_setting_and_hides_the_password(
    tmp_path: Path, command: str, url: str
) -> None:
    done = run(command, cwd=tmp_path, extra={"RUNTIMESTORE_DATABASE_URL": url})

    assert PASSWORD not in done.stderr
    assert "database_url" in done.stderr
    assert "Traceback" not in done.stderr
    assert done.returncode == 2


def test_the_password_is_never_in_the_log(postgres_cluster: Cluster, tmp_path: Path) -> None:
    fresh = postgres_cluster.fresh_database()
    url = make_url(fresh).set(password=PASSWORD).render_as_string(hide_password=False)
    extra = {"RUNTIMESTORE_DATABASE_URL": url, "RUNTIMESTORE_LOG_LEVEL": "debug"}

    with serving(*ANYWHERE, "--health-interval-seconds", "0.1", cwd=tmp_path, extra=extra) as server:
        with RuntimeStoreClient(server.address) as client:
            client.commit_machine_lifecycle(RUNTIME, RuntimeState.IDLE)
            with psycopg.connect(fresh, autocommit=True) as connection:
                connection.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                    " WHERE datname = current_database() AND pid <> pg_backend_pid()"
                )
            assert client.commit_machine_lifecycle(RUNTIME, RuntimeState.RUNNING).revision == 2
        server.send_signal(signal.SIGTERM)
        assert server.wait() == 0
        assert "CommitMachineLifecycle" in server.log
        assert PASSWORD not in server.log
    postgres_cluster.drop(fresh)
