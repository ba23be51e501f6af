"""A reader whose connection dies in the middle of an answer costs no traceback, and nothing of it stays."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import grpc.aio
import pytest

from runtimestore.v1 import runtime_store_pb2 as pb
from support.faults.slow_link import slow_link
from support.generators.calls import Store
from support.generators.documents import session
from support.generators.garbage import SERVICE
from support.servers.server import ServerProcess

if TYPE_CHECKING:
    from support.checkers.torture import Trial

WAIT_SECONDS = 20


@pytest.mark.usefixtures("runner")
async def test_a_connection_that_dies_while_an_answer_is_sent_leaves_no_traceback(trial: Trial) -> None:
    rounds = trial.rounds(short=3, long=50)
    request = pb.LoadSessionSnapshotRequest(runtime_id="rt:x").SerializeToString()
    with ServerProcess("memory:") as server:
        async with Store(server.address) as store:
            body = session("x" * 8_000_000)
            await store.commit_session_snapshot("rt:x", body)
            for _ in range(rounds):
                async with slow_link(server.address, bytes_per_second=2_000_000) as address:
                    channel: Any = grpc.aio.insecure_channel(address, [("grpc.use_local_subchannel_pool", 1)])
                    call = channel.unary_stream(f"{SERVICE}LoadSessionSnapshot")(request, timeout=WAIT_SECONDS)
                    assert await call.read()
                    await asyncio.sleep(trial.random.uniform(0, 0.5))
                call.cancel()
                await channel.close()
            assert await store.load_session_snapshot("rt:x") == body
    assert "Traceback" not in server.log, server.log
    trial.record(connections_cut=rounds)
