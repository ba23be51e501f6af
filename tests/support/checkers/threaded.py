"""The client for threads behind the methods of the client for asyncio, so that a test is written once for both."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any, cast

from runtimestore import AsyncRuntimeStoreClient, RuntimeStoreClient

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable


class _Threaded:
    """Runs each method of a client in a thread of the event loop's executor."""

    def __init__(self, client: RuntimeStoreClient) -> None:
        self._client = client

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self._client, name)

        async def call(*args: Any, **kwargs: Any) -> Any:
            return await asyncio.to_thread(method, *args, **kwargs)

        return call


def threaded(client: RuntimeStoreClient) -> AsyncRuntimeStoreClient:
    """`client` with methods to await."""
    return cast("AsyncRuntimeStoreClient", _Threaded(client))


@contextlib.asynccontextmanager
async def either_client(kind: str, address: str, **settings: Any) -> AsyncIterator[AsyncRuntimeStoreClient]:
    """The client for asyncio, or with `"sync"` the one for threads, with methods to await."""
    if kind == "aio":
        async with AsyncRuntimeStoreClient(address, **settings) as store:
            yield store
    else:
        with RuntimeStoreClient(address, **settings) as store:
            yield threaded(store)
