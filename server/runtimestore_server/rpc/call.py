"""The one wrapper of a call: it counts, asks who calls, admits, reads, decodes, handles, and answers or refuses.

Every method of every service is wrapped once, as it is registered. To gRPC each is one whose callers stream: then gRPC
receives nothing before the wrapper asks for it. To the callers nothing changes.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from contextlib import aclosing, nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio
from google.protobuf.message import DecodeError

from runtimestore_server.access.failures import NotLetIn
from runtimestore_server.access.peers import host_of
from runtimestore_server.access.rules import Caller
from runtimestore_server.rpc.admission import OURS, WRITES, unavailable
from runtimestore_server.rpc.call_ends import code_of_end
from runtimestore_server.rpc.received import note_received
from runtimestore_server.rpc.sending import as_sent, this_call
from runtimestore_server.rpc.small_messages import MOST_BYTES, too_large
from runtimestore_server.rpc.status import (
    end_of_call,
    id_of_call,
    log_ended,
    log_served,
    malformed,
    message_and_details,
    missing,
    name_caller,
    name_subject,
    name_trace,
    refusal_of,
)
from runtimestore_server.rpc.undecoded_documents import DELTAS, decoded
from runtimestore_server.rpc.upload_slots import NotReceived
from runtimestore_server.rpc.watches import WATCH
from runtimestore_server.rpc.workarounds.given_up_reads import Told, tell
from runtimestore_server.rpc.workarounds.request_messages import GIVEN_UP_SECONDS, messages
from runtimestore_server.rpc.workarounds.tracebacks import let_go_of_frames

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from contextlib import AbstractContextManager

    from runtimestore.errors import RuntimeStoreError
    from runtimestore_server.access.authorization import Authorization
    from runtimestore_server.rpc.admission import Limiter, Limiters
    from runtimestore_server.rpc.sending import Sending
    from runtimestore_server.telemetry.counts import CallCounts
    from runtimestore_server.telemetry.spans import Traces

    Context = grpc.aio.ServicerContext[Any, Any]
    Task = asyncio.Task[Any]
    Handler = grpc.RpcMethodHandler[Any, Any]
    Whoever = Caller | NotLetIn | None


class Calls:
    """The calls of a server, wrapped, and counted from the moment in which they arrive to their last byte.

    Without an `authorization` whoever calls may call everything.
    """

    def __init__(
        self,
        limiters: Limiters,
        sending: Sending,
        authorization: Authorization | None = None,
        *,
        counts: CallCounts,
        traces: Traces | None = None,
    ) -> None:
        self.counts = counts
        self._traces = traces
        self._limiters = limiters
        self._sending = sending
        self._authorization = authorization
        self.in_flight = 0
        """How many calls of our own services have arrived and are not over: who only watches health holds no end up."""
        self._draining = False

    def drain(self) -> None:
        """Refuse what arrives from now on as STORE_UNAVAILABLE; what has arrived goes on.

        gRPC's own stop would cancel it, and a cancelled call tells its caller nothing.
        """
        self._draining = True

    def wrap(self, path: str, handler: Any) -> Handler:
        """Make the handler of the method with this path as gRPC is to call it: once a method, not once a call."""
        method = _Method(self, path, handler, self._limiters, self._sending, self._authorization)
        run: Callable[[AsyncIterator[bytes], Context], Awaitable[Any]] = method.run
        if self._traces is not None and path.startswith(OURS):  # else a call does not even ask whether it is traced
            run = method.traced_by(self._traces)
        if handler.unary_unary is not None:
            return grpc.stream_unary_rpc_method_handler(run, response_serializer=handler.response_serializer)
        return grpc.stream_stream_rpc_method_handler(run, response_serializer=as_sent(handler.response_serializer))

    def arrived(self, call: Task) -> None:
        """Count a call until it is over.

        Raises:
            NotReceived: the server ends and takes none any more; the call counts until it is told so.
        """
        self.in_flight += 1
        call.add_done_callback(self._over)
        if self._draining:
            raise NotReceived

    def _over(self, _call: Task) -> None:
        self.in_flight -= 1


class _Method:
    """One method of a service, and the way of its calls. No name here may keep a request, which may be megabytes."""

    def __init__(
        self,
        calls: Calls,
        path: str,
        handler: Any,
        limiters: Limiters,
        sending: Sending,
        authorization: Authorization | None,
    ) -> None:
        self._calls = calls
        self._counted = calls.counts.of(path)
        self._path = path
        self._counts = path.startswith(OURS)
        self._handler = handler
        self._limiter = limiters.of(path)
        self._strangers = limiters.strangers
        self._most_bytes = None if path in WRITES else MOST_BYTES
        self._delta = DELTAS.get(path)
        self._watches = limiters.watches if path == WATCH else None
        self._late = limiters.late_of(path)
        self._told: dict[Task, Told] = {}
        self._sending = sending
        self._authorization = None if authorization is None else authorization.of(path)
        self._respond = self._one if handler.unary_unary else self._many if handler.unary_stream else self._exchange

    async def run(self, _requests: AsyncIterator[bytes], context: Context) -> Any:
        """Answer one call, or refuse it. What is to be measured of every call begins and ends here."""
        started = time.perf_counter()
        call, limiter, connection = this_call(), self._limiter, context.peer()
        caller: Whoever = None
        try:
            if self._counts:
                self._calls.arrived(call)
            if self._authorization is not None:  # before anything of the message is received
                caller = self._authorization.caller(context)
                if isinstance(caller, NotLetIn):
                    limiter, connection = self._strangers, host_of(connection)
                else:
                    name_caller(caller.principal.name)
                    self._authorization.check_access(caller)
            try:
                if not limiter.admit(call, connection):
                    await limiter.wait(call, connection)
                answer = await self._respond(call, context, limiter, caller)
            except (asyncio.CancelledError, grpc.aio.BaseError):
                if (reason := limiter.slots.refusal(call) or _ended(caller)) is None:
                    raise
                raise reason from reason.__cause__  # what the log tells of it, and not how it was ended
            finally:
                limiter.slots.end(call)
        except Exception as error:
            if isinstance(error, grpc.aio.BaseError) and not isinstance(error, grpc.aio.UsageError):
                self._ended_unanswered(context, error, started)
                raise  # the call has its status already, or nobody is there to be told
            await self._refuse(error, context, started)
        except asyncio.CancelledError as error:
            self._ended_unanswered(context, error, started)
            raise
        self._counted.answered(started)
        log_served(context, method=self._path, started=started, at_info=self._calls.counts.log_served)
        return answer

    def traced_by(self, traces: Traces) -> Callable[[AsyncIterator[bytes], Context], Awaitable[Any]]:
        """Return what answers one call as `run` does, within a span."""

        async def run(requests: AsyncIterator[bytes], context: Context) -> Any:
            started = time.perf_counter()
            span = traces.call(self._path, context.invocation_metadata())
            name_trace(traces.id_of(span))
            try:
                answer = await self.run(requests, context)
            except BaseException as error:
                traces.end(span, end_of_call(context, started, error))
                raise
            traces.end(span, end_of_call(context, started))
            return answer

        return run

    async def _one(self, call: Task, context: Context, limiter: Limiter, caller: Whoever) -> Any:
        return await self._handler.unary_unary(await self._receive(call, context, limiter, caller), context)

    async def _many(self, call: Task, context: Context, limiter: Limiter, caller: Whoever) -> None:
        request = await self._receive(call, context, limiter, caller)
        with self._counted_watch(caller) as pass_to_strangers, self._while_let_in(call, caller, pass_to_strangers):
            answers = self._handler.unary_stream(request, context)
            del request
            await self._sending.stream(answers, context)

    async def _exchange(self, call: Task, context: Context, limiter: Limiter, caller: Whoever) -> None:
        # Any of its messages may be large, and when the next one comes nobody knows: it has a slot to its end.
        limiter.slots.receiving(call, partial(self._tell, call, context))
        with self._while_let_in(call, caller):
            async with aclosing(messages(context, lambda message: self._read(message, caller))) as requests:
                await self._sending.stream(self._handler.stream_stream(requests, context), context)

    def _while_let_in(
        self, call: Task, caller: Whoever, pass_to_strangers: Callable[[], None] | None = None
    ) -> AbstractContextManager[Any]:
        """Return what ends a stream when its caller is not let in any more, or has a watch be one of strangers'."""
        if self._authorization is None or not isinstance(caller, Caller):
            return nullcontext()
        return self._authorization.while_let_in(call, caller, pass_to_strangers)

    def _counted_watch(self, caller: Whoever) -> AbstractContextManager[Callable[[], None] | None]:
        """Return what bounds the streams that watch health."""
        return nullcontext() if self._watches is None else self._watches.open(stranger=isinstance(caller, NotLetIn))

    async def _receive(self, call: Task, context: Context, limiter: Limiter, caller: Whoever) -> Any:
        """Return the request of a call that has one; its slot is free then."""
        slots, late = limiter.slots, self._late
        slots.receiving(call, partial(self._tell, call, context))
        if late is not None:
            late.begin(call, slots)
        try:
            message = await context.read()
        finally:
            if late is not None:
                late.end(call)
        if (given_up := slots.refusal(call)) is not None:  # it came in the moment in which its caller was told so
            raise given_up
        if message is grpc.aio.EOF:
            slots.end(call)  # nothing comes any more, and others may receive meanwhile
            await asyncio.sleep(GIVEN_UP_SECONDS)
            raise missing()
        request = self._read(message, caller)
        slots.end(call)
        return request

    def _read(self, message: bytes, caller: Whoever) -> Any:
        """Return the request in a message, if whoever calls may ask that."""
        if self._most_bytes is not None and len(message) > self._most_bytes:
            raise too_large(len(message))
        try:
            request, document = decoded(message, self._delta, self._handler.request_deserializer)
        except DecodeError:  # gRPC itself would answer with INTERNAL
            raise malformed() from None
        note_received(len(message), document)
        name_subject(request)
        if self._authorization is not None and caller is not None:
            self._authorization.check_request(caller, request)
        return request

    def _ended_unanswered(self, context: Context, error: BaseException, started: float) -> None:
        code = code_of_end(context, error, started)
        self._counted.ended_by(code, started)
        log_ended(context, code, method=self._path, started=started, lines=self._calls.counts.lines)

    def _tell(self, call: Task, context: Context, error: RuntimeStoreError | NotReceived) -> None:
        """Tell a caller, whose call waits for its message, that it is given up; `_refuse` does the rest."""
        refusal = unavailable(self._path, error.because) if isinstance(error, NotReceived) else error
        self._told[call] = tell(
            context, refusal.code, *message_and_details(refusal, call_id := str(uuid.uuid4())), call_id
        )

    async def _refuse(self, error: Exception, context: Context, started: float) -> None:
        """End the call, which began at `started`, with the status of `error`, by raising gRPC's own."""
        beside = self._told.pop(this_call(), None)
        reason = unavailable(self._path, error.because) if isinstance(error, NotReceived) else error
        call_id = id_of_call() if beside is None else beside.call_id
        lines = self._calls.counts.lines
        refusal = refusal_of(reason, context, method=self._path, started=started, call_id=call_id, lines=lines)
        self._counted.refused(refusal, started)
        let_go_of_frames(error)
        if beside is None:
            await context.abort(refusal.code, *message_and_details(refusal, call_id))
        else:
            await beside.telling


def _ended(caller: Whoever) -> RuntimeStoreError | None:
    """Say why the stream of a caller was cancelled that is not let in any more; None if it was not."""
    return caller.refusal if isinstance(caller, Caller) else None
