"""`runtimestore serve` as operators meet it: where it serves, what it says, how it ends."""

from __future__ import annotations

import json
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from sqlite3 import sqlite_version
from typing import TYPE_CHECKING

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from runtimestore import RuntimeState, RuntimeStoreClient
from runtimestore_server.store.engines.sqlite_driver import VERSION, has_reset_defect, sqlite3
from runtimestore_server.store.schema import HEAD
from support.generators.documents import session
from support.servers.command import run, serving
from support.servers.server_process import SERVE, WAIT_SECONDS

if TYPE_CHECKING:
    from pathlib import Path

RUNTIME = "rt:session:one"
ANYWHERE = ("--listen", "127.0.0.1:0")
SERVING_STATUS, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING


def test_serve_creates_a_missing_sqlite_file_and_says_once_where_it_serves(tmp_path: Path) -> None:
    with serving(*ANYWHERE, "--database-url", "sqlite:///new.db", cwd=tmp_path, command=SERVE) as server:
        address = server.address
        with RuntimeStoreClient(address) as client:
            assert client.commit_machine_lifecycle(RUNTIME, RuntimeState.IDLE).revision == 1
        server.send_signal(signal.SIGTERM)
        assert server.wait() == 0

        assert address.startswith("127.0.0.1:")
        assert not address.endswith(":0")
        assert server.log.count("address=") == 1
    with sqlite3.connect(tmp_path / "new.db") as connection:
        assert connection.execute("SELECT version_num FROM alembic_version").fetchall() == [(HEAD,)]
    connection.close()


def test_a_new_sqlite_file_is_its_owners_alone_and_one_that_exists_stays_as_it_is(tmp_path: Path) -> None:
    shared = tmp_path / "shared.db"
    shared.touch()
    shared.chmod(0o640)
    for name, mode in (("new.db", 0o600), ("shared.db", 0o640)):
        with serving(*ANYWHERE, "--database-url", f"sqlite:///{name}", cwd=tmp_path) as server:
            with RuntimeStoreClient(server.address) as client:
                client.commit_machine_lifecycle(RUNTIME, RuntimeState.IDLE)
            # The log beside it holds the same secrets; SQLite gives it the mode of the file.
            modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.glob(f"{name}*")}
        assert modes == {name: mode, f"{name}-wal": mode, f"{name}-shm": mode, f"{name}-lock": mode}


def test_serve_takes_its_two_names_from_the_environment(tmp_path: Path) -> None:
    extra = {"RUNTIMESTORE_LISTEN": "127.0.0.1:0", "RUNTIMESTORE_DATABASE_URL": "sqlite:///from-environment.db"}

    with serving(cwd=tmp_path, extra=extra) as server:
        assert server.address
    assert (tmp_path / "from-environment.db").exists()


def test_serve_listens_on_a_unix_socket(tmp_path: Path) -> None:
    address = f"unix:{tmp_path}/s"
    with serving("--listen", address, "--database-url", "memory:", cwd=tmp_path) as server:
        assert server.address == address
        with RuntimeStoreClient(address) as client:
            assert client.load_runtime_state(RUNTIME) is None
        assert run("health", "--address", address, cwd=tmp_path).returncode == 0
        taken = run("serve", "--listen", address, "--database-url", "memory:", cwd=tmp_path)
        assert taken.returncode == 1
        assert "answers there" in taken.stderr
        assert run("health", "--address", address, cwd=tmp_path).returncode == 0
        server.kill()
    # The socket file of a server that was killed stays; the next one takes its place.
    with serving("--listen", address, "--database-url", "memory:", cwd=tmp_path) as server:
        assert server.address == address


def test_a_store_in_memory_says_that_it_forgets_everything(tmp_path: Path) -> None:
    with serving(*ANYWHERE, "--database-url", "memory:", cwd=tmp_path) as server:
        assert server.address
        assert "forgets everything" in server.log
    assert list(tmp_path.iterdir()) == []


def test_a_store_in_a_file_does_not_say_that_it_forgets(tmp_path: Path) -> None:
    with serving(*ANYWHERE, "--database-url", "sqlite:///kept.db", cwd=tmp_path) as server:
        assert server.address
        assert "forgets" not in server.log


def test_log_lines_are_json_objects_where_machines_read_them(tmp_path: Path) -> None:
    with serving(*ANYWHERE, "--database-url", "memory:", "--log-format", "json", cwd=tmp_path) as server:
        lines = [json.loads(line) for line in server.log.splitlines()]
    assert [line["address"] for line in lines if line["event"] == "serving"]


def test_the_line_of_serve_tells_which_sqlite_it_uses(tmp_path: Path) -> None:
    given = (*ANYWHERE, "--database-url", "sqlite:///kept.db", "--log-format", "json")
    with serving(*given, cwd=tmp_path) as server:
        lines = [json.loads(line) for line in server.log.splitlines()]
    assert [line["sqlite"] for line in lines if line["event"] == "serving"] == [VERSION]


