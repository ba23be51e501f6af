"""Calls beyond the bounds are refused, or wait, before their messages are received, so that they fill no memory."""

from __future__ import annotations

import asyncio
import inspect
import time
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, NamedTuple

import grpc
import grpc.aio

from runtimestore.errors import FieldViolation, InvalidRequest, RuntimeStoreError
from runtimestore_server.interceptors.arrivals import unavailable
from runtimestore_server.interceptors.errors import refuse
from runtimestore_server.interceptors.receiving import Abandoned

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable

    from runtimestore.errors import Overloaded
    from runtimestore_server.interceptors.receiving import Receiving

    Context = grpc.aio.ServicerContext[Any, Any]
    Continuation = Callable[[grpc.HandlerCallDetails], Awaitable[Any]]


GIVEN_UP_SECONDS = 0.1
"""A call that its caller gives up looks, for a moment before it is cancelled, like one that ends without a message."""


class Door(NamedTuple):
    """Where calls of one kind come in."""

    receiving: Receiving
    overload: Callable[[int], Overloaded | None]
    """Why no call can be taken in now when so many wait at the door; None if one can."""


class Admission(grpc.aio.ServerInterceptor):
    """Turns calls away at their door for as long as no more may wait behind it, and lets few in at once.

    To gRPC every method is one whose callers stream: then it asks for a handler before it receives anything, and leaves
    receiving to that. To the callers nothing changes.

    Args:
        door_of: tells the door of a method.
        refusal: tells why a call of a method is refused on its arrival, without a message; None if it is not.
    """

    def __init__(self, door_of: Callable[[str], Door], refusal: Callable[[str], RuntimeStoreError | None]) -> None:
        self._door_of = door_of
        self._refusal = refusal
        self._admitting: dict[str, tuple[Any, Any]] = {}

    async def intercept_service(self, continuation: Continuation, handler_call_details: grpc.HandlerCallDetails) -> Any:
        """The handler of this call, behind its door; made once a method."""
        handler = await continuation(handler_call_details)
        if handler is None:
            return handler  # unknown method: gRPC itself answers UNIMPLEMENTED
        method = handler_call_details.method
        if (refusal := self._refusal(method)) is not None:
            return _refusing(method, handler, refusal)
        known = self._admitting.get(method)
        if known is not None and known[0] is handler:
            return known[1]
        admitting = _admitting(method, handler, self._door_of(method))
        self._admitting[method] = (handler, admitting)
        return admitting


def _refusing(method: str, handler: Any, refusal: RuntimeStoreError) -> Any:
    async def refused(_requests: AsyncIterator[Any], context: Context) -> None:
        await refuse(method, refusal, context, time.perf_counter())

    # Answers of either kind are none here, and so need no serialiser.
    one_answer = handler.unary_unary is not None
    return (grpc.stream_unary_rpc_method_handler if one_answer else grpc.stream_stream_rpc_method_handler)(refused)


def _admitting(method: str, handler: Any, door: Door) -> Any:
    codecs = {
        "request_deserializer": handler.request_deserializer,
        "response_serializer": handler.response_serializer,
    }
    if handler.unary_unary is not None:

        async def unary(_requests: AsyncIterator[Any], context: Context) -> Any:
            # No name here may keep the request: it is megabytes, and whoever handles it lets go of it early.
            return await handler.unary_unary(await _message(method, door, context), context)

        return grpc.stream_unary_rpc_method_handler(unary, **codecs)
    if handler.unary_stream is not None:

        async def answers(_requests: AsyncIterator[Any], context: Context) -> None:
            await _send(handler.unary_stream(await _message(method, door, context), context), context)

        return grpc.stream_stream_rpc_method_handler(answers, **codecs)

    async def exchange(_requests: AsyncIterator[Any], context: Context) -> None:
        # Any of its messages may be large, and when the next one comes nobody knows: it has a place to its end.
        async def whole() -> None:
            async with aclosing(_messages(context)) as messages:
                await _send(handler.stream_stream(messages, context), context)

        await _in_turn(method, door, context, whole)

    return grpc.stream_stream_rpc_method_handler(exchange, **codecs)


async def _messages(context: Context) -> AsyncGenerator[Any]:
    """What gRPC's own iterator gives; that one keeps its last message until the garbage collector comes by."""
    while (message := await context.read()) is not grpc.aio.EOF:
        yield message


async def _message(method: str, door: Door, context: Context) -> Any:
    """The message of a call that has one."""

    async def read() -> Any:
        message = await context.read()
        if message is grpc.aio.EOF:
            await asyncio.sleep(GIVEN_UP_SECONDS)
            raise InvalidRequest(
                "the call ended without a message; send one message of this method",
                metadata={"field": "request"},
                violations=[FieldViolation("request", "must be one message")],
            )
        return message

    return await _in_turn(method, door, context, read)


async def _in_turn(method: str, door: Door, context: Context, receive: Callable[[], Awaitable[Any]]) -> Any:
    """What `receive` returns, when the call's turn has come; or its end with a refusal."""
    receiving, overload = door
    call = _this_call()
    started = time.perf_counter()
    refusal: Exception | None
    try:
        # Those who wait at the door are nothing to a connection that need not wait with them.
        connection = context.peer()
        if (refusal := overload(receiving.waiting if receiving.must_wait(connection) else 0)) is not None:
            raise refusal
        # What filled up meanwhile may have come in another way than through the door.
        if await receiving.begin(call, connection) and (refusal := overload(0)) is not None:
            raise refusal
        return await receive()
    except asyncio.CancelledError:
        if (refusal := receiving.refusal(call)) is None:
            raise
    except (RuntimeStoreError, Abandoned) as error:
        refusal = error
    finally:
        receiving.end(call)
    await refuse(method, unavailable(method) if isinstance(refusal, Abandoned) else refusal, context, started)
    raise AssertionError("unreachable: abort raises")


def _this_call() -> asyncio.Task[Any]:
    """The task that receives the message of a call, runs its handler and sends its answer."""
    if (call := asyncio.current_task()) is None:
        raise RuntimeError("messages are received in the tasks of their calls")
    return call


async def _send(answers: Any, context: Context) -> None:
    """Send a stream of answers, or let it send by itself, as the health service's Watch does."""
    if not inspect.isasyncgen(answers):
        await answers
        return
    async with aclosing(answers):  # a call that ends early must end what it reads from
        async for answer in answers:
            await context.write(answer)
