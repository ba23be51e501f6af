"""The Postgres that tests of faults break: it can be stopped, killed, frozen and followed, and is gone afterwards."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import psycopg
import pytest

from scripts.postgres_installation import Account, ProgramFailed
from scripts.postgres_server import PostgresServer

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[2]
PATIENCE_SECONDS = 60
HELD = """
import sys
from scripts.postgres_server import PostgresServer
with PostgresServer(keep_template=True) as server:
    server.pause()
    print(server.pid, server.folder, flush=True)
    sys.stdin.read()
"""


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    with PostgresServer(tcp=True, settings={"max_connections": 17}) as found:
        yield found
    assert not found.folder.exists()


@pytest.mark.parametrize("mode", ["smart", "fast", "immediate", "kill"])
def test_what_was_committed_is_there_after_a_restart_on_the_same_port(server: PostgresServer, mode: str) -> None:
    before = (server.pid, server.port)
    with psycopg.connect(server.url, autocommit=True) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS kept (mode text)")
        connection.execute("INSERT INTO kept VALUES (%s)", [mode])
    recoveries = server.log.count("automatic recovery in progress")

    server.stop(mode)  # type: ignore[arg-type]  # one of the four
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(server.url)
    server.start()

    assert not psutil.pid_exists(before[0])
    assert server.port == before[1]
    assert server.log.count("automatic recovery in progress") - recoveries == (mode in {"immediate", "kill"})
    with psycopg.connect(server.url) as connection:
        assert (mode,) in connection.execute("SELECT mode FROM kept").fetchall()
        assert connection.execute("SHOW max_connections").fetchall() == [("17",)]


def test_a_kill_leaves_none_of_its_processes(server: PostgresServer) -> None:
    with psycopg.connect(server.url):
        processes = [psutil.Process(server.pid), *psutil.Process(server.pid).children()]
        server.stop("kill")
    assert not [process for process in processes if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]
    server.start()


def test_a_crash_ends_every_connection_and_the_same_postmaster_goes_on(server: PostgresServer) -> None:
    before = server.pid
    with psycopg.connect(server.url) as other:
        server.crash()
        with pytest.raises(psycopg.OperationalError):
            other.execute("SELECT 1")
    assert server.pid == before
    assert server.execute("SELECT 1") == [(1,)]


def test_the_settings_of_a_start_last_until_the_next(server: PostgresServer) -> None:
    server.restart("fast", max_connections=19)
    assert server.execute("SHOW max_connections") == [("19",)]
    server.restart("fast")
    assert server.execute("SHOW max_connections") == [("17",)]


def test_a_program_runs_on_its_data_or_says_why_not(server: PostgresServer) -> None:
    with pytest.raises(ProgramFailed, match="cluster must be shut down"):
        server.run("pg_checksums", "--enable", "--no-sync")
    server.stop("fast")
    server.run("pg_checksums", "--enable", "--no-sync")
    server.start()
    assert server.execute("SHOW data_checksums") == [("on",)]


def _ids(process: psutil.Process) -> set[int]:
    return {*process.uids(), *process.gids()}


def test_none_of_its_processes_is_roots(server: PostgresServer) -> None:
    ids = [_ids(psutil.Process(server.pid))]
    for child in psutil.Process(server.pid).children():
        with contextlib.suppress(psutil.NoSuchProcess):  # a worker of a moment
            ids.append(_ids(child))
    account = Account.found()
    assert ids == [{account.user_id, account.group_id}] * len(ids)
    assert account.user_id != 0
    assert (server.folder.stat().st_uid, server.data.stat().st_uid) == (account.user_id, account.user_id)


@pytest.mark.parametrize("tcp", [True, False], ids=["by TCP", "by the socket"])
def test_a_standby_has_what_its_primary_has_and_takes_writes_once_promoted(tcp: bool) -> None:
    with PostgresServer(tcp=tcp) as primary, primary.standby() as standby:
        primary.execute("CREATE TABLE followed (id int)")
        with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
            standby.execute("CREATE TABLE refused (id int)")
        primary.stop("fast")  # which sends all of it before it ends
        standby.promote()
        standby.execute("INSERT INTO followed VALUES (1)")

        with standby.standby(port=primary.port) as successor:
            assert successor.url == primary.url or not tcp
            assert successor.execute("SELECT pg_is_in_recovery(), * FROM followed") == [(True, 1)]
            successor.close()
            assert not successor.folder.exists()
    assert not primary.folder.exists()
    assert not standby.folder.exists()


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