def test_without_the_sqlite_that_comes_with_it_serve_uses_pythons_and_warns_where_that_may_lose_commits(
    tmp_path: Path,
) -> None:
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    (hidden / "pysqlite3.py").write_text("raise ImportError\n")
    given = (*ANYWHERE, "--database-url", "sqlite:///kept.db", "--log-format", "json")
    body = "a" * (9 * 1024 * 1024)  # written in pieces, which the two modules name differently
    with serving(*given, cwd=tmp_path, extra={"PYTHONPATH": str(hidden)}) as server:
        lines = [json.loads(line) for line in server.log.splitlines()]
        with RuntimeStoreClient(server.address) as client:
            assert client.commit_machine_lifecycle(RUNTIME, RuntimeState.IDLE).revision == 1
            assert client.commit_session_snapshot(RUNTIME, session(body)).revision == 2
    versions = [line["sqlite"] for line in lines if line["event"] == "serving"]
    warned = [line["defect"] for line in lines if line["event"] == "the engine has a known defect"]
    assert versions == [sqlite_version]
    assert [f"SQLite {sqlite_version} " in line for line in warned] == [True] * has_reset_defect(sqlite_version)


def test_an_address_that_is_taken_gives_one_sentence(tmp_path: Path) -> None:
    with serving(*ANYWHERE, "--database-url", "memory:", cwd=tmp_path) as server:
        done = run("serve", "--listen", server.address, "--database-url", "memory:", cwd=tmp_path)

        assert done.returncode == 1
        assert server.address in done.stderr
        assert "Traceback" not in done.stderr


class _HealthWatch:
    """What the health service tells one who watches it, in order."""

    def __init__(self, address: str) -> None:
        self.told: list[int] = []
        self._channel = grpc.insecure_channel(address)
        self._stream = health_pb2_grpc.HealthStub(self._channel).Watch(health_pb2.HealthCheckRequest())
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def wait_for(self, status: int) -> None:
        deadline = time.monotonic() + 10
        while status not in self.told:
            assert time.monotonic() < deadline, f"health told only {self.told}"
            time.sleep(0.01)

    def wait_until_ended(self) -> None:
        self._reader.join(WAIT_SECONDS)
        assert not self._reader.is_alive()

    def close(self) -> None:
        self._stream.cancel()
        self._reader.join(10)
        self._channel.close()

    def _read(self) -> None:
        try:
            for answer in self._stream:
                self.told.append(answer.status)
        except grpc.RpcError:
            pass  # the server went, or we did


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
def test_a_signal_drains_the_server(tmp_path: Path, number: signal.Signals) -> None:
    arguments = (*ANYWHERE, "--database-url", f"sqlite:///{tmp_path}/store.db")
    with serving(*arguments, cwd=tmp_path, command=SERVE) as server:
        address = server.address
        with RuntimeStoreClient(address) as client, ThreadPoolExecutor(1) as pool:
            client.commit_machine_lifecycle(RUNTIME, RuntimeState.IDLE)
            watch = _HealthWatch(address)
            watch.wait_for(SERVING_STATUS)
            other = sqlite3.connect(tmp_path / "store.db", isolation_level=None)
            other.execute("BEGIN IMMEDIATE")  # whoever commits now has to wait
            in_flight = pool.submit(client.commit_machine_lifecycle, RUNTIME, RuntimeState.RUNNING)
            time.sleep(0.3)
            assert not in_flight.done()

            server.send_signal(number)
            server.wait_for("draining")
            watch.wait_for(NOT_SERVING)
            watch.close()
            assert run("health", "--address", address, "--timeout-seconds", "1", cwd=tmp_path).returncode == 1
            assert not in_flight.done()
            other.execute("ROLLBACK")
            other.close()

            assert in_flight.result(20).revision == 2
        assert server.wait() == 0
        assert "Traceback" not in server.log
    with serving(*arguments, cwd=tmp_path) as again, RuntimeStoreClient(again.address) as client:
        assert client.load_runtime_state(RUNTIME) is RuntimeState.RUNNING


@pytest.mark.slow
def test_a_server_ends_before_those_who_watch_its_health_and_before_its_grace_period(tmp_path: Path) -> None:
    # An hour: a server that waited for the watcher would not be gone when this test gives up.
    with serving(*ANYWHERE, "--database-url", "memory:", "--grace-period-seconds", "3600", cwd=tmp_path) as server:
        watch = _HealthWatch(server.address)
        watch.wait_for(SERVING_STATUS)

        server.terminate()
        assert server.wait() == 0
        # Told by the server, and then ended by it: the watcher itself has not let go yet.
        watch.wait_until_ended()
        assert watch.told[-1] == NOT_SERVING
        watch.close()
