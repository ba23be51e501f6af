"""A server loads what it serves with, and no library that its settings do not ask for: those take megabytes each."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from runtimestore_server.store.schema import upgrade

if TYPE_CHECKING:
    from pathlib import Path

NOT_NEEDED = ("alembic", "cryptography", "mako", "opentelemetry", "psycopg", "sqlalchemy.dialects.postgresql")
"""For migrations, TLS, traces and another engine."""

SERVE = """
import asyncio, json, sys
from pydantic import SecretStr
from runtimestore_server.app import Application
from runtimestore_server.cli import serve
from runtimestore_server.settings import Settings

async def main():
    url = SecretStr(sys.argv[1])
    async with Application(Settings(_env_file=None, listen="127.0.0.1:0", database_url=url, metrics_listen="")):
        print(json.dumps(sorted(sys.modules)))

asyncio.run(main())
"""


@pytest.mark.parametrize("file", ["there", "new"])
def test_a_server_on_a_file_without_tls_and_traces_loads_nothing_for_them(tmp_path: Path, file: str) -> None:
    url = f"sqlite:///{tmp_path}/store.db"
    if file == "there":
        upgrade(url)

    done = subprocess.run(
        [sys.executable, "-c", SERVE, url], capture_output=True, text=True, timeout=60, check=True, cwd=tmp_path
    )

    loaded = json.loads(done.stdout.splitlines()[-1])
    assert "runtimestore_server" in loaded
    assert [name for name in loaded if name in NOT_NEEDED] == []
