"""A server that is told to end finishes what it took in, a large request that is still being checked too."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import TYPE_CHECKING

import pytest

from runtimestore import RetryPolicy, StoreUnavailable
from support.calls import Store
from support.clean_up import until
from support.documents import session

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractAsyncContextManager

    from runtimestore_server.app import Application

WAIT_SECONDS = 20


async def test_a_large_write_that_is_being_checked_when_the_drain_begins_lands(
    serve: Callable[..., AbstractAsyncContextManager[Application]], runtime_id: str
) -> None:
    body = session("x" * 600_000)
    go_on = threading.Event()
    async with serve(reader_threads=1) as app, Store(app.address, retry=RetryPolicy(max_attempts=1)) as store:
        await until(lambda: app.store._readers.waiting == 0)
        busy = asyncio.ensure_future(app.store._readers.run(lambda: go_on.wait(WAIT_SECONDS)))
        await asyncio.sleep(0)
        writing = asyncio.ensure_future(store.commit_session_snapshot(runtime_id, body))
        await until(lambda: app.store._readers.waiting == 2)
        draining = asyncio.ensure_future(app.drain(time.monotonic() + WAIT_SECONDS))
        await asyncio.sleep(0)
        with pytest.raises(StoreUnavailable, match="shutting down"):
            await store.load_runtime_state(runtime_id)
        with pytest.raises(StoreUnavailable, match="shutting down"):
            await store.persist_auth_oauth_flow_snapshot(b"late")
        go_on.set()

        assert await writing == (1, False)
        await asyncio.gather(draining, busy)
