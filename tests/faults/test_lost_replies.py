"""Replies that are lost after the server handled the call: no failure comes to light, and nothing is done twice."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import pytest

from runtimestore import (
    AsyncRuntimeStoreClient,
    BoundaryReceiptExists,
    CallFailed,
    RetryPolicy,
    RuntimeStoreClient,
    RuntimeStoreError,
)
from runtimestore_server.store import tables
from support.checkers.threaded import threaded
from support.faults.reply_proxy import ReplyProxy
from support.generators.documents import input_state, new_id, receipt, session
from support.servers.database import rows
from support.servers.engines import DURABLE
from support.servers.server import in_process

if TYPE_CHECKING:
    from support.checkers.torture import Trial

RUNTIMES = 32
BY_THREADS = 4
"""How many of them live through the client for threads, of which the event loop's executor has five at least."""

LOSS = 0.3

pytestmark = pytest.mark.needs(DURABLE)


async def test_of_replies_that_are_lost_none_becomes_a_failure_and_none_is_done_twice(
    fresh_url: str, trial: Trial, realm: str
) -> None:
    turns = trial.rounds(short=10, long=313)  # of 32 runtimes: 320 and 10,016 calls
    runtimes = [f"rt:{number}" for number in range(RUNTIMES)]
    replayed: Counter[str] = Counter()
    failures: list[RuntimeStoreError] = []

    async def live(runtime_id: str, address: str, *, by_threads: bool) -> bytes:
        """One runtime, alone on its connection: its last acknowledged snapshot."""
        body = b""
        async with AsyncExitStack() as stack:
            if by_threads:
                store = threaded(stack.enter_context(RuntimeStoreClient(address, realm=realm, timeout_seconds=120)))
            else:
                store = await stack.enter_async_context(
                    AsyncRuntimeStoreClient(address, realm=realm, timeout_seconds=120)
                )
            for turn in range(1, turns + 1):
                body = session(f"{runtime_id}, turn {turn}")
                state = input_state(str(turn), input_id=new_id())
                try:
                    commit = await store.atomic_apply(runtime_id, body, receipt(), [state], if_revision=turn - 1)
                except RuntimeStoreError as failure:
                    failures.append(failure)
                    break
                assert commit.revision == turn
                replayed["by_threads" if by_threads else "by_tasks"] += commit.replayed
        return body

    async with in_process(fresh_url) as app:
        async with ReplyProxy(app.address, loss=LOSS, chance=trial.random) as proxy:
            last = await asyncio.gather(
                *(
                    live(runtime_id, proxy.address, by_threads=number < BY_THREADS)
                    for number, runtime_id in enumerate(runtimes)
                )
            )

        trial.record(
            calls=RUNTIMES * turns,
            of_them_by_threads=BY_THREADS * turns,
            replies_lost=proxy.lost,
            replies_passed=proxy.passed,
            replayed=replayed.total(),
            failures=len(failures),
        )
        assert failures == []
        stored = await rows(app, tables.receipts, realm=realm)
        trial.record(receipts=len(stored))
        assert Counter(row["runtime_id"] for row in stored) == dict.fromkeys(runtimes, turns)
        assert len(await rows(app, tables.inputs, realm=realm)) == RUNTIMES * turns
        async with AsyncRuntimeStoreClient(app.address, realm=realm) as store:
            for runtime_id, body in zip(runtimes, last, strict=True):
                assert await store.load_session_snapshot_with_revision(runtime_id) == (body, turns)
    assert proxy.lost > RUNTIMES * turns * LOSS / 2
    assert min(replayed["by_tasks"], replayed["by_threads"]) > 0


async def test_without_request_ids_the_same_losses_come_to_light(fresh_url: str, trial: Trial, realm: str) -> None:
    """The control: it shows that the test above can fail."""
    turns = trial.rounds(short=10, long=50)
    told: Counter[str] = Counter()

    async def live(runtime_id: str, address: str) -> None:
        once = RetryPolicy(max_attempts=1)
        async with AsyncRuntimeStoreClient(address, realm=realm, retry=once, timeout_seconds=120) as store:
            for turn in range(turns):
                proof, body = receipt(), session(f"{runtime_id}, turn {turn}")
                while True:
                    try:
                        await store.atomic_apply(runtime_id, body, proof, request_id="")
                    except CallFailed:
                        continue  # a caller who repeats, as there is nothing else to do
                    except BoundaryReceiptExists:
                        told["BoundaryReceiptExists"] += 1
                    break
            for turn in range(turns):
                while True:
                    try:
                        await store.commit_session_snapshot(runtime_id, session(str(turn)), request_id="")
                    except CallFailed:
                        continue
                    break

    async with in_process(fresh_url) as app:
        async with ReplyProxy(app.address, loss=LOSS, chance=trial.random) as proxy:
            await asyncio.gather(*(live(f"rt:{number}", proxy.address) for number in range(4)))
        revisions = sum(row["revision"] for row in await rows(app, tables.runtimes, realm=realm))
    trial.record(false_failures=told["BoundaryReceiptExists"], done_twice=revisions - 4 * 2 * turns)
    assert told["BoundaryReceiptExists"] > 0
    assert revisions > 4 * 2 * turns
