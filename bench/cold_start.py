"""A cold start by LoadRuntime, of a server started anew: beside the floor, which sends as many bytes at once."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio

from bench.workloads.lives import Life
from runtimestore import AsyncRuntimeStoreClient
from runtimestore.v1 import runtime_store_admin_pb2 as admin_pb
from runtimestore.v1 import runtime_store_admin_pb2_grpc as admin_grpc
from runtimestore.v1 import runtime_store_pb2 as pb

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Iterator

    from bench.targets import Target

INPUTS = 400
SESSION_BYTES = 2_000_000
CHUNK_BYTES = 1024 * 1024
OPTIONS = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]


def messages_of(life: Life) -> Iterator[admin_pb.LoadRuntimeResponse]:
    """What LoadRuntime answers for a runtime, about; the floor sends it without having looked for it."""
    session = life.session()
    yield admin_pb.LoadRuntimeResponse(runtime=admin_pb.RuntimeDescription(revision=1))
    states = [pb.StoredInputState(input_id=state.input_id, state_json=state.state_json) for state in life.inputs]
    yield admin_pb.LoadRuntimeResponse(inputs=admin_pb.RuntimeInputs(input_states=states))
    info = pb.SessionSnapshotInfo(session_id=life.session_id, size_bytes=len(session), sha256=bytes(32), revision=1)
    yield admin_pb.LoadRuntimeResponse(session=info)
    for start in range(0, len(session), CHUNK_BYTES):
        yield admin_pb.LoadRuntimeResponse(session_chunk=session[start : start + CHUNK_BYTES])


def milliseconds(
    runner: asyncio.Runner, floor: Target, targets: list[Target], *, runtimes: int, inputs: int, session_bytes: int
) -> dict[str, list[dict[str, float]]]:
    """How long each load of each server took, beside one of the floor that came just before it."""
    found = {}
    for target in targets:
        kept = replace(target, url=target.fresh_store())
        lives = [Life(session_bytes=session_bytes, inputs=inputs) for _ in range(runtimes)]
        with kept.running() as running:
            runner.run(_prepare(running.address, lives))
        with kept.running() as running, floor.running() as beside:
            found[target.name] = runner.run(_measure(running.address, beside.address, lives))
    return found


async def _prepare(address: str, lives: list[Life]) -> None:
    async with grpc.aio.insecure_channel(address, OPTIONS) as channel:
        store = AsyncRuntimeStoreClient(channel=channel, known_bytes=0, timeout_seconds=120)
        for life in lives:
            await life.begin(store)


async def _measure(address: str, floor_address: str, lives: list[Life]) -> list[dict[str, float]]:
    took = []
    async with (
        grpc.aio.insecure_channel(address, OPTIONS) as channel,
        grpc.aio.insecure_channel(floor_address, OPTIONS) as floor_channel,
    ):
        store, floor = admin_grpc.RuntimeStoreAdminStub(channel), admin_grpc.RuntimeStoreAdminStub(floor_channel)
        await _load(store, "rt:nobody")  # the connection and the first call are not what is measured
        await _load(floor, lives[0].runtime_id)
        for life in lives:
            floor_ms, floor_bytes = await _load(floor, life.runtime_id)
            server_ms, server_bytes = await _load(store, life.runtime_id)
            took.append({"floor_ms": floor_ms, "ms": server_ms, "floor_bytes": floor_bytes, "bytes": server_bytes})
    return took


async def _load(stub: Any, runtime_id: str) -> tuple[float, float]:
    """The milliseconds and the bytes of one LoadRuntime."""
    size_bytes, started = 0, time.perf_counter()
    async for message in stub.LoadRuntime(admin_pb.LoadRuntimeRequest(runtime_id=runtime_id), timeout=60):
        size_bytes += message.ByteSize()
    return (time.perf_counter() - started) * 1000, size_bytes
