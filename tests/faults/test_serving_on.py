"""What ends gRPC's own server does not end the service."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

import psutil
import pytest

from runtimestore import RuntimeStoreError
from support.checkers.clean_up import until
from support.faults.http2 import call_headers, frame, preface
from support.faults.uploads import connections, ended, stalled
from support.generators.calls import Store, input_of
from support.generators.garbage import SERVICE
from support.servers.server import in_process
from support.servers.server_process import ServerProcess

if TYPE_CHECKING:
    from pathlib import Path

    from support.checkers.torture import Trial

NO_UTF_8 = (b"/\xff", SERVICE.encode() + b"Load\xc3", SERVICE.encode() + b"\xed\xa0\x80")


async def _call(address: str, path: bytes) -> None:
    """Call a path over a connection of its own, and give that some time."""
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(preface() + frame(1, 4, 1, call_headers(address, path)))
    with contextlib.suppress(ConnectionError, TimeoutError):
        async with asyncio.timeout(0.2):
            while await reader.read(4096):
                pass
    writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()


@pytest.mark.parametrize("path", NO_UTF_8)
def test_a_path_that_is_no_utf_8_ends_no_service(path: bytes, trial: Trial) -> None:
    async def attack(address: str) -> None:
        async with Store(address, timeout_seconds=60) as store:
            for number in range(trial.rounds(short=3, long=30)):
                assert await store.persist_input_state("rt:1", input_of(str(number))) == (number + 1, False)
                await _call(address, path)

    with ServerProcess("memory:") as server:
        asyncio.run(attack(server.address))
    assert "gRPC stopped serving by itself" in server.log
    assert "Traceback" not in server.log, server.log


def test_the_process_outlasts_what_ends_grpcs_own_server_under_load(trial: Trial) -> None:
    stops = trial.rounds(short=12, long=150)
    written = 0

    async def write(address: str, runtime_id: str, until: asyncio.Event) -> None:
        nonlocal written
        async with Store(address, timeout_seconds=2) as store:
            while not until.is_set():
                with contextlib.suppress(RuntimeStoreError):  # one that is cut, or that nobody takes any more
                    await store.persist_input_state(runtime_id, input_of("a"))
                    written += 1

    async def attack(server: ServerProcess) -> None:
        stop = asyncio.Event()
        writing = [asyncio.create_task(write(server.address, f"rt:{number}", stop)) for number in range(12)]
        for _ in range(stops):
            with contextlib.suppress(ConnectionError):  # it does not listen yet
                await _call(server.address, NO_UTF_8[0])
            if server._process.poll() is not None:
                break
        stop.set()
        for task in writing:
            if server._process.poll() is not None:
                task.cancel()
        await asyncio.wait(writing)

    with ServerProcess("memory:", environment={"MALLOC_ARENA_MAX": "2"}) as server:
        process = psutil.Process(server.pid)
        before = process.memory_info().rss
        asyncio.run(attack(server))
        assert server._process.poll() is None, server.log
        grown = process.memory_info().rss - before
    stopped = server.log.count("gRPC stopped serving by itself")
    assert stopped
    trial.record(stops=stopped, writes_meanwhile=written, bytes_grown=grown)


async def test_calls_that_are_cut_when_grpc_stops_by_itself_keep_no_place(runtime_id: str) -> None:
    async with in_process("memory:") as app:
        slots = app.limiters.writes.slots
        async with connections(app.address, 3) as channels, Store(app.address, timeout_seconds=60) as store:
            calls = [stalled(channel) for channel in channels * 20]
            await until(lambda: slots.waiting > 0)

            await _call(app.address, b"/\xff")

            assert await store.persist_input_state(runtime_id, input_of("a")) == (1, False)
            await until(lambda: not slots.received and not slots.waiting)
            await until(lambda: not app.calls.in_flight)
            await ended(*calls)


def test_a_socket_whose_file_is_gone_is_made_again_and_its_calls_go_on(tmp_path: Path) -> None:
    file = tmp_path / "served.sock"

    async def unlink(address: str) -> None:
        async with Store(address, timeout_seconds=60) as before:
            assert await before.persist_input_state("rt:1", input_of("a")) == (1, False)
            file.unlink()
            await until(file.exists)
            assert await before.persist_input_state("rt:1", input_of("b")) == (2, False)
            async with Store(address, timeout_seconds=60) as after:
                assert await after.persist_input_state("rt:1", input_of("c")) == (3, False)

    with ServerProcess("memory:", listen=f"unix:{file}") as server:
        asyncio.run(unlink(server.address))
    assert server.log.count("the socket file is gone") == 1
    assert not file.exists()


def test_a_socket_whose_file_goes_again_and_again_keeps_no_former_server(tmp_path: Path, trial: Trial) -> None:
    file, rounds = tmp_path / "served.sock", trial.rounds(short=4, long=60)

    async def write(store: Store, runtime_id: str, until: asyncio.Event) -> int:
        written = 0
        while not until.is_set():
            written += 1
            assert await store.persist_input_state(runtime_id, input_of(str(written))) == (written, False)
        return written

    async def unlink(address: str, process: psutil.Process) -> int:
        held, stop = process.num_fds(), asyncio.Event()
        async with Store(address, timeout_seconds=60) as store:
            writing = asyncio.create_task(write(store, "rt:1", stop))
            for number in range(rounds):
                file.unlink()
                await until(file.exists)
                async with Store(address, timeout_seconds=60) as after:
                    assert await after.persist_input_state("rt:2", input_of(str(number))) == (number + 1, False)
            stop.set()
            written = await writing
        await until(lambda: process.num_fds() <= held)
        assert file.is_socket()
        return written

    with ServerProcess("memory:", listen=f"unix:{file}") as server:
        written = asyncio.run(unlink(server.address, psutil.Process(server.pid)))
        assert list(tmp_path.iterdir()) == [file]
    assert server.log.count("the socket file is gone") == rounds
    assert not file.exists()
    trial.record(unlinked=rounds, writes_meanwhile=written)


async def test_calls_of_a_living_connection_are_not_told_of_a_shutdown_when_grpc_stops_by_itself() -> None:
    async with in_process("memory:") as app, connections(app.address, 3) as channels:
        slots = app.limiters.writes.slots
        calls = [stalled(channel) for channel in channels * 20]
        await until(lambda: slots.waiting + slots.received == len(calls))

        app.limiters.restart()  # as where another of its listeners stopped

        told = await asyncio.gather(*calls, return_exceptions=True)
    assert [
        str(error) for error in told if "gRPC stopped by itself and is started again; nothing was done" in str(error)
    ]
    assert not [str(error) for error in told if "shutting down" in str(error)]
