"""Exceptions become statuses here and nowhere else, from their class.

Unknown ones become INTERNAL with one fixed sentence; the log has the rest.
"""

from __future__ import annotations

import asyncio
import inspect
import time
from typing import TYPE_CHECKING, Any

import grpc
import structlog
from google.protobuf import any_pb2, duration_pb2
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

from runtimestore.errors import DOMAIN, FieldViolation, InternalError, InvalidRequest, RuntimeStoreError
from runtimestore_server.logs import UNFORESEEN, frames

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    Context = grpc.aio.ServicerContext[Any, Any]
    Continuation = Callable[[grpc.HandlerCallDetails], Awaitable[Any]]

_log = structlog.get_logger(__name__)

STATUS_DETAILS_KEY = "grpc-status-details-bin"
METADATA_VALUE_LIMIT = 1024
"""In bytes. Trailing metadata has to fit into 8 KiB by gRPC's default; no single value may fill it."""


class ErrorInterceptor(grpc.aio.ServerInterceptor):
    """Turns what a handler raises into a status with ErrorInfo, BadRequest and RetryInfo."""

    def __init__(self) -> None:
        self._wrapped: dict[str, tuple[Any, Any]] = {}

    async def intercept_service(self, continuation: Continuation, handler_call_details: grpc.HandlerCallDetails) -> Any:
        """The handler of this call, wrapped; wrapped once per method, not once per call."""
        handler = await continuation(handler_call_details)
        if handler is None:
            return handler  # unknown method: gRPC itself answers UNIMPLEMENTED
        method = handler_call_details.method
        known = self._wrapped.get(method)
        # Generated code makes one handler per method and server, so comparing the function is enough.
        behaviour = handler.unary_unary or handler.unary_stream or handler.stream_stream
        if known is not None and known[0] == behaviour:
            return known[1]
        wrapped = _wrap(method, handler)
        self._wrapped[method] = (behaviour, wrapped)
        return wrapped


class _Malformed:
    """Stands for a request that is no protobuf message of its method."""


_MALFORMED = _Malformed()


