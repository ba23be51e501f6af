"""Makes a span of each call of an application that traces, and passes its context on; the same for both clients.

Only OpenTelemetry's API is used, and only once the application has imported it: who has not has no context either.
"""

from __future__ import annotations

import contextlib
import functools
import sys
from typing import TYPE_CHECKING, Any

from runtimestore.errors import RuntimeStoreError

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

__all__ = ["CallTrace", "traced"]


class CallTrace:
    """The trace of a call, entered for as long as the call takes, its retries included. This one is none."""

    __slots__ = ()

    metadata: tuple[tuple[str, str], ...] = ()
    """What an attempt carries of it."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None: ...

    def again(self, error: RuntimeStoreError, pause_seconds: float) -> None:
        """Tell that an attempt failed, and the next one comes after a pause."""


_UNTRACED = CallTrace()


def traced(request: Any) -> CallTrace:
    """Return the trace of the call that sends a request. Never raises."""
    if "opentelemetry.trace" not in sys.modules:
        return _UNTRACED
    try:
        span = _Span(request)
    except Exception:  # noqa: BLE001  (a call without a span is better than none)
        return _UNTRACED
    return span if span.metadata else _UNTRACED  # there is no trace at all, where the application has set none up


class _Span(CallTrace):
    """A span of OpenTelemetry. It tells names and numbers, and nothing of a request."""

    __slots__ = ("_attempts", "_span", "_token", "metadata")

    def __init__(self, request: Any) -> None:
        from opentelemetry import trace
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        method = _method(request.DESCRIPTOR)
        self._attempts = 1
        self._token: Any = None
        self._span = trace.get_tracer("runtimestore").start_span(
            method, kind=trace.SpanKind.CLIENT, attributes={"rpc.system.name": "grpc", "rpc.method": method}
        )
        carrier: dict[str, str] = {}
        TraceContextTextMapPropagator().inject(carrier, trace.set_span_in_context(self._span))
        self.metadata = tuple(carrier.items())

    def __enter__(self) -> Self:
        from opentelemetry import context, trace

        with contextlib.suppress(Exception):
            self._token = context.attach(trace.set_span_in_context(self._span))
        return self

    def again(self, error: RuntimeStoreError, pause_seconds: float) -> None:
        """Tell of it as an event."""
        self._attempts += 1
        with contextlib.suppress(Exception):
            self._span.add_event(
                "retry", {"error.type": error.reason or error.code.name, "runtimestore.pause_seconds": pause_seconds}
            )

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        from opentelemetry import context
        from opentelemetry.trace import StatusCode

        with contextlib.suppress(Exception):
            if self._token is not None:
                context.detach(self._token)
        with contextlib.suppress(Exception):
            span = self._span
            span.set_attribute("runtimestore.attempts", self._attempts)
            if isinstance(error, RuntimeStoreError):
                span.set_attribute("rpc.response.status_code", error.code.name)
                span.set_attribute("error.type", error.reason or error.code.name)
                span.set_status(StatusCode.ERROR, error.reason or error.code.name)
            elif error is not None:
                span.set_attribute("error.type", type(error).__name__)
                span.set_status(StatusCode.ERROR)
            else:
                span.set_attribute("rpc.response.status_code", "OK")
            span.end()


@functools.cache
def _method(request: Any) -> str:
    """Return the method that takes such requests, as OpenTelemetry calls it: a file has one service."""
    (service,) = request.file.services_by_name.values()
    return f"{service.full_name}/{request.name.removesuffix('Request')}"
