"""A server that is told to end finishes what it took in, a large request that is still being checked too."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING

import grpc
import pytest

from runtimestore import RetryPolicy, StoreUnavailable
from support.checkers.clean_up import until
from support.checkers.refusals import is_refusal, refused
from support.faults.uploads import connections, ended, stalled, stalled_in_turn
from support.generators.calls import Store
from support.generators.documents import session
from support.generators.garbage import SERVICE
from support.servers.server import drain

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractAsyncContextManager

    from runtimestore_server.app import Application

WAIT_SECONDS = 20
ADMIN = "/runtimestore.v1.RuntimeStoreAdmin/"


async def test_a_large_write_that_is_being_checked_when_the_drain_begins_lands(
    serve: Callable[..., AbstractAsyncContextManager[Application]], runtime_id: str
) -> None:
    body = session("x" * 600_000)
    go_on = threading.Event()
    async with serve(reader_threads=1) as app, Store(app.address, retry=RetryPolicy(max_attempts=1)) as store:
        await until(lambda: app.workers.waiting == 0)
        busy = asyncio.ensure_future(app.workers.run(lambda: go_on.wait(WAIT_SECONDS)))
        await asyncio.sleep(0)
        writing = asyncio.ensure_future(store.commit_session_snapshot(runtime_id, body))
        await until(lambda: app.workers.waiting == 2)
        draining = asyncio.ensure_future(drain(app, grace_seconds=WAIT_SECONDS))
        await asyncio.sleep(0)
        with pytest.raises(StoreUnavailable, match="shutting down"):
            await store.load_runtime_state(runtime_id)
        with pytest.raises(StoreUnavailable, match="shutting down"):
            await store.persist_auth_oauth_flow_snapshot(b"late")
        go_on.set()

        assert await writing == (1, False)
        await asyncio.gather(draining, busy)


async def test_a_call_that_comes_while_an_upload_holds_up_the_end_is_refused_before_its_message_is_there(
    serve: Callable[..., AbstractAsyncContextManager[Application]],
) -> None:
    expected = {
        f"{SERVICE}AtomicApply": "write_failed",
        f"{SERVICE}LoadRuntimeState": "read_failed",
        f"{ADMIN}AcquireRuntime": "write_failed",
        f"{ADMIN}GetServerInfo": "read_failed",
    }
    async with serve() as app, connections(app.address, 2) as (first, second):
        (holding_up,) = await stalled_in_turn(app, first)
        draining = asyncio.ensure_future(drain(app, grace_seconds=WAIT_SECONDS))
        await asyncio.sleep(0)
        for path, store_error in expected.items():
            is_refusal(
                await refused(stalled(second, path)), grpc.StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE", store_error
            )
        stream = second.stream_stream(f"{SERVICE}LoadSessionSnapshot")(timeout=WAIT_SECONDS)
        is_refusal(await refused(stream), grpc.StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE", "read_failed")
        assert not draining.done()
        await ended(holding_up)
        await draining
