"""A server that is told to end as gRPC's own has stopped by itself and a new one begins: it ends."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
from typing import TYPE_CHECKING, Any

import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from support.faults.http2 import call_headers, frame, preface
from support.servers.server import in_process
from support.servers.server_process import SERVE, ServerProcess

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from support.checkers.torture import Trial

NO_UTF_8 = b"/\xff"
"""A path at which gRPC's own server stops."""

STOPPED = "gRPC stopped serving by itself"


@contextlib.asynccontextmanager
async def _called(address: str) -> AsyncIterator[None]:
    """Inside, that path has been called, over a connection of its own."""
    host, _, port = address.rpartition(":")
    _, writer = await asyncio.open_connection(host, int(port))
    try:
        writer.write(preface() + frame(1, 4, 1, call_headers(address, NO_UTF_8)))
        await writer.drain()
        yield
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


@contextlib.asynccontextmanager
async def _watched(address: str) -> AsyncIterator[None]:
    """Inside, somebody watches health: a call that never ends by itself."""
    async with grpc.aio.insecure_channel(address) as channel:
        watching = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        await watching.read()
        yield
        watching.cancel()


@pytest.mark.parametrize("steps", range(5))
async def test_an_end_at_any_step_of_the_new_start_leaves_no_server_and_no_error(
    steps: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    begins = asyncio.Event()
    async with contextlib.AsyncExitStack() as outlasting:
        async with in_process("memory:") as app:
            await outlasting.enter_async_context(_watched(app.address))
            real = app.server._listening

            def listening(address: str) -> Any:
                begins.set()
                return real(address)

            monkeypatch.setattr(app.server, "_listening", listening)
            await outlasting.enter_async_context(_called(app.address))
            await begins.wait()
            for _ in range(steps):
                await asyncio.sleep(0)

        host, _, port = app.address.rpartition(":")
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection(host, int(port))
    gc.collect()  # a task's error that nobody looked at is told as the task goes
    errors = [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]
    assert [error for error in errors if "codec can't decode" not in error and "UnicodeDecodeError" not in error] == []


def test_a_process_that_is_told_to_end_as_grpc_stops_by_itself_ends_well(trial: Trial) -> None:
    rounds = trial.rounds(short=2, long=40)
    started_again = 0

    async def attack(server: ServerProcess) -> None:
        async with _watched(server.address), _called(server.address):
            await asyncio.sleep(trial.random.uniform(0, 0.01))
            server.terminate()
            assert await asyncio.to_thread(server.wait) == 0, server.log

    for _ in range(rounds):
        with ServerProcess("memory:", command=SERVE, grace_period_seconds=5) as server:
            asyncio.run(attack(server))
        assert any("[info] stopped" in line for line in server.lines[-3:]), server.log
        assert "Traceback" not in server.log, server.log
        started_again += STOPPED in server.log
    trial.record(ends=rounds, had_begun_anew=started_again)
