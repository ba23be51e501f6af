"""What is in the way of the files beside an SQLite store is told in a sentence, and never waited for."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import socket
import sys
from typing import TYPE_CHECKING

import pytest
from grpc_health.v1 import health_pb2

from runtimestore import StoreReadOnly, StoreUnavailable
from runtimestore_server.store.engines.sqlite_driver import sqlite3
from runtimestore_server.store.schema import upgrade
from support.checkers.clean_up import until
from support.checkers.health import until_health_is
from support.generators.calls import Store, input_of
from support.generators.turns import ONCE
from support.servers.command import run
from support.servers.server_process import ServerProcess

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = pytest.mark.usefixtures("runner")

SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING
INTERVAL_SECONDS = 0.2
MOST_BYTES = 64 * 1024
UNDER_A_LIMIT = (
    "import resource, runpy, sys\n"
    f"resource.setrlimit(resource.RLIMIT_FSIZE, ({MOST_BYTES}, {MOST_BYTES}))\n"
    "runpy.run_module('runtimestore_server', run_name='__main__', alter_sys=True)\n"
)


def _socket(path: Path) -> None:
    with contextlib.chdir(path.parent), socket.socket(socket.AF_UNIX) as bound:
        bound.bind(path.name)


IN_THE_WAY: dict[str, Callable[[Path], object]] = {
    "a link to itself": lambda path: path.symlink_to(path),
    "a link to nothing": lambda path: path.symlink_to(path.parent / "nothing"),
    "a socket": _socket,
}
USABLE: dict[str, Callable[[Path], object]] = {
    "a pipe": os.mkfifo,
    "a folder": lambda path: path.mkdir(),
    "a link to a file": lambda path: path.symlink_to(path.parent / "linked"),
}
"""What is odd, and can be locked as well as a file."""


def _told(cwd: Path, *arguments: str, command: tuple[str, ...] | None = None) -> str:
    done = run(*arguments, cwd=cwd, command=command)
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) == 1
    return done.stderr


@pytest.mark.parametrize("shape", IN_THE_WAY)
def test_what_is_in_the_way_of_the_lock_is_told_by_migrate(tmp_path: Path, shape: str) -> None:
    IN_THE_WAY[shape](tmp_path / "store.db-lock")

    assert f"{tmp_path}/store.db-lock" in _told(tmp_path, "migrate", "--database-url", f"sqlite:///{tmp_path}/store.db")


@pytest.mark.parametrize("shape", IN_THE_WAY)
async def test_what_is_in_the_way_of_the_lock_makes_a_server_not_ready_until_it_is_gone(
    tmp_path: Path, shape: str
) -> None:
    upgrade(f"sqlite:///{tmp_path}/store.db")
    lock = tmp_path / "store.db-lock"
    IN_THE_WAY[shape](lock)
    with ServerProcess(f"sqlite:///{tmp_path}/store.db", health_interval_seconds=INTERVAL_SECONDS) as server:
        await until_health_is(server.address, NOT_SERVING)
        await until(lambda: str(lock) in server.log)
        async with Store(server.address, retry=ONCE) as store:
            with pytest.raises((StoreUnavailable, StoreReadOnly)):
                await store.persist_input_state("rt:a", input_of("a"))
            lock.unlink()
            await until_health_is(server.address, SERVING)
            await store.persist_input_state("rt:a", input_of("b"))


@pytest.mark.parametrize("shape", USABLE)
async def test_whatever_can_be_locked_is_a_lock(tmp_path: Path, shape: str) -> None:
    (tmp_path / "linked").touch()
    upgrade(f"sqlite:///{tmp_path}/store.db")
    USABLE[shape](tmp_path / "store.db-lock")
    with ServerProcess(f"sqlite:///{tmp_path}/store.db") as server:
        async with Store(server.address, retry=ONCE) as store:
            await store.persist_input_state("rt:a", input_of("a"))


def test_a_checkpoint_of_another_process_that_does_not_end_is_told_by_migrate(tmp_path: Path) -> None:
    with (tmp_path / "store.db-lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)

        told = _told(tmp_path, "migrate", "--database-url", f"sqlite:///{tmp_path}/store.db")

    assert "another process" in told


def test_a_log_that_cannot_be_written_again_is_told_by_migrate(tmp_path: Path) -> None:
    (tmp_path / "before").mkdir()
    before, file = tmp_path / "before" / "store.db", tmp_path / "store.db"
    upgrade(f"sqlite:///{before}")
    with contextlib.closing(sqlite3.connect(before)) as connection:
        connection.execute("PRAGMA wal_autocheckpoint = 0")
        connection.execute("UPDATE alembic_version SET version_num = '0003'")
        connection.execute("CREATE TABLE other (filler BLOB)")
        connection.execute("INSERT INTO other VALUES (zeroblob(?))", (2 * MOST_BYTES,))
        connection.commit()
        for suffix in ("", "-wal"):  # as a crash leaves them
            shutil.copy(f"{before}{suffix}", f"{file}{suffix}")

    arguments = ("migrate", "--database-url", f"sqlite:///{file}")
    told = _told(tmp_path, *arguments, command=(sys.executable, "-c", UNDER_A_LIMIT))

    assert "File too large" in told


@pytest.mark.parametrize("suffix", ["-lock", "-wal", "-shm"])
@pytest.mark.parametrize("command", ["migrate", "verify", "serve"])
def test_where_a_link_beside_the_store_leads_keeps_its_mode(tmp_path: Path, command: str, suffix: str) -> None:
    upgrade(f"sqlite:///{tmp_path}/store.db")
    another = tmp_path / "another"
    another.write_bytes(b"of another program")
    another.chmod(0o644)
    (tmp_path / f"store.db{suffix}").symlink_to(another)
    url = f"sqlite:///{tmp_path}/store.db"

    if command == "serve" and suffix == "-lock":
        with ServerProcess(url):
            pass
    else:
        done = run(command, "--database-url", url, cwd=tmp_path)
        assert "Traceback" not in done.stderr

    assert (another.stat().st_mode & 0o777, another.read_bytes()) == (0o644, b"of another program")
