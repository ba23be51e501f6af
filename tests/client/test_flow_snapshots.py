"""A forgotten `return` does not empty the OAuth flow snapshot."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from runtimestore import AsyncRuntimeStoreClient, RuntimeStoreClient
from support.servers.server import in_process


async def test_what_is_no_bytes_is_refused_and_the_snapshot_stays() -> None:
    none = cast("Any", None)
    async with in_process("memory:") as app:
        async with AsyncRuntimeStoreClient(app.address) as store:
            await store.persist_auth_oauth_flow_snapshot(b"{}")
            with pytest.raises(TypeError, match="must be bytes, not NoneType"):
                await store.persist_auth_oauth_flow_snapshot(none)
            with pytest.raises(TypeError, match="must be bytes, not NoneType"):
                await store.update_auth_oauth_flow_snapshot(lambda _found: none)

        def blocking() -> bytes | None:
            with RuntimeStoreClient(app.address) as store:
                with pytest.raises(TypeError, match="must be bytes, not NoneType"):
                    store.persist_auth_oauth_flow_snapshot(none)
                with pytest.raises(TypeError, match="must be bytes, not NoneType"):
                    store.update_auth_oauth_flow_snapshot(lambda _found: none)
                return store.load_auth_oauth_flow_snapshot()

        assert await asyncio.to_thread(blocking) == b"{}"
