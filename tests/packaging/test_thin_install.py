"""`pip install runtimestore` brings the clients and nothing of the server."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from support.servers.clean_environment import CleanEnvironment

pytestmark = pytest.mark.slow

SERVER_ONLY = ("alembic", "click", "msgspec", "psycopg", "pydantic", "sqlalchemy", "structlog", "uvloop")


def test_the_thin_install_brings_grpc_and_protobuf_only(thin: CleanEnvironment) -> None:
    listed = json.loads(thin.pip("list", "--format", "json"))

    brought = {package["name"].lower().replace("_", "-") for package in listed}
    assert brought == {"googleapis-common-protos", "grpcio", "protobuf", "runtimestore", "typing-extensions"}


def test_importing_the_client_loads_neither_sqlalchemy_nor_the_server(thin: CleanEnvironment) -> None:
    loaded = thin.python("import runtimestore, sys; print(*sorted({name.partition('.')[0] for name in sys.modules}))")

    assert {"grpc", "google", "runtimestore"} <= set(loaded.split())
    assert not {"runtimestore_server", "runtimestore_migrations", *SERVER_ONLY} & set(loaded.split())


def test_the_server_s_packages_cannot_even_be_imported(thin: CleanEnvironment) -> None:
    program = "import importlib.util, sys; print(*[name for name in sys.argv[1:] if importlib.util.find_spec(name)])"

    assert thin.python(program, *SERVER_ONLY).split() == []


def test_both_clients_are_there(thin: CleanEnvironment) -> None:
    thin.python(
        "from runtimestore import AsyncRuntimeStoreClient, RuntimeStoreClient\n"
        "with RuntimeStoreClient('127.0.0.1:1') as client: print(client)"
    )


@pytest.mark.parametrize("command", ["serve", "migrate"])
def test_a_command_of_the_server_says_which_extra_to_install(thin: CleanEnvironment, command: str) -> None:
    done = thin.run("runtimestore", command)

    assert done.returncode != 0
    assert "runtimestore[server]" in done.stderr
    assert "Traceback" not in done.stderr
