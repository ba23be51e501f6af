"""A gRPC server that answers by a script, and the statuses that it refuses with: what a client meets on the wire."""

from __future__ import annotations

import asyncio
from collections import defaultdict, deque
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio
from google.protobuf import any_pb2, duration_pb2, message_factory
from google.rpc import error_details_pb2, status_pb2

from runtimestore import AsyncRuntimeStoreClient, RetryPolicy
from runtimestore.v1 import runtime_store_admin_pb2, runtime_store_pb2

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence

    from google.protobuf.descriptor import MethodDescriptor
    from google.protobuf.message import Message

SERVICES = [
    *runtime_store_pb2.DESCRIPTOR.services_by_name.values(),
    *runtime_store_admin_pb2.DESCRIPTOR.services_by_name.values(),
]
METHODS: dict[str, MethodDescriptor] = {method.name: method for service in SERVICES for method in service.methods}
DETAILS_KEY = "grpc-status-details-bin"
AT_ONCE = RetryPolicy(initial_backoff_seconds=0.0, max_backoff_seconds=0.0)


@dataclass(frozen=True)
class Failure:
    """A status that ends a call."""

    code: grpc.StatusCode
    message: str = "scripted"
    trailing_metadata: tuple[tuple[str, str | bytes], ...] = ()


GONE = Failure(grpc.StatusCode.UNAVAILABLE, "connection reset")
"""How gRPC tells of a server that is gone."""


def refusal(
    reason: str,
    code: grpc.StatusCode,
    *,
    metadata: Mapping[str, str] | None = None,
    violations: Sequence[tuple[str, str]] = (),
    retry_after_seconds: float | None = None,
    domain: str = "runtimestore.v1",
    message: str = "scripted",
) -> Failure:
    """A refusal as the server sends it, put together from the public protos and not by the server's own code."""
    details: list[Message] = [error_details_pb2.ErrorInfo(reason=reason, domain=domain, metadata=metadata)]
    if violations:
        fields = [
            error_details_pb2.BadRequest.FieldViolation(field=path, description=cure) for path, cure in violations
        ]
        details.append(error_details_pb2.BadRequest(field_violations=fields))
    if retry_after_seconds is not None:
        delay = duration_pb2.Duration()
        delay.FromMilliseconds(round(retry_after_seconds * 1000))
        details.append(error_details_pb2.RetryInfo(retry_delay=delay))
    status = status_pb2.Status(code=code.value[0], message=message)
    for detail in details:
        packed = any_pb2.Any()
        packed.Pack(detail)
        status.details.append(packed)
    return Failure(code, message, ((DETAILS_KEY, status.SerializeToString()),))


@dataclass
class Script:
    """What each method answers next, and what it was asked.

    A step is a message, a `Failure`, a function of (request, context) that returns either, or, for a stream, a list
    of them. A method without a step left answers with its empty message, or with an empty stream.
    """

    steps: defaultdict[str, deque[Any]] = field(default_factory=lambda: defaultdict(deque))
    requests: defaultdict[str, list[Any]] = field(default_factory=lambda: defaultdict(list))

    def answer(self, method: str, *steps: object) -> None:
        """Append the next steps of a method."""
        self.steps[method].extend(steps)

    async def next(self, method: str, request: object, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
        """The next step of a method, once its functions have run."""
        self.requests[method].append(request)
        step = self.steps[method].popleft() if self.steps[method] else None
        return await step(request, context) if callable(step) else step


@asynccontextmanager
async def scripted_store(script: Script, listen: str = "127.0.0.1:0") -> AsyncIterator[str]:
    """A server on a real socket that follows the script; yields its address and is gone afterwards."""
    server = grpc.aio.server(
        options=[
            ("grpc.max_receive_message_length", -1),
            ("grpc.max_send_message_length", -1),
            ("grpc.so_reuseport", 0),
        ]
    )
    for service in SERVICES:
        handlers = {method.name: _handler(script, method) for method in service.methods}
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service.full_name, handlers),))
    port = server.add_insecure_port(listen)
    await server.start()
    try:
        yield listen if listen.startswith("unix:") else f"127.0.0.1:{port}"
    finally:
        await server.stop(None)


def running(scenario: Callable[[Script, AsyncRuntimeStoreClient], Awaitable[None]], **settings: Any) -> Script:
    """Run a scenario with a script, and a client of the server that follows it."""
    script = Script()
    settings.setdefault("retry", AT_ONCE)
    settings.setdefault("timeout_seconds", 10.0)

    async def run() -> None:
        async with (
            scripted_store(script) as address,
            AsyncRuntimeStoreClient(address, **settings) as store,
        ):
            await scenario(script, store)

    asyncio.run(run())
    return script


def _handler(script: Script, method: MethodDescriptor) -> grpc.RpcMethodHandler[Any, Any]:
    request_class = message_factory.GetMessageClass(method.input_type)
    answer_class = message_factory.GetMessageClass(method.output_type)

    async def unary(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
        step = await script.next(method.name, request, context)
        if isinstance(step, Failure):
            await context.abort(step.code, step.message, step.trailing_metadata)
        return answer_class() if step is None else step

    async def stream(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> AsyncIterator[Any]:
        for part in await script.next(method.name, request, context) or ():
            if isinstance(part, Failure):
                await context.abort(part.code, part.message, part.trailing_metadata)
            yield await part(request, context) if callable(part) else part

    make: Callable[..., grpc.RpcMethodHandler[Any, Any]] = (
        grpc.unary_stream_rpc_method_handler if method.server_streaming else grpc.unary_unary_rpc_method_handler
    )
    return make(
        stream if method.server_streaming else unary,
        request_deserializer=request_class.FromString,
        response_serializer=answer_class.SerializeToString,
    )
