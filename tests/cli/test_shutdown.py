"""How a server ends whose database lets it wait: in time, and with the truth for whoever waited."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import psycopg
import pytest

from runtimestore import (
    CallFailed,
    CommitOutcomeUnknown,
    RetryPolicy,
    RuntimeState,
    RuntimeStoreClient,
    StoreUnavailable,
)
from runtimestore_server.cli.serve import ECHO_SECONDS
from runtimestore_server.store.engines.sqlite_driver import sqlite3
from support.servers.command import serving
from support.servers.server_process import SERVE

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from support.servers.postgres import Cluster

RUNTIME = "rt:session:one"
ONCE = RetryPolicy(max_attempts=1)
ANYWHERE = ("--listen", "127.0.0.1:0")
SHORT_GRACE = ("--grace-period-seconds", "3")


def _until(condition: object) -> None:
    deadline = time.monotonic() + 20
    while not condition():  # type: ignore[operator]  # any callable
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_row_that_somebody_holds_does_not_hold_the_server_up(postgres_cluster: Cluster, tmp_path: Path) -> None:
    url = postgres_cluster.fresh_database()
    with (
        serving(*ANYWHERE, *SHORT_GRACE, cwd=tmp_path, extra={"RUNTIMESTORE_DATABASE_URL": url}) as server,
        RuntimeStoreClient(server.address, retry=ONCE) as client,
        psycopg.connect(url) as other,
        ThreadPoolExecutor(1) as pool,
    ):
        client.commit_machine_lifecycle(RUNTIME, RuntimeState.IDLE)
        other.execute("SELECT * FROM runtimes FOR UPDATE")
        waiting = pool.submit(client.commit_machine_lifecycle, RUNTIME, RuntimeState.RUNNING)
        _until(lambda: _lock_waits(url))
        server.send_signal(signal.SIGTERM)

        with pytest.raises(StoreUnavailable, match="another session"):
            waiting.result(20)
        assert server.wait() == 0  # while the row is still held
        other.rollback()
        assert other.execute("SELECT revision, runtime_state FROM runtimes").fetchall() == [(1, "idle")]
    postgres_cluster.drop(url)


def _lock_waits(url: str) -> bool:
    with psycopg.connect(url) as connection:
        found = connection.execute("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'").fetchone()
    return bool(found and found[0])


@contextlib.contextmanager
def _frozen(url: str) -> Iterator[None]:
    """Inside, every session of the server's stands still, as on a host that is being moved."""
    with psycopg.connect(url) as connection:
        pids = [
            pid
            for (pid,) in connection.execute(
                "SELECT pid FROM pg_stat_activity"
                " WHERE application_name = 'runtimestore' AND datname = current_database()"
            )
        ]
    assert pids
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


@pytest.mark.skipif(os.geteuid() != 0 and "TEST_DATABASE_URL" in os.environ, reason="its processes are not ours")
def test_a_database_that_stands_still_does_not_hold_the_server_up(postgres_cluster: Cluster, tmp_path: Path) -> None:
    url = postgres_cluster.fresh_database()
    with (
        serving(*ANYWHERE, *SHORT_GRACE, cwd=tmp_path, extra={"RUNTIMESTORE_DATABASE_URL": url}) as server,
        RuntimeStoreClient(server.address, retry=ONCE) as client,
        ThreadPoolExecutor(2) as pool,
    ):
        client.commit_machine_lifecycle(RUNTIME, RuntimeState.IDLE)
        with _frozen(url):
            writing = pool.submit(client.commit_machine_lifecycle, RUNTIME, RuntimeState.RUNNING)
            reading = pool.submit(client.load_runtime_state, RUNTIME)
            time.sleep(0.3)
            server.send_signal(signal.SIGTERM)

            with pytest.raises(StoreUnavailable, match="nothing was committed"):
                writing.result(20)
            with pytest.raises(StoreUnavailable):
                reading.result(20)
            assert server.wait() == 0
        assert "Traceback" not in server.log
        assert "does not answer" in server.log
        _until(lambda: not _sessions(url))
        with psycopg.connect(url) as connection:
            assert connection.execute("SELECT revision FROM runtimes").fetchall() == [(1,)]
    postgres_cluster.drop(url)


def _sessions(url: str) -> int:
    with psycopg.connect(url) as connection:
        found = connection.execute(
            "SELECT count(*) FROM pg_stat_activity"
            " WHERE application_name = 'runtimestore' AND datname = current_database()"
        ).fetchone()
    return found[0] if found else 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
def test_a_second_signal_ends_the_server_at_once(tmp_path: Path, number: signal.Signals) -> None:
    arguments = (*ANYWHERE, "--database-url", f"sqlite:///{tmp_path}/store.db", "--grace-period-seconds", "600")
    with (
        serving(*arguments, cwd=tmp_path, command=SERVE, exit_code=1) as server,
        RuntimeStoreClient(server.address, retry=ONCE) as client,
        ThreadPoolExecutor(1) as pool,
    ):
        client.commit_machine_lifecycle(RUNTIME, RuntimeState.IDLE)
        with contextlib.closing(sqlite3.connect(tmp_path / "store.db", isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            waiting = pool.submit(client.commit_machine_lifecycle, RUNTIME, RuntimeState.RUNNING)
            time.sleep(0.3)
            server.send_signal(signal.SIGTERM)
            server.wait_for("draining")
            assert not waiting.done()
            server.send_signal(number)  # as `timeout` does, and `make`: they tell us and our group
            time.sleep(2 * ECHO_SECONDS)
            assert not waiting.done()
            server.send_signal(number)

            assert server.wait() == 1  # ten minutes before its grace period is over
            with pytest.raises((CallFailed, CommitOutcomeUnknown)):
                waiting.result(20)
        assert "told again" in server.log
        assert "Traceback" not in server.log


def test_every_write_that_was_taken_in_is_answered_when_the_server_ends_under_load(tmp_path: Path) -> None:
    big = b'{"id":"%s","messages":[],"created_at":{"secs_since_epoch":1,"nanos_since_epoch":0},"updated_at":' % (
        b"0190a1b2-0000-7000-8000-000000000001"
    ) + b'{"secs_since_epoch":1,"nanos_since_epoch":0},"x":"%s"}' % (b"x" * 2_000_000)
    stop = threading.Event()
    arguments = (*ANYWHERE, "--database-url", f"sqlite:///{tmp_path}/store.db")
    acknowledged: dict[str, int] = {}
    others: list[Exception] = []

    def write(runtime_id: str, client: RuntimeStoreClient) -> None:
        while not stop.is_set():
            try:
                acknowledged[runtime_id] = client.commit_session_snapshot(runtime_id, big).revision
            except StoreUnavailable:
                return  # it drains: nothing was done
            except CallFailed as failed:
                if "refused" not in str(failed).lower() and "unavailable" not in failed.code.name.lower():
                    others.append(failed)
                return

    with (
        serving(*arguments, cwd=tmp_path) as server,
        RuntimeStoreClient(server.address, retry=ONCE) as client,
        ThreadPoolExecutor(6) as pool,
    ):
        runs = [pool.submit(write, f"{RUNTIME}/{number}", client) for number in range(6)]
        _until(lambda: len(acknowledged) == 6)
        server.send_signal(signal.SIGTERM)
        assert server.wait() == 0
        stop.set()
        for run in runs:
            run.result(20)
    assert others == []
    with contextlib.closing(sqlite3.connect(tmp_path / "store.db")) as connection:
        stored = dict(connection.execute("SELECT runtime_id, revision FROM runtimes").fetchall())
    assert stored == acknowledged
