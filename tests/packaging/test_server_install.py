"""`pip install runtimestore[server]` serves, with nothing of the checkout at hand."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from runtimestore_server.store.engines.sqlite_driver import sqlite3
from support.servers.server_process import ServerProcess

if TYPE_CHECKING:
    from pathlib import Path

    from support.servers.clean_environment import CleanEnvironment

pytestmark = pytest.mark.slow

WRITE_AND_READ = """
import sys
from runtimestore import InputState, RuntimeStoreClient

state = InputState.from_json(
    '{"input_id": "14b07000-0000-4000-8000-000000000001", "current_state": "queued"}'
)
with RuntimeStoreClient(sys.argv[1]) as store:
    print(store.persist_input_state("rt:wheel", state).revision)
    assert store.load_input_states("rt:wheel") == [state]
"""


def test_the_wheel_serves_and_takes_a_write(with_server: CleanEnvironment, tmp_path: Path) -> None:
    command = (with_server.command("runtimestore"), "serve")
    url = f"sqlite:///{tmp_path}/store.db"
    with ServerProcess(url, command=command, cwd=tmp_path, environment={"PYTHONPATH": ""}) as server:
        assert with_server.python(WRITE_AND_READ, server.address).strip() == "1"
        assert with_server.run("runtimestore", "health", "--address", server.address).returncode == 0


def test_the_wheel_migrates_with_the_migrations_it_carries(with_server: CleanEnvironment, tmp_path: Path) -> None:
    file = tmp_path / "store.db"

    done = with_server.run("runtimestore", "migrate", "--database-url", f"sqlite:///{file}")

    assert done.returncode == 0, done.stderr
    with sqlite3.connect(file) as connection:
        (revision,) = connection.execute("SELECT version_num FROM alembic_version").fetchone()
    connection.close()
    assert revision
    again = with_server.run("runtimestore", "migrate", "--database-url", f"sqlite:///{file}")
    assert again.returncode == 0, again.stderr


def test_the_health_command_fails_where_nothing_serves(with_server: CleanEnvironment) -> None:
    # Port 9 is "discard"; nothing serves gRPC there.
    assert with_server.run("runtimestore", "health", "--address", "127.0.0.1:9").returncode == 1


def test_the_installed_command_tells_its_version(with_server: CleanEnvironment, wheel: Path) -> None:
    assert wheel.name.split("-")[1] in with_server.run("runtimestore", "version").stdout
