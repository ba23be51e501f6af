"""Why a Postgres is not served: what is wrong with the URL, the role or the way there is told as that."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from runtimestore_server.store.engines import open_database
from support.servers.command import run, serving
from support.servers.postgres import quick_postgres

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from scripts.postgres_server import PostgresServer

PASSWORD = "hunter-2"  # noqa: S105  (nobody's)
REFUSES = "runtimestore: the database server answers, but refuses this connection: "


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    """A server that asks for the password of whoever comes by TCP, and speaks another language where it has one."""
    with quick_postgres(tcp=True) as found:
        found.execute(f"CREATE ROLE app LOGIN PASSWORD '{PASSWORD}'")
        hba = found.data / "pg_hba.conf"
        hba.write_text(
            "local all all trust\nhost all postgres 127.0.0.1/32 trust\nhost all all 127.0.0.1/32 scram-sha-256\n"
        )
        found.execute("SELECT pg_reload_conf()")
        yield found


def _told(url: str, tmp_path: Path, command: str = "serve") -> str:
    done = run(command, cwd=tmp_path, extra={"RUNTIMESTORE_DATABASE_URL": url})
    assert done.returncode in {1, 2}
    assert "Traceback" not in done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    assert PASSWORD not in done.stderr
    return done.stderr


@pytest.mark.parametrize(
    ("who", "database", "named", "command"),
    [
        ("app:wrong", "postgres", "app", "serve"),
        (f"app:{PASSWORD}", "nowhere", "nowhere", "migrate"),
        ("app", "postgres", "password", "serve"),
        ("nobody:wrong", "postgres", "nobody", "migrate"),
    ],
    ids=["wrong password", "unknown database", "no password", "unknown role"],
)
def test_a_server_that_answers_and_refuses_is_not_said_not_to_answer(
    server: PostgresServer, tmp_path: Path, who: str, database: str, named: str, command: str
) -> None:
    told = _told(f"postgresql://{who}@127.0.0.1:{server.port}/{database}", tmp_path, command)

    assert told.startswith(REFUSES)
    assert named in told.removeprefix(REFUSES)


def test_a_host_that_is_not_found_is_told_as_that(tmp_path: Path) -> None:
    told = _told(f"postgresql://app:{PASSWORD}@no-such-host.invalid/store", tmp_path)

    assert told.startswith("runtimestore: the database's host cannot be found: ")
    assert "no-such-host.invalid" in told


@pytest.mark.parametrize(
    "rest",
    [
        "localhost/store?prepare_threshold=often",
        "localhost/store?prepare_threshold=-1",
        "localhost/store?prepare_threshold=1&prepare_threshold=2",
        "localhost/store?row_factory=x",
        "localhost/store?plugin=x",
        "localhost/store?port=x",
        f"{'x' * 300}.example/store",
        "a..b/store",
    ],
)
def test_a_url_that_the_driver_would_choke_on_is_refused_before_anything_is_opened(rest: str) -> None:
    with pytest.raises(ValueError, match=r"^(behind|prepare_threshold|the host)") as refused:
        open_database(f"postgresql://app:{PASSWORD}@{rest}", committer_threads=1, reader_threads=1)
    assert PASSWORD not in str(refused.value)


@pytest.mark.parametrize("option", ["prepare_threshold=often", "sslmode=x"])
def test_an_option_that_cannot_be_used_is_told_in_one_sentence(tmp_path: Path, option: str) -> None:
    told = _told(f"postgresql://app:{PASSWORD}@localhost/store?{option}", tmp_path)

    assert "does not answer" not in told


def test_a_socket_folder_may_be_percent_encoded_and_prepared_statements_left_out(
    server: PostgresServer, tmp_path: Path
) -> None:
    folder = str(server.folder).replace("/", "%2F")
    url = f"postgresql://postgres@{folder}:{server.port}/postgres?prepare_threshold=0"
    extra = {"RUNTIMESTORE_DATABASE_URL": url}

    done = run("migrate", cwd=tmp_path, extra=extra)

    assert done.returncode == 0, done.stderr
    with serving("--listen", "127.0.0.1:0", cwd=tmp_path, extra=extra) as served:
        assert run("health", "--address", served.address, cwd=tmp_path).returncode == 0
