"""Makes the spans of a call: its own, its waiting for the store, the batch that it is in, and the statements of that.

A batch is one transaction for many calls. Its span is a child of the first call in it whose trace is recorded, so that
a trace reads from the caller down to the statements, and it is linked with all the others, in both directions.

Nothing here raises into a call or a thread, and nothing blocks one. A span holds names of ours, ids that the log shows
too, and numbers: never a document, a value of a statement, or the text of an error.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import re
import time
from typing import TYPE_CHECKING, Any, TypeVar

from opentelemetry import context as contexts
from opentelemetry import trace
from opentelemetry.trace import Link, SpanKind, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from sqlalchemy import event

from runtimestore.errors import RuntimeStoreError, Unauthenticated

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
    from types import TracebackType
    from typing import Self

    from opentelemetry.context import Context
    from opentelemetry.trace import Span, Tracer
    from opentelemetry.util.types import AttributeValue
    from sqlalchemy.engine import Connection, Engine, ExceptionContext

    from runtimestore_server.telemetry.counts import CallEnd
    from runtimestore_server.telemetry.span_export import Export

T = TypeVar("T")

PREFIX = "runtimestore."
"""Of attributes for which OpenTelemetry has no name; for the others it is as in its conventions of gRPC and SQL."""

_SERVERS_FAULT = ("UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS")
"""Which codes make the span of a server an error, by OpenTelemetry's conventions; the others are the caller's."""

MOST_OF_STRANGERS = 20
"""How many spans a second tell of calls that were refused for who calls: anybody may send those, and say that they are
to be recorded. As many lines of them has the log."""

_TABLE = re.compile(r"\b(?:INTO|FROM|UPDATE|JOIN)\s+\"?(\w+)")
_PROPAGATOR = TraceContextTextMapPropagator()


class Traces:
    """The traces of one server."""

    def __init__(self, export: Export) -> None:
        self._export = export
        self._tracer: Tracer = export.tracer
        self.counts = export.counts
        """What became of the spans."""
        self._system = ""
        self._tables: Collection[str] = ()
        self._second = 0.0
        self._of_strangers = 0

    def call(self, path: str, metadata: Iterable[tuple[str, str | bytes]] | None) -> Span:
        """Begin the span of this task's call: a child of what its `traceparent` names, if there is one."""
        parent: Context | None = None
        with contextlib.suppress(Exception):
            headers = {key: text for key, text in metadata or () if isinstance(text, str)}
            parent = _PROPAGATOR.extract(headers, contexts.Context())
        method = path.removeprefix("/")
        attributes = {"rpc.system.name": "grpc", "rpc.method": method}
        span = self._begin(method, context=parent or contexts.Context(), kind=SpanKind.SERVER, attributes=attributes)
        with contextlib.suppress(Exception):
            contexts.attach(trace.set_span_in_context(span))  # of its task, which ends with the call
        return span

    @staticmethod
    def id_of(span: Span) -> str | None:
        """Return the trace id that the log shows for a span; None if it is not recorded."""
        return trace.format_trace_id(span.get_span_context().trace_id) if span.is_recording() else None

    def end(self, span: Span, end: CallEnd) -> None:
        """End the span of a call, and say what that was about and how it ended."""
        with contextlib.suppress(Exception):
            if not span.is_recording():
                return
            if end.reason == Unauthenticated.reason and not self._records_stranger():
                return  # one that never ends is never sent
            told = {
                "rpc.response.status_code": end.code,
                "error.type": end.reason or (None if end.code == "OK" else end.code),
                PREFIX + "reason": end.reason,
                PREFIX + "principal": end.principal,
                PREFIX + "realm": end.realm,
                PREFIX + "runtime_id": end.runtime,
                PREFIX + "request_id": end.request_id,
            }
            span.set_attributes({key: value for key, value in told.items() if value})
            if end.code in _SERVERS_FAULT:
                span.set_status(StatusCode.ERROR, end.reason or end.code)
            span.end()

    def _records_stranger(self) -> bool:
        """Tell whether one more span of a stranger's call may be recorded now."""
        if (now := time.monotonic()) - self._second >= 1.0:
            self._second, self._of_strangers = now, 0
        self._of_strangers += 1
        return self._of_strangers <= MOST_OF_STRANGERS

    def waiting_span(self, name: str) -> SpanScope | None:
        """Begin the span of what this task's call waits for in the store; None if the call is not recorded."""
        return SpanScope(self._begin(name)) if trace.get_current_span().is_recording() else None

    def batch(self, calls: Sequence[Span | None]) -> SpanScope:
        """Enter the span of a batch for these calls, on its thread; of None, and of no span at all, nothing is seen."""
        waiting = [span for span in calls if span is not None]
        if not waiting:
            return SpanScope(None)
        span: Span = trace.INVALID_SPAN
        with contextlib.suppress(Exception):
            span = self._begin(
                "batch",
                context=trace.set_span_in_context(waiting[0]),
                links=[Link(one.get_span_context()) for one in waiting[1:]],
                attributes={"db.system.name": self._system, PREFIX + "batch_writes": len(calls)},
            )
            for one in waiting[1:]:
                one.add_link(span.get_span_context())
        return SpanScope(span)

    def in_this_call(self, name: str, work: Callable[[], T]) -> Callable[[], T]:
        """Wrap work for another thread in a span of this task's call."""
        parent = trace.get_current_span()
        if not parent.is_recording():
            return work
        came_ns = time.time_ns()

        def traced() -> T:
            with SpanScope(self._begin(name, context=trace.set_span_in_context(parent), start_time=came_ns)):
                return work()

        return traced

    def watch(self, engines: Iterable[Engine], *, tables: Collection[str]) -> None:
        """Make a span of each statement that a recorded call, or a batch of some, sends; these tables are named."""
        self._tables = tables
        for engine in engines:
            self._system = engine.dialect.name
            event.listen(engine, "before_cursor_execute", self._before)
            event.listen(engine, "after_cursor_execute", _after)
            event.listen(engine, "handle_error", _failed)

    def committing(self) -> SpanScope:
        """Begin the span of a COMMIT, of which SQLAlchemy tells nothing."""
        return SpanScope(self._statement("COMMIT", {}))

    async def close(self, *, within_seconds: float) -> bool:
        """Send what waits; whether that was done in time."""
        return await self._export.close(within_seconds=within_seconds)

    def _begin(self, name: str, **given: Any) -> Span:
        try:
            return self._tracer.start_span(name, **given)
        except Exception:  # noqa: BLE001  (a call without a span is better than none)
            return trace.INVALID_SPAN

    def _statement(self, operation: str, attributes: Mapping[str, AttributeValue]) -> Span | None:
        if not trace.get_current_span().is_recording():
            return None
        table = attributes.get("db.collection.name")
        given = {"db.system.name": self._system, "db.operation.name": operation, **attributes}
        return self._begin(f"{operation} {table}" if table else operation, kind=SpanKind.CLIENT, attributes=given)

    def _before(
        self, _connection: Connection, _cursor: object, statement: str, parameters: Any, context: Any, executemany: bool
    ) -> None:
        with contextlib.suppress(Exception):
            attributes: dict[str, AttributeValue] = {}
            operation, named = _named(statement[:2000])
            if table := next((name for name in named if name in self._tables), None):
                attributes["db.collection.name"] = table
            if executemany and len(parameters) > 1:
                attributes["db.operation.batch.size"] = len(parameters)
            context.runtimestore_span = self._statement(operation, attributes)


