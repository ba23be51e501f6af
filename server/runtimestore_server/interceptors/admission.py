"""Writes beyond the bounds are refused, or wait, before their messages are received, so that they fill no memory."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio

from runtimestore_server.interceptors.errors import refuse

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Collection

    from runtimestore.errors import Overloaded
    from runtimestore_server.interceptors.receiving import Receiving

    Context = grpc.aio.ServicerContext[Any, Any]
    Continuation = Callable[[grpc.HandlerCallDetails], Awaitable[Any]]


class Admission(grpc.aio.ServerInterceptor):
    """Turns writes away at the door for as long as no more may wait behind it, and lets few in at once.

    `overload` is asked with the number of writes that wait at the door.
    """

    def __init__(
        self, writes: Collection[str], overload: Callable[[int], Overloaded | None], receiving: Receiving
    ) -> None:
        self._writes = frozenset(writes)
        self._overload = overload
        self._receiving = receiving
        self._counted: dict[str, tuple[Any, Any]] = {}

    async def intercept_service(self, continuation: Continuation, handler_call_details: grpc.HandlerCallDetails) -> Any:
        """The handler of this call, or one that refuses it."""
        method = handler_call_details.method
        if method not in self._writes:
            return await continuation(handler_call_details)
        refusal = self._overload(self._receiving.waiting)
        if refusal is None:
            waited = await self._receiving.begin()
            if not waited or (refusal := self._overload(0)) is None:
                return self._counting(method, await continuation(handler_call_details))
            self._receiving.end()
        return _door(method, refusal)

    def _counting(self, method: str, handler: Any) -> Any:
        """The handler, and the end of receiving as soon as gRPC gives the message to be read; made once a method."""
        known = self._counted.get(method)
        if known is not None and known[0] is handler:
            return known[1]
        read = handler.request_deserializer

        def received(raw: bytes) -> Any:
            self._receiving.end()
            return read(raw)

        counting = grpc.unary_unary_rpc_method_handler(
            handler.unary_unary, request_deserializer=received, response_serializer=handler.response_serializer
        )
        self._counted[method] = (handler, counting)
        return counting


def _door(method: str, refusal: Overloaded) -> Any:
    async def turn_away(requests: AsyncIterator[Any], context: Context) -> None:
        del requests  # nothing of it is received; what is under way is dropped when the call ends
        await refuse(method, refusal, context, time.perf_counter())

    # The method is unary for its callers. A handler of a stream is what gRPC calls before it receives anything.
    return grpc.stream_unary_rpc_method_handler(turn_away)
