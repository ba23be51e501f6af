"""Drives a workload against one store and measures it."""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc.aio

from bench import usage
from bench.long_session import CHANGED, WHOLE
from bench.rust_way import RustWay
from bench.workloads.lives import Clock
from bench.written import Written
from runtimestore import AsyncRuntimeStoreClient

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from bench.targets import RunningTarget
    from bench.workloads import Workload
    from bench.workloads.lives import Store

CONNECTIONS = 4
LONGEST_SECONDS = 180
OPTIONS = [
    ("grpc.use_local_subchannel_pool", 1),  # else channels to one address share one connection
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
]


@dataclass(frozen=True)
class Measured:
    """What one workload took."""

    operations: int
    per_second: float
    p50_ms: float
    p99_ms: float
    server_cpu_ms: float | None
    """Of the server and of Postgres, for each operation; `None` where there is no server."""
    written_bytes: int


async def served(workload: Workload, form: str, target: RunningTarget, url: str | None) -> dict[str, Any]:
    """What the workload takes of a server, by clients of this form; `url` is Postgres' where the store is there."""
    written = Written(target, url)

    def cpu_seconds() -> float:
        return usage.cpu_seconds(target.pid) + (usage.cpu_seconds(target.postgres_pid) if target.postgres_pid else 0.0)

    try:
        async with asyncio.timeout(LONGEST_SECONDS), _channels(target.address) as channels:
            stores = _clients(channels, form)
            await workload.prepare(stores)
            if workload.forgets:
                stores = _clients(channels, form)
            cpu, bytes_before = cpu_seconds(), written.read_bytes()
            clock, seconds = await _driven(workload, stores, form)
            return _measured(clock, seconds, cpu_seconds() - cpu, written.read_bytes() - bytes_before)
    finally:
        written.close()


async def in_process(workload: Workload, folder: Path) -> dict[str, Any]:
    """What the workload takes the Rust store's way."""
    store = RustWay(folder / "in-process.db")
    async with asyncio.timeout(LONGEST_SECONDS):
        await workload.prepare([store])
        before = own_written_bytes()
        clock, seconds = await _driven(workload, [store], WHOLE)
    return _measured(clock, seconds, None, own_written_bytes() - before)


async def held(workload: Workload, target: RunningTarget) -> dict[str, int]:
    """Drive a workload, and tell the server's memory in the middle, when everything was written."""
    async with asyncio.timeout(LONGEST_SECONDS), _channels(target.address) as channels:
        stores = _clients(channels, WHOLE)
        await workload.prepare(stores)
        after_writes_bytes = target.resident_bytes()
        await _driven(workload, stores, WHOLE)
    return {"after_writes_bytes": after_writes_bytes}


async def _driven(workload: Workload, stores: Sequence[Store], form: str) -> tuple[Clock, float]:
    clock, started = Clock(), time.perf_counter()
    await workload.drive(stores, clock, form)
    return clock, time.perf_counter() - started


@contextlib.asynccontextmanager
async def _channels(address: str) -> AsyncIterator[list[grpc.aio.Channel]]:
    channels = [grpc.aio.insecure_channel(address, OPTIONS) for _ in range(CONNECTIONS)]
    try:
        await asyncio.gather(*(channel.channel_ready() for channel in channels))
        yield channels
    finally:
        for channel in channels:
            await channel.close()


def _clients(channels: Sequence[grpc.aio.Channel], form: str) -> list[AsyncRuntimeStoreClient]:
    settings: dict[str, Any] = {} if form == CHANGED else {"known_bytes": 0}
    return [AsyncRuntimeStoreClient(channel=channel, timeout_seconds=120, **settings) for channel in channels]


def own_written_bytes() -> int:
    """What this process has had written to its disk until now."""
    fields = dict(line.split(": ") for line in Path("/proc/self/io").read_text(encoding="ascii").splitlines())
    return int(fields["write_bytes"])


def _measured(clock: Clock, seconds: float, cpu_seconds: float | None, written_bytes: int) -> dict[str, Any]:
    took = sorted(clock.seconds)
    return asdict(
        Measured(
            operations=len(took),
            per_second=len(took) / seconds,
            p50_ms=took[len(took) // 2] * 1000,
            p99_ms=took[len(took) * 99 // 100] * 1000,
            server_cpu_ms=None if cpu_seconds is None else cpu_seconds * 1000 / len(took),
            written_bytes=written_bytes,
        )
    )