def _lenient(deserializer: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    """A deserializer that lets the handler refuse what it cannot read: gRPC itself would answer INTERNAL."""

    def deserialize(raw: bytes) -> Any:
        try:
            return deserializer(raw)
        except DecodeError:
            return _MALFORMED

    return deserialize


def _malformed() -> InvalidRequest:
    return InvalidRequest(
        "the request is not a valid protobuf message of this method: a field has another wire type, a string is not "
        "UTF-8, or bytes are missing; generate the client from the same proto files",
        metadata={"field": "request"},
        violations=[FieldViolation("request", "must be a valid protobuf message of this method")],
    )


def _wrap(method: str, handler: Any) -> Any:
    if handler.unary_unary is not None:
        unary = handler.unary_unary

        async def unary_unary(request: Any, context: Context) -> Any:
            started = time.perf_counter()
            try:
                if request is _MALFORMED:
                    raise _malformed()  # noqa: TRY301  (so that there is one way out of here)
                answer = await unary(request, context)
            except Exception as error:
                request = None  # see there why nothing of it must stay in this frame
                await refuse(method, error, context, started)
                raise AssertionError("unreachable: abort raises") from error
            _log.debug("served", method=method, seconds=round(time.perf_counter() - started, 6))
            return answer

        return grpc.unary_unary_rpc_method_handler(
            unary_unary,
            request_deserializer=_lenient(handler.request_deserializer),
            response_serializer=handler.response_serializer,
        )
    if inspect.isasyncgenfunction(handler.unary_stream):
        stream = handler.unary_stream

        async def unary_stream(request: Any, context: Context) -> AsyncIterator[Any]:
            started = time.perf_counter()
            try:
                if request is _MALFORMED:
                    raise _malformed()  # noqa: TRY301  (so that there is one way out of here)
                async for message in stream(request, context):
                    yield message
            except Exception as error:  # noqa: BLE001  (this is the one place where all of them end)
                await refuse(method, error, context, started)
            _log.debug("served", method=method, seconds=round(time.perf_counter() - started, 6))

        return grpc.unary_stream_rpc_method_handler(
            unary_stream,
            request_deserializer=_lenient(handler.request_deserializer),
            response_serializer=handler.response_serializer,
        )
    return _wrap_writing_stream(method, handler) if handler.unary_stream else _wrap_stream_stream(method, handler)


def _wrap_writing_stream(method: str, handler: Any) -> Any:
    """A stream that is no generator writes by itself, as the health service's Watch does."""
    write_all = handler.unary_stream

    async def unary_stream(request: Any, context: Context) -> None:
        started = time.perf_counter()
        try:
            if request is _MALFORMED:
                raise _malformed()  # noqa: TRY301  (so that there is one way out of here)
            await write_all(request, context)
        except Exception as error:  # noqa: BLE001  (this is the one place where all of them end)
            await refuse(method, error, context, started)

    return grpc.unary_stream_rpc_method_handler(
        unary_stream,
        request_deserializer=_lenient(handler.request_deserializer),
        response_serializer=handler.response_serializer,
    )


def _wrap_stream_stream(method: str, handler: Any) -> Any:
    """A stream of requests, such as server reflection's."""
    answers = handler.stream_stream

    async def checked(requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
        async for request in requests:
            if request is _MALFORMED:
                raise _malformed()
            yield request

    async def stream_stream(requests: AsyncIterator[Any], context: Context) -> AsyncIterator[Any]:
        started = time.perf_counter()
        try:
            async for answer in answers(checked(requests), context):
                yield answer
        except Exception as error:  # noqa: BLE001  (this is the one place where all of them end)
            await refuse(method, error, context, started)

    return grpc.stream_stream_rpc_method_handler(
        stream_stream,
        request_deserializer=_lenient(handler.request_deserializer),
        response_serializer=handler.response_serializer,
    )


async def refuse(method: str, error: Exception, context: Context, started: float) -> None:
    """End the call, which began at `started`, with the status of `error`; always raises."""
    if isinstance(error, (grpc.aio.AbortError, asyncio.CancelledError)):
        raise error
    if isinstance(error, RuntimeStoreError):
        refusal = error
        log = _log.warning if isinstance(error, InternalError) else _log.info
        log("refused", method=method, reason=refusal.reason, seconds=round(time.perf_counter() - started, 6))
    else:
        # The frames and the class, but not the message: it may quote what a caller sent, and that may be a secret.
        _log.error("call failed", method=method, error=type(error).__name__, traceback=frames(error))
        refusal = InternalError(UNFORESEEN)
    status = status_of(refusal)
    # A caught error and its frames hold each other, and with them the request: megabytes, until the garbage collector
    # comes by, which counts objects and not bytes.
    error.__traceback__ = error.__cause__ = error.__context__ = None
    await context.abort(refusal.code, status.message, ((STATUS_DETAILS_KEY, status.SerializeToString()),))


def status_of(refusal: RuntimeStoreError) -> status_pb2.Status:
    """The `google.rpc.Status` of a refusal, with its details."""
    metadata = {key: _told(value) for key, value in refusal.metadata.items()}
    info = error_details_pb2.ErrorInfo(
        reason=refusal.reason, domain=DOMAIN, metadata=metadata | {"store_error": _told(refusal.store_error)}
    )
    details: list[Any] = [info]
    if refusal.violations:
        details.append(
            error_details_pb2.BadRequest(
                field_violations=[
                    error_details_pb2.BadRequest.FieldViolation(field=field, description=description)
                    for field, description in refusal.violations
                ]
            )
        )
    if refusal.retry_after_seconds is not None:
        delay = duration_pb2.Duration()
        delay.FromMilliseconds(int(refusal.retry_after_seconds * 1000))
        details.append(error_details_pb2.RetryInfo(retry_delay=delay))
    status = status_pb2.Status(code=refusal.code.value[0], message=_told(refusal.message))
    for detail in details:
        packed = any_pb2.Any()
        packed.Pack(detail)
        status.details.append(packed)
    return status


def _told(value: object) -> str:
    """What goes onto the wire of a part of a refusal: it may come from a damaged row, and must not end the call."""
    text = str(value).encode(errors="backslashreplace")
    return text[:METADATA_VALUE_LIMIT].decode(errors="ignore")
