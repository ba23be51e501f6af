"""Writes beyond the bound are refused before their messages are received, so that nothing of them fills the memory."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio

from runtimestore_server.interceptors.errors import refuse

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Collection

    from runtimestore.errors import Overloaded

    Context = grpc.aio.ServicerContext[Any, Any]
    Continuation = Callable[[grpc.HandlerCallDetails], Awaitable[Any]]


class Admission(grpc.aio.ServerInterceptor):
    """Turns writes away at the door for as long as no more may wait behind it."""

    def __init__(self, writes: Collection[str], overload: Callable[[], Overloaded | None]) -> None:
        self._writes = frozenset(writes)
        self._overload = overload

    async def intercept_service(self, continuation: Continuation, handler_call_details: grpc.HandlerCallDetails) -> Any:
        """The handler of this call, or one that refuses it."""
        method = handler_call_details.method
        refusal = self._overload() if method in self._writes else None
        return await continuation(handler_call_details) if refusal is None else _door(method, refusal)


def _door(method: str, refusal: Overloaded) -> Any:
    async def turn_away(requests: AsyncIterator[Any], context: Context) -> None:
        del requests  # nothing of it is received; what is under way is dropped when the call ends
        await refuse(method, refusal, context, time.perf_counter())

    # The method is unary for its callers. A handler of a stream is what gRPC calls before it receives anything.
    return grpc.stream_unary_rpc_method_handler(turn_away)
