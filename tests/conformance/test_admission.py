"""What comes to any method is received within bounds: no kind of call keeps the others out or fills the memory."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from runtimestore.v1 import runtime_store_pb2 as pb
from runtimestore_server.rpc import admission
from runtimestore_server.rpc import server as grpc_server
from support.checkers.clean_up import until
from support.checkers.footprint import PeakMemory, pid_of
from support.checkers.refusals import is_refusal, refused
from support.faults.http2 import (
    ACK,
    INITIAL_WINDOW_SIZE,
    PING,
    SETTINGS,
    call_headers,
    frame,
    preface,
    read_frame,
    settings_of,
)
from support.faults.uploads import REFLECTION, STALLED_SECONDS, WAIT_SECONDS, connections, ended
from support.generators.garbage import SERVICE, unknown_field
from support.generators.requests import ALL, LOADS, WRITES, request_of
from support.servers.server import drain, in_process
from support.servers.server_process import ServerProcess

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

MIB = 1024 * 1024
LONG_SECONDS = 1000.0
CHECK = "/grpc.health.v1.Health/Check"
ACQUIRE = "/runtimestore.v1.RuntimeStoreAdmin/AcquireRuntime"
SERVING = health_pb2.HealthCheckResponse(status=health_pb2.HealthCheckResponse.SERVING).SerializeToString()


@pytest.mark.parametrize("method", [CHECK, f"{SERVICE}LoadRuntimeState", ACQUIRE])
async def test_calls_whose_messages_do_not_come_keep_no_other_connection_waiting(
    method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(admission, "OTHERS_PATIENCE_SECONDS", LONG_SECONDS)
    monkeypatch.setattr(admission, "OTHERS_LONGEST_SECONDS", LONG_SECONDS)
    async with in_process("memory:") as app, connections(app.address, 2) as (one, another):
        slots = app.limiters.others.slots
        stalled = [one.stream_unary(method)(timeout=STALLED_SECONDS) for _ in range(100)]
        await until(lambda: slots.received == admission.UPLOAD_SLOTS_OF_OTHERS // 2)
        await until(lambda: slots.waiting == 100 - admission.UPLOAD_SLOTS_OF_OTHERS // 2)

        for load in LOADS:
            if load not in ("LoadInputStates", "LoadSessionSnapshot"):
                await another.unary_unary(f"{SERVICE}{load}")(
                    request_of(load).SerializeToString(), timeout=WAIT_SECONDS
                )
        assert await another.unary_unary(CHECK)(b"", timeout=WAIT_SECONDS) == SERVING

        await ended(*stalled)
        await until(lambda: not slots.received and not slots.waiting)


async def test_many_connections_whose_messages_do_not_come_are_refused_for_those_whose_do(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(admission, "OTHERS_PATIENCE_SECONDS", 0.1)
    monkeypatch.setattr(admission, "OTHERS_LONGEST_SECONDS", 0.2)
    async with in_process("memory:") as app, connections(app.address, admission.UPLOAD_SLOTS_OF_OTHERS + 1) as channels:
        another = channels.pop()
        stalled: list[Any] = []
        for channel in channels:
            stalled.append(channel.stream_unary(CHECK)(timeout=STALLED_SECONDS))
            await until(lambda: app.limiters.others.slots.received == len(stalled))

        assert await another.unary_unary(CHECK)(b"", timeout=WAIT_SECONDS) == SERVING

        is_refusal(await refused(stalled[0]), grpc.StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED", "internal")
        await ended(*stalled)


async def test_calls_that_wait_to_be_received_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admission, "OTHERS_PATIENCE_SECONDS", LONG_SECONDS)
    monkeypatch.setattr(admission, "OTHERS_LONGEST_SECONDS", LONG_SECONDS)
    async with in_process("memory:", max_waiting_reads=3) as app, connections(app.address, 1) as (one,):
        slots = app.limiters.others.slots
        stalled = [
            one.stream_unary(f"{SERVICE}LoadRuntimeState")(timeout=STALLED_SECONDS)
            for _ in range(admission.UPLOAD_SLOTS_OF_OTHERS // 2 + 3)
        ]
        await until(lambda: slots.waiting == 3)

        found = await refused(one.stream_unary(f"{SERVICE}LoadRuntimeState")(timeout=WAIT_SECONDS))

        is_refusal(found, grpc.StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED", "internal")
        assert found.metadata["waiting_reads"] == "3"
        assert found.retry_delay_seconds
        await ended(*stalled)


async def test_streams_of_requests_that_stay_open_keep_nobody_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admission, "OTHERS_PATIENCE_SECONDS", 0.1)
    monkeypatch.setattr(admission, "OTHERS_LONGEST_SECONDS", 0.2)
    ask = reflection_pb2.ServerReflectionRequest(list_services="").SerializeToString()
    async with in_process("memory:") as app, connections(app.address, 1) as (one,):
        left_open = [one.stream_stream(REFLECTION)(timeout=STALLED_SECONDS) for _ in range(admission.EXCHANGING * 3)]
        for call in left_open[:1]:
            await call.write(ask)
            assert await call.read()

        async with connections(app.address, 1) as (another,):
            call = another.stream_stream(REFLECTION)(timeout=WAIT_SECONDS)
            for _ in range(3):
                await call.write(ask)
                services = reflection_pb2.ServerReflectionResponse.FromString(await call.read())
                assert services.list_services_response.service
            await call.done_writing()
            assert await call.read() is grpc.aio.EOF
            assert await another.unary_unary(CHECK)(b"", timeout=WAIT_SECONDS) == SERVING

        for call in left_open:
            call.cancel()
        await until(lambda: not app.limiters.exchanges.slots.received)
        await until(lambda: not app.limiters.exchanges.slots.waiting)


async def test_a_call_without_a_message_is_told_so() -> None:
    async with in_process("memory:") as app, connections(app.address, 1) as (channel,):
        for method in ALL:
            call = channel.stream_unary(f"{SERVICE}{method}")(timeout=WAIT_SECONDS)
            await call.done_writing()

            found = await refused(call)

            is_refusal(found, grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST", "internal")
            assert set(found.violations) == {"request"}


@pytest.mark.parametrize("method", ["LoadRuntimeState", "PersistInputState"])
async def test_calls_whose_messages_have_not_come_when_the_server_ends_are_answered(method: str) -> None:
    async with in_process("memory:", max_receiving_writes=2) as app, connections(app.address, 1) as (channel,):
        calls = [channel.stream_unary(f"{SERVICE}{method}")(timeout=WAIT_SECONDS) for _ in range(9)]
        limiter = app.limiters.of(f"{SERVICE}{method}")
        await until(lambda: limiter.slots.waiting > 0)

        async with asyncio.timeout(WAIT_SECONDS):
            await drain(app, grace_seconds=0.2)

        store_error = "write_failed" if method in WRITES else "read_failed"
        for call in calls:
            is_refusal(await refused(call), grpc.StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE", store_error)


@pytest.mark.parametrize("method", [CHECK, f"{SERVICE}PersistInputState", REFLECTION])
def test_a_few_compressed_bytes_do_not_fill_the_memory(method: str) -> None:
    bomb, at_once = unknown_field(32 * MIB), 10

    async def send(address: str) -> set[grpc.StatusCode]:
        async with connections(address, 1, compression=grpc.Compression.Gzip) as (channel,):
            calls = [channel.unary_unary(method)(bomb, timeout=60) for _ in range(at_once)]
            return {(await refused(call)).code for call in calls}

    with ServerProcess("memory:") as server, PeakMemory(pid_of(server)) as memory:
        assert asyncio.run(send(server.address)) == {grpc.StatusCode.UNIMPLEMENTED}
    assert memory.peak_bytes <= memory.first_bytes + 32 * MIB


@pytest.mark.parametrize("method", [CHECK, f"{SERVICE}LoadRuntimeState", ACQUIRE, REFLECTION])
def test_the_largest_messages_to_methods_that_need_small_ones_are_received_a_few_at_a_time(method: str) -> None:
    large, at_once = unknown_field(16 * MIB), 24

    async def send(address: str) -> None:
        async with connections(address, 2) as (channel, another):
            calls = [channel.unary_unary(method)(large, timeout=60) for _ in range(at_once)]
            assert await another.unary_unary(CHECK)(b"", timeout=60) == SERVING
            await asyncio.gather(*calls, return_exceptions=True)

    with (
        ServerProcess("memory:", environment={"MALLOC_ARENA_MAX": "2"}) as server,
        PeakMemory(pid_of(server)) as memory,
    ):
        asyncio.run(send(server.address))
    # gRPC's copy, ours, what is parsed of it and once more in an allocator; reflection sends it back, which is as much
    # again until the caller has read it. All of them at once would be several times that.
    copies = 6 if method == REFLECTION else 4
    assert memory.peak_bytes <= memory.first_bytes + admission.UPLOAD_SLOTS_OF_OTHERS // 2 * copies * 16 * MIB


@contextlib.asynccontextmanager
async def _calling_by_hand(address: str) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection with the preface, empty settings and the headers of a write, whose message does not come."""
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(preface() + frame(1, 4, 1, call_headers(address, f"{SERVICE}PersistInputState".encode())))
    try:
        yield reader, writer
    finally:
        writer.close()


