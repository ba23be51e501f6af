"""A backlog of what is to be forgotten: writes go on meanwhile, and SQLite's log stays short."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy import event
from structlog.testing import capture_logs

from runtimestore_server.store import maintenance, requests
from runtimestore_server.store.committer import Committer
from runtimestore_server.store.engines import checkpoints
from runtimestore_server.store.engines.checkpoints import WARNED_LOG_BYTES
from runtimestore_server.store.maintenance import Maintenance
from runtimestore_server.store.values import Outcome
from runtimestore_server.store.writes import Write
from support.checkers.clean_up import until
from support.generators.backlog import forgotten, insert_backlog, left_of_backlog
from support.generators.store_writes import document, new_id, runtime
from support.servers.listening import listening

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    import pytest
    from sqlalchemy.engine import Connection

    from runtimestore_server.store.engines import Database

WAIT_SECONDS = 120
BACKLOG = 25_000
"""Forgotten without a checkpoint, as many leave a log of eighty megabytes."""

WAITING = 100
"""Writes that wait at once, so that none is missing in the queue before the last of them."""

MOST_SLICES_IN_A_ROW = 10
"""Many writers always have a write in the queue, so that hardly two slices follow each other; threads may be late."""


class Seen:
    """What the thread that commits did, in order, and how long SQLite's log was meanwhile."""

    def __init__(self, database: Database, log: Path) -> None:
        self._log = log
        self.order: list[str] = []
        self.connections: set[int] = set()
        self.log_bytes = 0
        event.listen(database.writers, "commit", self._committed)

    def sweep(self, tx: Connection, most: int) -> int:
        """Forget; what a store's own sweep does."""
        self.order.append("slice")
        return requests.forget(tx, before_ms=10**12, most=most)

    def _committed(self, connection: Connection) -> None:
        self.connections.add(id(connection.connection.driver_connection))
        with contextlib.suppress(FileNotFoundError):
            self.log_bytes = max(self.log_bytes, self._log.stat().st_size)

    @property
    def slices_in_a_row(self) -> int:
        """The most slices between two writes, before the last write."""
        longest = run = 0
        for what in self.order[: len(self.order) - self.order[::-1].index("write")]:
            run = run + 1 if what == "slice" else 0
            longest = max(longest, run)
        return longest


@contextlib.asynccontextmanager
async def _committer(
    database: Database, *sweeps: maintenance.Sweep, max_batch_writes: int = 64
) -> AsyncIterator[Committer]:
    committer = Committer(
        database,
        threads=1,
        max_batch_writes=max_batch_writes,
        max_waiting_writes=1000,
        max_waiting_bytes=100_000_000,
        maintenance=Maintenance(database, sweeps),
    )
    try:
        yield committer
    finally:
        assert await committer.close(within_seconds=WAIT_SECONDS)


@contextlib.contextmanager
def _read_by_another_program(file: Path) -> Iterator[int]:
    """Inside, a process has a read transaction open; its id."""
    program = (
        "import sqlite3, sys\nreader = sqlite3.connect(sys.argv[1])\nreader.execute('BEGIN')\n"
        "reader.execute('SELECT * FROM runtimes').fetchall()\nprint('reads', flush=True)\nsys.stdin.read()\n"
    )
    command: list[str | Path] = [sys.executable, "-c", program, file]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as reader:
        assert reader.stdout
        assert reader.stdout.readline() == b"reads\n"
        yield reader.pid
        reader.kill()


async def test_while_a_backlog_is_forgotten_writes_go_on_and_the_log_stays_short(
    sqlite_database: Database, tmp_path: Path
) -> None:
    insert_backlog(sqlite_database, BACKLOG)
    seen = Seen(sqlite_database, tmp_path / "store.db-wal")
    done = asyncio.Event()

    async def write_on(committer: Committer) -> None:
        while not done.is_set():
            assert await committer.commit(Write(runtime(), new_id(), runtime_state="idle")) == Outcome(1)
            seen.order.append("write")

    async with _committer(sqlite_database, seen.sweep) as committer, asyncio.timeout(WAIT_SECONDS):
        writing = [asyncio.create_task(write_on(committer)) for _ in range(16)]
        await forgotten(sqlite_database)
        done.set()
        await asyncio.gather(*writing)

    assert seen.order.count("slice") >= BACKLOG // maintenance.MOST_ROWS
    assert seen.order.count("write") > seen.order.count("slice")
    assert seen.slices_in_a_row <= MOST_SLICES_IN_A_ROW
    assert len(seen.connections) == 1  # one connection commits, whatever it is that is committed
    assert seen.log_bytes < WARNED_LOG_BYTES


