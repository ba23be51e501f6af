"""A log that cannot be written changes no answer, holds nothing up and ends nothing."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest
from grpc_health.v1 import health_pb2

from runtimestore import InvalidRequest, RetryPolicy
from runtimestore_server.log_writer import AT_ONCE
from runtimestore_server.store.engines.sqlite_driver import sqlite3
from support.checkers.health import until_health_is
from support.faults.http2 import call_headers, frame, preface
from support.faults.standard_error import WAYS, nobody_reads, started_with
from support.generators.calls import Store, input_of, named
from support.servers.server_process import SERVE, START_SECONDS, environment_with

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Sequence
    from pathlib import Path

    from support.faults.standard_error import StandardError

RUNTIME = "rt:session:one"
ONCE = RetryPolicy(max_attempts=1)
REFUSALS = 100
"""More than one full pipe of lines."""

CALL_SECONDS = 30.0
END_SECONDS = 60.0
"""Both far more than it takes on the busiest machine: what waits for such a log waits for ever."""

FEW_WAITING = 200
WITH_A_SHORT_QUEUE = f"""
import sys
from runtimestore_server import log_writer
from runtimestore_server.__main__ import main
log_writer.MOST_WAITING = {FEW_WAITING}
sys.exit(main())
"""

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


@contextlib.contextmanager
def _serving(
    found: StandardError, folder: Path, command: Sequence[str] = SERVE, **settings: str
) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """A server with this standard error, and where it listens."""
    address = f"unix:{folder}/served.sock"
    named_settings = {
        "RUNTIMESTORE_DATABASE_URL": f"sqlite:///{folder}/store.db",
        "RUNTIMESTORE_LISTEN": address,
        "RUNTIMESTORE_HEALTH_INTERVAL_SECONDS": "0.1",
        "RUNTIMESTORE_GRACE_PERIOD_SECONDS": "3",
        "RUNTIMESTORE_LOG_REFUSALS_PER_SECOND": "1000000",  # else too little is written for what this is about
        **{f"RUNTIMESTORE_{name.upper()}": value for name, value in settings.items()},
    }
    started, given = started_with(found, [*command])
    process = subprocess.Popen(started, env=environment_with(named_settings), **given)
    try:
        yield process, address
    finally:
        process.kill()
        process.wait()


@contextlib.asynccontextmanager
async def _store(address: str) -> AsyncIterator[Store]:
    await _listening(address)
    async with Store(address, retry=ONCE, timeout_seconds=CALL_SECONDS) as store:
        yield store


async def _listening(address: str) -> None:
    """Wait until somebody listens there: a gRPC channel would come back later and later."""
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            _, writer = await asyncio.open_unix_connection(address.removeprefix("unix:"))
        except OSError:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.02)
        else:
            writer.close()
            return


async def _refused(store: Store, times: int) -> None:
    for _ in range(times):
        with pytest.raises(InvalidRequest):
            await store.load_runtime_state("")


async def _path_that_is_no_utf_8(address: str) -> None:
    reader, writer = await asyncio.open_unix_connection(address.removeprefix("unix:"))
    writer.write(preface() + frame(1, 4, 1, call_headers("x", b"/\xff")))
    with contextlib.suppress(ConnectionError, TimeoutError):
        async with asyncio.timeout(0.5):
            while await reader.read(4096):
                pass
    writer.close()


def _schema(folder: Path, revision: str) -> str:
    """Set the schema's revision, and give what it was: with another one the store is not ready."""
    with contextlib.closing(sqlite3.connect(folder / "store.db", isolation_level=None)) as connection:
        (before,) = connection.execute("SELECT version_num FROM alembic_version").fetchone()
        connection.execute("UPDATE alembic_version SET version_num = ?", (revision,))
    return str(before)


@pytest.mark.parametrize("way", WAYS, ids=named)
async def test_a_log_that_takes_no_lines_changes_no_answer_and_holds_nothing_up(
    runner: object, way: Callable[[], contextlib.AbstractContextManager[StandardError]], tmp_path: Path
) -> None:
    del runner
    with way() as standard_error, _serving(standard_error, tmp_path, log_level="debug") as (process, address):
        async with _store(address) as store:
            await _refused(store, REFUSALS)
            assert await store.persist_input_state(RUNTIME, input_of("a")) == (1, False)
            await until_health_is(address, SERVING, within_seconds=CALL_SECONDS)

            current = _schema(tmp_path, "9999")  # the watch over health has something to tell
            await until_health_is(address, NOT_SERVING, within_seconds=CALL_SECONDS)
            _schema(tmp_path, current)
            await until_health_is(address, SERVING, within_seconds=CALL_SECONDS)

            await _path_that_is_no_utf_8(address)
            async with _store(address) as again:
                await _refused(again, 1)
                assert await again.persist_input_state(RUNTIME, input_of("b")) == (2, False)
                assert await again.load_input_states(RUNTIME) == [input_of("b")]

        process.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(process.wait, END_SECONDS) == 0
    with contextlib.closing(sqlite3.connect(tmp_path / "store.db")) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert connection.execute("SELECT revision FROM runtimes").fetchall() == [(2,)]


@pytest.mark.parametrize("way", WAYS, ids=named)
def test_a_refusal_to_start_has_its_exit_code_whatever_becomes_of_its_sentence(
    way: Callable[[], contextlib.AbstractContextManager[StandardError]], tmp_path: Path
) -> None:
    for url, code in (("nothing:like-this", 2), (f"sqlite:///{tmp_path}/no/such/folder/store.db", 1)):
        with way() as standard_error:
            command, given = started_with(standard_error, [*SERVE, "--database-url", url, "--listen", "127.0.0.1:0"])
            done = subprocess.run(
                command, env=environment_with({}), timeout=END_SECONDS, check=False, cwd=tmp_path, **given
            )
        assert done.returncode == code


async def test_what_was_lost_is_told_once_when_lines_are_taken_again(runner: object, tmp_path: Path) -> None:
    del runner
    times = FEW_WAITING + 2 * AT_ONCE  # more than wait for the pipe and fit into it
    command = (sys.executable, "-c", WITH_A_SHORT_QUEUE, "serve")
    with (
        nobody_reads() as standard_error,
        _serving(standard_error, tmp_path, command, log_format="json") as (process, address),
    ):
        async with _store(address) as store:
            await _refused(store, times)
        reading = asyncio.create_task(asyncio.to_thread(_read_to_the_end, standard_error, process))
        await asyncio.sleep(0.5)
        async with _store(address) as store:
            await _refused(store, 1)
        process.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(process.wait, END_SECONDS) == 0
        lines = [json.loads(line) for line in (await reading).splitlines()]

    lost = [line["lost"] for line in lines if "lost" in line]
    told = sum(line["event"] == "refused" for line in lines)
    assert len(lost) == 1
    assert lost[0] > 0
    assert told + lost[0] >= times + 1
    assert lines[-1]["event"] == "stopped"


def _read_to_the_end(standard_error: StandardError, process: subprocess.Popen[bytes]) -> str:
    found = ""
    while '"stopped"' not in found and process.poll() is None:
        found += standard_error.read_some()
    return found
