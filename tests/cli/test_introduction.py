"""Which store is it? Every command that opens one names it, and nobody serves another one unaware."""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import subprocess
import time
from typing import TYPE_CHECKING

import pytest

from runtimestore import RuntimeState, RuntimeStoreClient
from runtimestore_server.cli.introduction import for_a_person
from runtimestore_server.store.engines.naming import describe
from runtimestore_server.store.schema import HEAD
from support.servers.command import run, serving
from support.servers.server_process import COMMAND, WAIT_SECONDS, environment_with

if TYPE_CHECKING:
    from pathlib import Path

    from support.servers.postgres import Cluster

PASSWORD = "correct-horse-7b1"  # noqa: S105  (nobody's)
ANYWHERE = ("--listen", "127.0.0.1:0")


def test_serve_and_migrate_name_the_file_by_its_whole_path(tmp_path: Path) -> None:
    url, named = ("--database-url", "sqlite:///here.db"), f"sqlite:{tmp_path}/here.db"

    migrated = run("migrate", *url, cwd=tmp_path)
    with serving(*ANYWHERE, *url, cwd=tmp_path) as server:
        with RuntimeStoreClient(server.address) as client:
            for number in range(3):
                client.commit_machine_lifecycle(f"rt:session:{number}", RuntimeState.IDLE)
        server.send_signal(signal.SIGTERM)
        server.wait()
    with serving(*ANYWHERE, *url, cwd=tmp_path) as server:
        assert f"{named}, 3 runtimes, schema {HEAD}" in server.log

    assert named in migrated.stderr


def test_a_postgres_is_named_by_its_host_and_database_and_never_its_password(
    postgres_cluster: Cluster, tmp_path: Path
) -> None:
    url = postgres_cluster.fresh_database()

    with serving(*ANYWHERE, cwd=tmp_path, extra={"RUNTIMESTORE_DATABASE_URL": url}) as server:
        name = url.partition("?")[0].rpartition("/")[2]
        assert re.search(rf"postgresql:\S.*/{name}, 0 runtimes, schema {HEAD}", server.log)
    postgres_cluster.drop(url)


@pytest.mark.parametrize(
    ("url", "named"),
    [
        (f"postgresql://app:{PASSWORD}@db:5433/store", "postgresql:db:5433/store"),
        (f"postgresql://app@/store?host=one:1&host=two:2&password={PASSWORD}", "postgresql:one:1,two:2/store"),
        ("postgresql://app@%2Frun%2Fpostgresql/store", "postgresql:/run/postgresql/store"),
        (f"postgresql://app:{PASSWORD}@db", "postgresql:db/app"),
        ("sqlite:////data/store.db", "sqlite:/data/store.db"),
        ("memory:", "memory:"),
    ],
)
def test_a_store_is_named_without_being_opened(monkeypatch: pytest.MonkeyPatch, url: str, named: str) -> None:
    monkeypatch.delenv("PGDATABASE", raising=False)

    assert describe(url) == named


def test_the_first_lines_on_a_terminal_are_for_a_person(tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [*COMMAND, "serve", *ANYWHERE, "--database-url", "sqlite:///seen.db"],
        cwd=tmp_path,
        env=environment_with({}),
        stderr=theirs,
        stdout=subprocess.DEVNULL,
    )
    os.close(theirs)
    seen, deadline = b"", time.monotonic() + WAIT_SECONDS
    while b"engine=" not in re.sub(rb"\x1b\[[0-9;]*m", b"", seen) and time.monotonic() < deadline:
        if select.select([ours], [], [], 0.1)[0]:
            seen += os.read(ours, 65536)
    process.terminate()
    process.wait(WAIT_SECONDS)
    os.close(ours)

    told = seen.decode()
    for part in ("listens on 127.0.0.1:", f"sqlite:{tmp_path}/seen.db, 0 runtimes", "survives", "try", "Ctrl-C"):
        assert part in told
    assert told.index("listens on") < told.index("Ctrl-C")


def test_a_person_is_told_when_nothing_survives() -> None:
    told = for_a_person("memory:", address="0.0.0.0:50051", store="memory:")

    assert "gone when the server stops" in told
    assert "health --address 127.0.0.1:50051" in told


def test_what_no_person_looks_at_has_log_lines_only(tmp_path: Path) -> None:
    with serving(*ANYWHERE, "--database-url", "memory:", cwd=tmp_path) as server:
        assert "Ctrl-C" not in server.log


@pytest.mark.parametrize("name", ["RUNTIMESTORE_DB_URL", "RUNTIMESTORE_POSTGRES_DSN", "DATABASE_URL", "POSTGRES_URL"])
def test_a_variable_that_may_have_named_the_store_is_told_and_not_refused(tmp_path: Path, name: str) -> None:
    extra = {name: f"postgresql://app:{PASSWORD}@db/store"}

    done = run("migrate", cwd=tmp_path, extra=extra)

    assert done.returncode == 0
    assert f"variable {name} " in done.stderr
    assert "RUNTIMESTORE_DATABASE_URL" in done.stderr
    assert PASSWORD not in done.stderr


def test_traces_of_grpc_which_hold_tokens_are_warned_of(tmp_path: Path) -> None:
    settings = (*ANYWHERE, "--database-url", "memory:")

    with serving(*settings, cwd=tmp_path, extra={"GRPC_TRACE": "api"}) as traced:
        assert "GRPC_TRACE is set" in traced.log
    with serving(*settings, cwd=tmp_path) as server:
        assert "GRPC_TRACE" not in server.log


def test_variables_of_other_programs_are_no_near_misses(tmp_path: Path) -> None:
    linked = {
        "RUNTIMESTORE_PORT": "tcp://10.0.0.7:50051",
        "RUNTIMESTORE_PORT_50051_TCP_ADDR": "10.0.0.7",
        "RUNTIMESTORE_SERVICE_HOST": "10.0.0.7",
        "RUNTIMESTORE_SERVICE_PORT_GRPC": "50051",
    }
    meant = {"DATABASE_URL": "another program's", "RUNTIMESTORE_DATABASE_URL": "sqlite:///meant.db"}

    assert "the variable " not in run("migrate", cwd=tmp_path, extra={**linked, **meant}).stderr


@pytest.mark.parametrize(
    ("key", "nearest"),
    [("database-url", "database_url"), ("max_batch_write", "max_batch_writes"), ("lissten", "listen")],
)
def test_an_unknown_key_names_its_file_and_the_nearest_setting(tmp_path: Path, key: str, nearest: str) -> None:
    (tmp_path / "settings.toml").write_text(f'{key} = "{PASSWORD}"\n')

    done = run("serve", "--config", "settings.toml", cwd=tmp_path)

    assert done.returncode == 2
    assert f"settings.toml: setting {key}: there is no such setting; did you mean {nearest}?" in done.stderr
    assert PASSWORD not in done.stderr
