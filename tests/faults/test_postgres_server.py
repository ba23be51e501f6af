"""The Postgres that tests of faults break: it can be stopped, crashed and frozen, and is gone afterwards."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import psycopg
import pytest

from scripts.postgres_server import PostgresServer

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[2]
PATIENCE_SECONDS = 60
HELD = """
import sys
from scripts.postgres_server import PostgresServer
with PostgresServer() as server:
    server.pause()
    print(server.pid, server.folder, flush=True)
    sys.stdin.read()
"""


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    with PostgresServer(tcp=True, settings={"max_connections": 17}) as found:
        yield found
    assert not found.folder.exists()


@pytest.mark.parametrize("mode", ["smart", "fast", "immediate"])
def test_what_was_committed_is_there_after_a_restart_on_the_same_port(server: PostgresServer, mode: str) -> None:
    before = (server.pid, server.port)
    with psycopg.connect(server.url, autocommit=True) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS kept (mode text)")
        connection.execute("INSERT INTO kept VALUES (%s)", [mode])
    recoveries = server.log.count("automatic recovery in progress")

    server.stop(mode)  # type: ignore[arg-type]  # one of the three
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(server.url)
    server.start()

    assert not psutil.pid_exists(before[0])
    assert server.port == before[1]
    assert server.log.count("automatic recovery in progress") - recoveries == (mode == "immediate")
    with psycopg.connect(server.url) as connection:
        assert (mode,) in connection.execute("SELECT mode FROM kept").fetchall()
        assert connection.execute("SHOW max_connections").fetchall() == [("17",)]


def test_a_frozen_server_answers_when_it_is_woken(server: PostgresServer) -> None:
    with psycopg.connect(server.url) as connection:
        server.pause()
        states = {process.status() for process in (psutil.Process(server.pid), *psutil.Process(server.pid).children())}
        server.resume()
        assert states == {psutil.STATUS_STOPPED}
        assert connection.execute("SELECT 1").fetchall() == [(1,)]


def test_a_server_whose_starter_is_killed_is_gone_even_if_it_was_frozen() -> None:
    command = (sys.executable, "-c", HELD)
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as starter:
        assert starter.stdout is not None
        pid, folder = starter.stdout.readline().split()
        assert psutil.pid_exists(int(pid))
        starter.send_signal(signal.SIGKILL)

    deadline = time.monotonic() + PATIENCE_SECONDS
    while Path(folder).exists() or psutil.pid_exists(int(pid)):
        assert time.monotonic() < deadline, "the server or its folder is still there"
        time.sleep(0.05)
