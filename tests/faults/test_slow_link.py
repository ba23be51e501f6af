"""Whoever reads slowly, but reads, gets the whole of its document: a slow link is not taken for a peer that is gone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from runtimestore import RetryPolicy, _channel
from runtimestore_server.rpc import server as grpc_server
from support.faults.slow_link import slow_link
from support.generators.calls import Store
from support.generators.documents import session
from support.servers.server import in_process

if TYPE_CHECKING:
    from support.checkers.torture import Trial

SHORT = 4
"""By how much less is waited and the link is faster, in the short form."""


@pytest.mark.usefixtures("runner")
async def test_a_session_that_takes_longer_than_a_silent_peer_is_given_is_read_whole(
    trial: Trial, monkeypatch: pytest.MonkeyPatch, runtime_id: str
) -> None:
    if not trial.long:
        # The same in less time: on a busy machine answers to pings come late by seconds, as on a slow link.
        for side in (grpc_server, _channel):
            monkeypatch.setattr(side, "KEEPALIVE_TIME_MS", side.KEEPALIVE_TIME_MS // SHORT)
            monkeypatch.setattr(side, "KEEPALIVE_TIMEOUT_MS", side.KEEPALIVE_TIMEOUT_MS // SHORT)
    bytes_per_second = trial.rounds(short=100_000 * SHORT, long=100_000)
    body = session("x" * trial.rounds(short=3_000_000, long=6_000_000))
    async with (
        in_process("memory:") as app,
        Store(app.address) as writer,
        slow_link(app.address, bytes_per_second=bytes_per_second) as address,
        Store(address, timeout_seconds=300, retry=RetryPolicy(max_attempts=1)) as store,
    ):
        await writer.commit_session_snapshot(runtime_id, body)
        assert await store.load_session_snapshot(runtime_id) == body
    trial.record(session_bytes=len(body), bytes_per_second=bytes_per_second)