class SpanScope:
    """A context manager that makes a span the current one; without a span it does nothing."""

    __slots__ = ("_token", "span")

    def __init__(self, span: Span | None) -> None:
        self.span = span
        self._token: Any = None

    def __enter__(self) -> Self:
        if self.span is not None:
            with contextlib.suppress(Exception):
                self._token = contexts.attach(trace.set_span_in_context(self.span))
        return self

    def failed(self) -> None:
        """Say that what was done in it came to nothing."""
        if self.span is not None:
            with contextlib.suppress(Exception):
                self.span.set_status(StatusCode.ERROR)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self.span is None:
            return
        with contextlib.suppress(Exception):
            if self._token is not None:
                contexts.detach(self._token)
        _end(self.span, error)


def _after(_connection: Connection, _cursor: object, _statement: str, _given: Any, context: Any, _many: bool) -> None:
    if (span := getattr(context, "runtimestore_span", None)) is not None:
        _end(span, None)


def _failed(failure: ExceptionContext) -> None:
    if (span := getattr(failure.execution_context, "runtimestore_span", None)) is not None:
        _end(span, failure.original_exception)


def _end(span: Span, error: BaseException | None) -> None:
    """End a span; of an error its class is told, and never its text: drivers quote values in that."""
    with contextlib.suppress(Exception):
        if isinstance(error, RuntimeStoreError):
            span.set_attribute("error.type", error.reason)
            if error.code.name in _SERVERS_FAULT:
                span.set_status(StatusCode.ERROR, error.reason)
        elif error is not None:
            span.set_attribute("error.type", type(error).__name__)
            if not isinstance(error, asyncio.CancelledError):  # its caller gave up
                span.set_status(StatusCode.ERROR)
        span.end()


@functools.lru_cache(maxsize=256)
def _named(statement: str) -> tuple[str, list[str]]:
    """Return what a statement does, which is its first word, and what it names where a table may be named."""
    words = statement.split(None, 1)
    operation = words[0].upper() if words and words[0].isalpha() else "SQL"
    return operation, _TABLE.findall(statement)
