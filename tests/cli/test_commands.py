"""The other commands: `health`, `migrate`, `version`."""

from __future__ import annotations

import os
import re
from importlib.metadata import version
from typing import TYPE_CHECKING

import pytest

from runtimestore_server.store.schema import HEAD
from support.command import run, serving

if TYPE_CHECKING:
    from pathlib import Path

    from support.postgres import Cluster


def test_health_exits_with_0_where_a_server_serves_and_with_1_where_none_does(tmp_path: Path) -> None:
    with serving("--listen", "127.0.0.1:0", "--database-url", "memory:", cwd=tmp_path) as server:
        address = server.address
        healthy = run("health", "--address", address, cwd=tmp_path)
        by_environment = run("health", cwd=tmp_path, extra={"RUNTIMESTORE_LISTEN": address})
        one_service = run("health", "--address", address, "--service", "runtimestore.v1.RuntimeStore", cwd=tmp_path)
        unknown_service = run("health", "--address", address, "--service", "nobody.Knows", cwd=tmp_path)
        (tmp_path / "settings.toml").write_text(f'listen = "{address}"\n')
        by_file = run("health", "--config", "settings.toml", cwd=tmp_path)
        by_the_servers_file = run("health", cwd=tmp_path, extra={"RUNTIMESTORE_CONFIG": "settings.toml"})
    gone = run("health", "--address", address, "--timeout-seconds", "2", cwd=tmp_path)

    good = (healthy, by_environment, one_service, by_file, by_the_servers_file)
    assert [done.returncode for done in good] == [0] * 5
    assert healthy.stdout == "SERVING\n"
    assert [done.returncode for done in (unknown_service, gone)] == [1, 1]
    assert address in gone.stderr
    assert "--address" in gone.stderr
    assert "--service" in unknown_service.stderr
    assert "Traceback" not in gone.stderr + unknown_service.stderr


@pytest.mark.parametrize(("command", "flag"), [("health", "--timeout-seconds")])
@pytest.mark.parametrize("value", ["nan", "inf", "-1", "long"])
def test_a_time_that_is_none_is_refused_by_its_flag(tmp_path: Path, command: str, flag: str, value: str) -> None:
    done = run(command, flag, value, cwd=tmp_path)

    assert done.returncode == 2
    assert f"{flag}: must be a number of seconds" in done.stderr
    assert done.stdout == ""


def test_health_exits_with_1_where_the_schema_is_no_longer_the_servers(
    postgres_cluster: Cluster, tmp_path: Path
) -> None:
    import psycopg

    url = postgres_cluster.fresh_database()
    extra = {"RUNTIMESTORE_DATABASE_URL": url, "RUNTIMESTORE_HEALTH_INTERVAL_SECONDS": "0.1"}
    with serving("--listen", "127.0.0.1:0", cwd=tmp_path, extra=extra) as server:
        address = server.address
        assert run("health", "--address", address, cwd=tmp_path).returncode == 0
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("UPDATE alembic_version SET version_num = '9999'")
            server.wait_for("not ready")
            done = run("health", "--address", address, cwd=tmp_path)
            assert (done.returncode, done.stdout) == (1, "NOT_SERVING\n")
            connection.execute("UPDATE alembic_version SET version_num = %s", [HEAD])
        server.wait_for("ready again")
        assert run("health", "--address", address, cwd=tmp_path).returncode == 0


def test_migrate_says_what_it_did_and_then_that_there_is_nothing_to_do(tmp_path: Path) -> None:
    arguments = ("migrate", "--database-url", "sqlite:///store.db")

    first, second = run(*arguments, cwd=tmp_path), run(*arguments, cwd=tmp_path)

    assert [first.returncode, second.returncode] == [0, 0]
    assert "schema upgraded" in first.stderr
    assert "schema is current" in second.stderr
    assert HEAD in first.stderr
    assert HEAD in second.stderr


def test_migrate_refuses_what_it_cannot_migrate(tmp_path: Path) -> None:
    memory = run("migrate", "--database-url", "memory:", cwd=tmp_path)
    nowhere = run("migrate", "--database-url", "postgresql://app:secret-9@127.0.0.1:1/store", cwd=tmp_path)

    assert (memory.returncode, nowhere.returncode) == (2, 1)
    assert "secret-9" not in nowhere.stderr
    assert "Traceback" not in nowhere.stderr + memory.stderr


def test_version_tells_the_version(tmp_path: Path) -> None:
    done = run("version", cwd=tmp_path)

    assert done.returncode == 0
    assert done.stdout == f"runtimestore {version('runtimestore')}\n"
    assert re.search(r"\d+\.\d+", done.stdout)


def test_ctrl_c_while_it_still_loads_ends_it_without_a_traceback(tmp_path: Path) -> None:
    (tmp_path / "structlog.py").write_text("raise KeyboardInterrupt\n")
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])

    ended = run("version", cwd=tmp_path, extra={"PYTHONPATH": path})

    assert (ended.returncode, ended.stdout, ended.stderr) == (130, "", "")