@pytest.mark.parametrize("pings_answered", [0, 5])
async def test_the_calls_of_a_peer_that_is_gone_give_their_places_back(
    monkeypatch: pytest.MonkeyPatch, pings_answered: int
) -> None:
    monkeypatch.setattr(grpc_server, "KEEPALIVE_TIME_MS", 1000)
    monkeypatch.setattr(grpc_server, "KEEPALIVE_TIMEOUT_MS", 500)
    async with in_process("memory:") as app, _calling_by_hand(app.address) as (reader, writer):
        slots = app.limiters.writes.slots
        await until(lambda: slots.received == 1)
        async with asyncio.timeout(WAIT_SECONDS):
            while pings_answered:
                found = await read_frame(reader)
                if found.kind == PING and found.flags != ACK:
                    writer.write(frame(PING, ACK, 0, found.payload))
                    pings_answered -= 1
            assert slots.received == 1  # who answers is there, however long the message takes
            while slots.received:  # noqa: ASYNC110  (no event tells of it)
                await asyncio.sleep(0.05)
            while await reader.read(4096):
                pass


async def test_of_a_message_that_waits_to_be_received_no_more_may_come_than_a_quarter_mebibyte() -> None:
    async with in_process("memory:") as app, _calling_by_hand(app.address) as (reader, _):
        async with asyncio.timeout(WAIT_SECONDS):
            while (found := await read_frame(reader)).kind != SETTINGS or found.flags == ACK:
                pass
        assert settings_of(found.payload)[INITIAL_WINDOW_SIZE] == MIB // 4


def test_the_unknown_field_is_one() -> None:
    message = pb.LoadRuntimeStateRequest.FromString(unknown_field(5 * MIB))
    assert message == pb.LoadRuntimeStateRequest.FromString(message.SerializeToString())
    assert message.ByteSize() > 5 * MIB
