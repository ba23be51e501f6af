"""Registers the methods of services with gRPC's server, each in the wrapper of its calls; all others are unknown."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio

from runtimestore.errors import Unauthenticated
from runtimestore_server.access.rules import Caller
from runtimestore_server.rpc.admission import PROMPT
from runtimestore_server.rpc.sending import this_call
from runtimestore_server.rpc.status import (
    UNKNOWN_METHOD,
    id_of_call,
    log_unknown,
    message_and_details,
    name_caller,
    refusal_of,
)
from runtimestore_server.rpc.workarounds.tracebacks import let_go_of_frames

if TYPE_CHECKING:
    from collections.abc import Mapping

    from runtimestore_server.access.authorization import Authorization
    from runtimestore_server.rpc.call import Calls
    from runtimestore_server.telemetry.counts import CallCounts


class Registrar(grpc.GenericRpcHandler):
    """What generated code registers the methods of its service with, instead of the server itself; finds them by path.

    Of methods that it knows by name, gRPC waits for the next call of each in a task, and after every call it begins to
    wait for all those tasks anew: with two dozen methods that costs a small write more than its checks.
    """

    def __init__(self, calls: Calls, server: grpc.aio.Server) -> None:
        self._calls = calls
        self._server = server
        self._handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {}
        server.add_generic_rpc_handlers((self,))

    def add_generic_rpc_handlers(self, _handlers: object) -> None:
        """Leave out what generated code registers a second time, for runtimes older than the registration by name."""

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, Any]) -> None:
        """Register the methods of a service."""
        wrapped = {name: self._calls.wrap(f"/{service}/{name}", handler) for name, handler in handlers.items()}
        if f"/{service}/".startswith(PROMPT):  # else a probe would wait behind all calls that are not begun
            self._server.add_registered_method_handlers(service, wrapped)
        else:
            self._handlers |= {f"/{service}/{name}": handler for name, handler in wrapped.items()}

    def service(self, handler_call_details: Any) -> grpc.RpcMethodHandler[Any, Any] | None:
        """Find the handler of a method that is registered."""
        return self._handlers.get(handler_call_details.method)


class UnknownMethods(grpc.GenericRpcHandler):
    """Answers the calls of all methods that nobody registered, which gRPC would do without a word to anybody else."""

    def __init__(self, counts: CallCounts, authorization: Authorization | None = None) -> None:
        self._authorization = None if authorization is None else authorization.of(UNKNOWN_METHOD)
        self._lines = counts.lines
        self._counted = counts.of(UNKNOWN_METHOD)
        # As one whose callers stream: nothing of a message is received.
        self._handler: grpc.RpcMethodHandler[Any, Any] = grpc.stream_unary_rpc_method_handler(self._answer)

    def service(self, _handler_call_details: object) -> grpc.RpcMethodHandler[Any, Any]:
        """Return the same for each of them: what a caller calls a method decides nothing."""
        return self._handler

    async def _answer(self, _requests: object, context: Any) -> None:
        started = time.perf_counter()
        if self._authorization is not None:
            try:
                caller = self._authorization.caller(context)
            except Unauthenticated as error:  # strangers are told that, whatever they ask
                await self._refuse(error, context, started)
            if isinstance(caller, Caller):
                name_caller(caller.principal.name)
            self._authorization.strangers.add(
                this_call(), context.peer()
            )  # of a known caller too: nothing else bounds it
        log_unknown(context, started=started, lines=self._lines)
        self._counted.ended_by("UNIMPLEMENTED", started)
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, "Method not found!")  # in gRPC's own words

    async def _refuse(self, error: Unauthenticated, context: Any, started: float) -> None:
        """End the call, by raising gRPC's own error."""
        call_id = id_of_call()
        refusal_of(error, context, method=UNKNOWN_METHOD, started=started, call_id=call_id, lines=self._lines)
        self._counted.refused(error, started)
        let_go_of_frames(error)
        await context.abort(error.code, *message_and_details(error, call_id))
