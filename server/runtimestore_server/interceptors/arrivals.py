"""Which calls have arrived and are not over, so that a server that ends knows what to wait for."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio

from runtimestore.errors import StoreUnavailable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    Continuation = Callable[[grpc.HandlerCallDetails], Awaitable[Any]]

LOADS = ("Load", "AuthAuthorityKey", "GetServerInfo")
"""How the names of the methods begin that only read."""

COUNTED = "/runtimestore."
"""Calls of our own services. Whoever only watches health, or asks for the services, must not hold an end up."""


class Arrivals(grpc.aio.ServerInterceptor):
    """Counts calls from the moment in which they arrive, uploads in progress included, to their last byte.

    Once closed, what arrives anew is to be refused as STORE_UNAVAILABLE. gRPC's own stop would cancel it, and a
    cancelled call tells its caller nothing.
    """

    def __init__(self) -> None:
        self._in_flight = 0
        self._closed = False

    @property
    def in_flight(self) -> int:
        """How many calls have arrived and are not over."""
        return self._in_flight

    def close(self) -> None:
        """Refuse what arrives from now on; what has arrived goes on."""
        self._closed = True

    def refusal(self, path: str) -> StoreUnavailable | None:
        """Why a call that arrives now is refused, whatever its message; None if it is not."""
        return unavailable(path) if self._closed and path.startswith(COUNTED) else None

    async def intercept_service(self, continuation: Continuation, handler_call_details: grpc.HandlerCallDetails) -> Any:
        """The handler of this call, which is counted."""
        handler = await continuation(handler_call_details)
        if handler is None or not handler_call_details.method.startswith(COUNTED):
            return handler
        # The task that is running here is the call's own: it receives the message, runs the handler and sends.
        call = asyncio.current_task()
        if call is not None:
            self._in_flight += 1
            call.add_done_callback(self._ended)
        return handler

    def _ended(self, _call: asyncio.Task[Any]) -> None:
        self._in_flight -= 1


def unavailable(path: str) -> StoreUnavailable:
    """The refusal of a server that ends, for the method with this path."""
    writes = path.startswith(COUNTED) and not path.rpartition("/")[2].startswith(LOADS)
    store_error = "write_failed" if writes else "read_failed"
    return StoreUnavailable(
        "the server is shutting down; nothing was done, try again", metadata={"store_error": store_error}
    )
