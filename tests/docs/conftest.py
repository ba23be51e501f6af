from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from support.checkers import grpcurl
from support.servers.server_process import ServerProcess

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server on an empty store, as `runtimestore serve` starts it."""
    with ServerProcess(f"sqlite:///{tmp_path_factory.mktemp('store')}/store.db") as server:
        yield server.address


@pytest.fixture(scope="session")
def commands(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the commands `grpcurl` and `runtimestore` that the documentation uses."""
    directory = tmp_path_factory.mktemp("commands")
    grpcurl.put_into(directory)
    runtimestore = directory / "runtimestore"
    runtimestore.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m runtimestore_server "$@"\n', encoding="utf-8")
    runtimestore.chmod(0o755)
    return directory
