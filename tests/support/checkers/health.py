"""What the health service says of a server."""

from __future__ import annotations

import asyncio
import time

import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc


async def until_health_is(address: str, status: int, *, within_seconds: float = 20.0) -> None:
    """Wait until a server says this of itself; fails if it does not, or does not answer."""
    async with grpc.aio.insecure_channel(address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        deadline = time.monotonic() + within_seconds
        while (await stub.Check(health_pb2.HealthCheckRequest(), timeout=within_seconds)).status != status:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.02)