async def test_maintenance_has_its_turns_though_there_is_always_a_write_that_waits(
    sqlite_database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    for pause in ("OVERDUE_SECONDS", "BUSY_PAUSE", "IDLE_PAUSE"):
        monkeypatch.setattr(maintenance, pause, 0)
    order: list[str] = []

    def sweep(_tx: Connection, most: int) -> int:
        order.append("slice")
        return most

    def committed(_connection: Connection) -> None:
        order.append("commit")

    async with _committer(sqlite_database, sweep, max_batch_writes=1) as committer, asyncio.timeout(WAIT_SECONDS):
        with listening(sqlite_database.writers, commit=committed):
            writes = [Write(runtime(), new_id(), runtime_state="idle") for _ in range(WAITING)]
            assert await asyncio.gather(*map(committer.commit, writes)) == [Outcome(1)] * WAITING

    assert max(len(commits) for commits in "".join(what[0] for what in order).split("s")) < WAITING // 2


async def test_an_idle_server_forgets_a_backlog_and_leaves_a_short_log(
    sqlite_database: Database, tmp_path: Path
) -> None:
    insert_backlog(sqlite_database, BACKLOG)
    log = tmp_path / "store.db-wal"
    seen = Seen(sqlite_database, log)

    async with _committer(sqlite_database, seen.sweep), asyncio.timeout(WAIT_SECONDS):
        await forgotten(sqlite_database)
        await until(lambda: not sqlite_database.untidy)

        assert log.stat().st_size <= checkpoints.LARGE_LOG_BYTES
    assert seen.log_bytes < WARNED_LOG_BYTES


async def test_old_requests_are_forgotten_beside_the_writes_whatever_the_engine(database: Database) -> None:
    insert_backlog(database, 3000)

    async with _committer(database, lambda tx, most: requests.forget(tx, before_ms=10**12, most=most)) as committer:
        async with asyncio.timeout(WAIT_SECONDS):
            while left_of_backlog(database):
                assert await committer.commit(Write(runtime(), new_id(), runtime_state="idle")) == Outcome(1)


async def test_a_sweep_that_fails_is_told_once_and_tried_again_and_the_writes_go_on(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(maintenance, "ROUND_SECONDS", 0.01)
    tries = 0

    def fail_twice(tx: Connection, _most: int) -> int:
        nonlocal tries
        tries += 1
        if tries <= 2:
            tx.execute(sa.text("SELECT 1 FROM nothing_of_this_name"))
        return 0

    with capture_logs() as lines:
        async with _committer(database, fail_twice) as committer:
            await until(lambda: tries > 3)
            assert await committer.commit(Write(runtime(), new_id(), runtime_state="idle")) == Outcome(1)

    events = [line["event"] for line in lines]
    assert events == ["maintenance failed; it is tried again", "maintenance works again"]


async def test_a_reader_outside_that_keeps_the_log_long_is_named_and_the_log_is_cut_once_it_has_ended(
    sqlite_database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoints, "WARNED_LOG_BYTES", checkpoints.LARGE_LOG_BYTES)
    log = tmp_path / "store.db-wal"
    large: dict[str, Any] = {"inputs": (document()._replace(state_json=bytes(3_000_000)),)}

    with capture_logs() as lines:
        async with _committer(sqlite_database) as committer:
            assert await committer.commit(Write(runtime(), new_id(), runtime_state="idle")) == Outcome(1)
            with _read_by_another_program(tmp_path / "store.db") as reader:
                for _ in range(12):
                    assert await committer.commit(Write(runtime(), new_id(), **large)) == Outcome(1)
                assert log.stat().st_size > checkpoints.LARGE_LOG_BYTES

            await until(lambda: log.stat().st_size == 0)  # and nothing is written meanwhile

    told = [line for line in lines if line["log_level"] == "warning"]
    assert [line["event"] for line in told] == ["a reader keeps the log long: it cannot be cut before that ends"]
    assert told[0]["log"] == str(log)
    assert told[0]["processes"] == str(reader)
    assert lines[-1]["event"] == "the log is short again"


def test_what_the_engine_put_off_lets_writes_that_wait_go_first(
    sqlite_database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(maintenance, "OVERDUE_SECONDS", 1000.0)
    monkeypatch.setattr(type(sqlite_database), "untidy", True)
    looked = Maintenance(sqlite_database, [])

    assert looked.pause_seconds(writes_wait=True) > 0
    assert looked.pause_seconds(writes_wait=False) == 0
