"""The load generator: one process, many runtimes, each sends its next request when it has the answer to the last.

Run by the benchmark as `python -m bench.load …`; writes one JSON object to standard output.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import time
import uuid
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import grpc.aio
import uvloop

from bench import connecting, usage
from bench.requests import KINDS, Fresh
from runtimestore.v1 import runtime_store_admin_pb2, runtime_store_admin_pb2_grpc, runtime_store_pb2_grpc

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


MOST_LENGTHS = 10
"""How many times as long as it is to be a measurement goes on, as long as no call is answered in it."""


@dataclass(frozen=True)
class Measurement:
    """What was seen between the end of the warm-up and the end of the measurement."""

    calls: int
    calls_per_second: float
    p50_ms: float
    p99_ms: float
    server_cpu_us_per_call: float
    postgres_cpu_us_per_call: float | None
    generator_cpu_us_per_call: float
    writes_per_transaction: float | None


@dataclass(frozen=True)
class _Reading:
    """The clocks at one moment."""

    calls: int
    seconds: float
    server_cpu_seconds: float
    postgres_cpu_seconds: float | None
    generator_cpu_seconds: float

    @classmethod
    def now(cls, calls: int, arguments: argparse.Namespace) -> _Reading:
        return cls(
            calls=calls,
            seconds=time.perf_counter(),
            server_cpu_seconds=usage.cpu_seconds(arguments.server_pid),
            postgres_cpu_seconds=usage.cpu_seconds(arguments.postgres_pid) if arguments.postgres_pid else None,
            generator_cpu_seconds=time.process_time(),
        )


async def measure(arguments: argparse.Namespace) -> Measurement:
    """Drive the load and measure."""
    options = [("grpc.use_local_subchannel_pool", 1)]  # else channels to one address share one connection
    channels = [_channel(arguments, options) for _ in range(min(arguments.channels, arguments.runtimes))]
    admin = runtime_store_admin_pb2_grpc.RuntimeStoreAdminStub(channels[0])
    latencies: list[float] = []
    run = uuid.uuid4()
    runtimes = []
    for number in range(arguments.runtimes):
        call = getattr(runtime_store_pb2_grpc.RuntimeStoreStub(channels[number % len(channels)]), arguments.method)
        fresh = KINDS[arguments.method](f"rt:bench:{run}:{number}", arguments.snapshot_bytes)
        runtimes.append(asyncio.create_task(_runtime(call, fresh, latencies)))
    try:
        await _unless_one_fails(runtimes, arguments.warm_up_seconds)
        counters = await _counters(admin) if arguments.counters else None
        before = _Reading.now(len(latencies), arguments)
        for _ in range(MOST_LENGTHS):
            await _unless_one_fails(runtimes, arguments.seconds)
            if len(latencies) > before.calls:
                break
        after = _Reading.now(len(latencies), arguments)
        batch = _mean_batch(counters, await _counters(admin)) if counters else None
    finally:
        for task in runtimes:
            task.cancel()
        await asyncio.gather(*runtimes, return_exceptions=True)
        for channel in channels:
            await channel.close()
    return _measurement(before, after, latencies, batch)


def _channel(arguments: argparse.Namespace, options: list[tuple[str, int]]) -> grpc.aio.Channel:
    if (credentials := connecting.credentials(arguments)) is None:
        return grpc.aio.insecure_channel(arguments.address, options=options)
    return grpc.aio.secure_channel(arguments.address, credentials, options=options)


async def _runtime(call: Callable[..., Awaitable[object]], fresh: Fresh, latencies: list[float]) -> None:
    clock, metadata = time.perf_counter, connecting.metadata()
    while True:
        request = fresh()
        start = clock()
        await call(request, timeout=60, metadata=metadata)
        latencies.append(clock() - start)


async def _unless_one_fails(runtimes: list[asyncio.Task[None]], seconds: float) -> None:
    done, _ = await asyncio.wait(runtimes, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    for task in done:
        task.result()


async def _counters(
    admin: runtime_store_admin_pb2_grpc.RuntimeStoreAdminAsyncStub,
) -> runtime_store_admin_pb2.CommitCounters:
    answer = await admin.GetServerInfo(
        runtime_store_admin_pb2.GetServerInfoRequest(), timeout=60, metadata=connecting.metadata()
    )
    return answer.commits


def _mean_batch(
    before: runtime_store_admin_pb2.CommitCounters, after: runtime_store_admin_pb2.CommitCounters
) -> float | None:
    transactions = after.transactions - before.transactions
    return (after.writes - before.writes) / transactions if transactions else None


def _measurement(before: _Reading, after: _Reading, latencies: list[float], batch: float | None) -> Measurement:
    calls = after.calls - before.calls
    if calls == 0:
        raise SystemExit("no call was answered during the measurement; measure for longer")
    window = sorted(latencies[before.calls : after.calls])
    postgres = None
    if before.postgres_cpu_seconds is not None and after.postgres_cpu_seconds is not None:
        postgres = (after.postgres_cpu_seconds - before.postgres_cpu_seconds) / calls * 1e6
    return Measurement(
        calls=calls,
        calls_per_second=calls / (after.seconds - before.seconds),
        p50_ms=window[calls // 2] * 1e3,
        p99_ms=window[min(calls - 1, calls * 99 // 100)] * 1e3,
        server_cpu_us_per_call=(after.server_cpu_seconds - before.server_cpu_seconds) / calls * 1e6,
        postgres_cpu_us_per_call=postgres,
        generator_cpu_us_per_call=(after.generator_cpu_seconds - before.generator_cpu_seconds) / calls * 1e6,
        writes_per_transaction=batch,
    )


def main() -> int:
    """Measure as the arguments say."""
    parser = argparse.ArgumentParser(prog="python -m bench.load", description=__doc__)
    connecting.add_flags(parser)
    parser.add_argument("--method", choices=sorted(KINDS), required=True)
    parser.add_argument("--runtimes", type=int, default=64)
    parser.add_argument("--channels", type=int, default=4)
    parser.add_argument("--snapshot-bytes", type=int, default=20_000)
    parser.add_argument("--warm-up-seconds", type=float, default=1.0)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--server-pid", type=int, default=os.getpid())
    parser.add_argument("--postgres-pid", type=int, default=0)
    parser.add_argument("--counters", action="store_true", help="ask GetServerInfo, which the floor does not know")
    json.dump(asdict(uvloop.run(measure(parser.parse_args()))), sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main())
