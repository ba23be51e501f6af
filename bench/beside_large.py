"""Large beside small: how long PersistInputState takes while a large commit is in flight, and while none is."""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
import time
import uuid
from typing import TYPE_CHECKING, Any

import grpc.aio

from bench.requests import PersistInputStates
from bench.rounds import MeasurementFailed
from bench.targets import ROOT
from runtimestore.v1 import runtime_store_pb2_grpc as pb_grpc

if TYPE_CHECKING:
    from bench.targets import RunningTarget

CALLERS = 4
PAUSE_SECONDS = 0.002
"""Between the calls of a caller: they are to be a rate that leaves room, not a load of their own."""


async def milliseconds(target: RunningTarget, *, commits: int, megabytes: float, alone_seconds: float) -> Any:
    """The latencies of a few callers, alone and beside each of so many commits, which come one after the other."""
    calls: list[tuple[float, float]] = []
    windows: list[tuple[float, float]] = []
    async with grpc.aio.insecure_channel(target.address) as channel:
        call = pb_grpc.RuntimeStoreStub(channel).PersistInputState
        callers = [asyncio.create_task(_go_on(call, calls)) for _ in range(CALLERS)]
        try:
            await asyncio.sleep(0.3)
            calls.clear()
            for _ in range(commits):
                await asyncio.sleep(alone_seconds)
                windows.append(await _large_commit(target, megabytes))
            await asyncio.sleep(alone_seconds)
        finally:
            for caller in callers:
                caller.cancel()
            for caller in callers:
                with contextlib.suppress(asyncio.CancelledError):
                    await caller  # what ended by an error says so
    beside: list[float] = []
    alone: list[float] = []
    for started, ended in calls:
        is_beside = any(started < end and ended > begin for begin, end in windows)
        (beside if is_beside else alone).append((ended - started) * 1000)
    return {
        "alone": _percentiles(alone),
        "beside": _percentiles(beside),
        "commit_seconds": [end - begin for begin, end in windows],
    }


async def _go_on(call: Any, calls: list[tuple[float, float]]) -> None:
    fresh = PersistInputStates(f"rt:bench:{uuid.uuid4()}", 0)
    while True:
        request, started = fresh(), time.monotonic()
        await call(request, timeout=60)
        calls.append((started, time.monotonic()))
        await asyncio.sleep(PAUSE_SECONDS)


async def _large_commit(target: RunningTarget, megabytes: float) -> tuple[float, float]:
    """When one large commit, sent by a process of its own, began and ended, by the clock that processes share."""
    size_bytes = str(int(megabytes * 1e6))
    command = (
        *(sys.executable, "-m", "bench.large", "--address", target.address),
        *("--server-pid", str(target.pid), "--snapshot-bytes", size_bytes),
    )
    # On a thread: asyncio's own way forks, which gRPC does not like.
    done = await asyncio.to_thread(subprocess.run, command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise MeasurementFailed(f"bench.large failed against {target.name}: {done.stderr.strip()[-300:]}")
    told = json.loads(done.stdout)
    return told["began_at"], told["began_at"] + told["seconds"]


def _percentiles(values: list[float]) -> dict[str, float]:
    ordered = sorted(values)
    if not ordered:
        raise ValueError("no call fell into the time that was to be measured; measure for longer")
    return {
        "calls": len(ordered),
        "p50_ms": ordered[len(ordered) // 2],
        "p99_ms": ordered[len(ordered) * 99 // 100],
        "most_ms": ordered[-1],
    }
