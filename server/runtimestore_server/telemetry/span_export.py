"""Sends spans to a collector by OpenTelemetry's own exporters, on a thread of theirs; nobody waits for it.

Spans that find no room are left out, and those that no collector took are lost: both are counted, and told once until
it changes. What OpenTelemetry itself would log is silent: its sentences quote headers, which are credentials.
"""

from __future__ import annotations

import logging
import os
import threading
from typing import TYPE_CHECKING

import structlog
from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

from runtimestore_server.supervision import reached

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import ReadableSpan, Span
    from opentelemetry.trace import Tracer

NAME = "runtimestore"

HTTP, GRPC = "http/protobuf", "grpc"

_log = structlog.get_logger(__name__)


class Export:
    """The way of spans to a collector, from the end of one to its being taken.

    Raises:
        ImportError: the extra is not whole.
        Exception: a variable of OpenTelemetry cannot be used.
    """

    def __init__(self, *, version: str) -> None:
        logging.getLogger("opentelemetry").setLevel(logging.CRITICAL + 1)
        self.counts = SpanCounts()
        self._exporter = _Counted(_exporter(), self.counts)
        self._queue = _Bounded(self._exporter, self.counts)
        resource = Resource.create({SERVICE_VERSION: version})
        if str(resource.attributes[SERVICE_NAME]).startswith("unknown_service"):
            resource = resource.merge(Resource({SERVICE_NAME: NAME}))
        # Not the process' provider, and not at its exit: whoever runs a server in a program of theirs has one.
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(self._queue)
        self.tracer: Tracer = self._provider.get_tracer(NAME, version)

    async def close(self, *, within_seconds: float) -> bool:
        """Send what waits; whether that was done in time. A collector that hangs is left behind."""
        closing = threading.Thread(target=self._queue.shutdown, name="traces-close", daemon=True)
        closing.start()
        ended = await reached(lambda: not closing.is_alive(), within_seconds=within_seconds)
        if not ended:
            # It closes the connection under the export that hangs; that one, and those behind it, are lost.
            threading.Thread(target=self._exporter.shutdown, name="traces-abort", daemon=True).start()
            _log.warning("the collector of traces does not answer: ending without it; spans are lost")
        return ended


class SpanCounts:
    """How many spans came, and what became of them; any thread counts."""

    def __init__(self) -> None:
        self.exported = 0
        self.failed = 0
        """Given to a collector, which did not take them."""
        self.dropped = 0
        """Left out, for the queue was full."""
        self.lock = threading.Lock()
        """Held for an addition at a time."""
        self.waiting = 0

    def by_outcome(self) -> Mapping[str, int]:
        """Tell how many there were, by what became of them."""
        return {"exported": self.exported, "failed": self.failed, "dropped": self.dropped}


class _Bounded(SpanProcessor):
    """OpenTelemetry's queue of spans; what finds no room in it is left out, and counted."""

    def __init__(self, exporter: SpanExporter, counts: SpanCounts) -> None:
        self._most = _positive("OTEL_BSP_MAX_QUEUE_SIZE", 2048)  # which is OpenTelemetry's default
        self._queue = BatchSpanProcessor(exporter, max_queue_size=self._most)
        self._counts = counts
        self._told = False

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        """Do nothing: a span is of interest when it has ended."""

    def on_end(self, span: ReadableSpan) -> None:
        """Take a span, if there is room."""
        if not (span.context and span.context.trace_flags.sampled):
            return
        counts = self._counts
        with counts.lock:
            full = counts.waiting >= self._most
            counts.dropped += full
            counts.waiting += not full
        if not full:
            self._queue.on_end(span)
        elif not self._told:
            self._told = True
            _log.warning("spans are left out: more end than the collector takes", spans=self._most)

    def shutdown(self) -> None:
        """Send what waits."""
        self._queue.shutdown()  # type: ignore[no-untyped-call]  # theirs

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Send what waits, and go on."""
        return self._queue.force_flush(timeout_millis)


class _Counted(SpanExporter):
    """An exporter whose failures are counted, and told when they begin and end."""

    def __init__(self, exporter: SpanExporter, counts: SpanCounts) -> None:
        self._exporter = exporter
        self._counts = counts
        self._failing = False

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Send spans; never raises."""
        error: str | None = None
        counts = self._counts
        with counts.lock:
            counts.waiting -= len(spans)
        try:
            result = self._exporter.export(spans)
        except Exception as raised:  # noqa: BLE001  (whatever it is: these spans are lost, and no more)
            result, error = SpanExportResult.FAILURE, type(raised).__name__
        failed = result is not SpanExportResult.SUCCESS
        with counts.lock:
            counts.failed += len(spans) * failed
            counts.exported += len(spans) * (not failed)
        if failed != self._failing:
            self._failing = failed
            if failed:
                _log.warning("the collector of traces takes none: spans are lost", spans=len(spans), error=error)
            else:
                _log.info("the collector of traces takes spans again", lost=counts.failed)
        return result

    def shutdown(self) -> None:
        """Close the connection."""
        self._exporter.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Send what the exporter holds itself, which is nothing."""
        return self._exporter.force_flush(timeout_millis)


def _exporter() -> SpanExporter:
    """Make the exporter of the protocol that is asked for; where nothing is said, gRPC, as OpenTelemetry does."""
    names = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
    protocol = next((found for name in names if (found := os.environ.get(name, "").strip())), GRPC)
    if protocol == HTTP:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter as HttpExporter

        return HttpExporter()
    if protocol != GRPC:
        raise ValueError("unknown protocol")
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as GrpcExporter

    return GrpcExporter()


def _positive(name: str, otherwise: int) -> int:
    found = os.environ.get(name, "").strip()
    return int(found) if found.isdecimal() and int(found) else otherwise
