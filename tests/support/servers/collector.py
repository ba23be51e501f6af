"""A collector of traces: OpenTelemetry's own service on a socket of its own, which keeps what it is sent."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as pb
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc as rpc

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from types import TracebackType

    from opentelemetry.proto.trace.v1.trace_pb2 import Span as Message

WAIT_SECONDS = 30.0
KINDS = {1: "internal", 2: "server", 3: "client"}
STATUSES = {0: "", 1: "OK", 2: "ERROR"}


class Seen(NamedTuple):
    """A span as it came."""

    name: str
    kind: str
    trace_id: str
    span_id: str
    parent_id: str
    links: list[str]
    attributes: dict[str, Any]
    events: list[tuple[str, dict[str, Any]]]
    status: str


class Collector:
    """Takes spans over gRPC while it is entered; `seen` is what came so far."""

    def __init__(self, *, hangs: bool = False) -> None:
        self.requests: list[pb.ExportTraceServiceRequest] = []
        self.address = ""
        self._hangs = hangs
        self._go = threading.Event()

    def __enter__(self) -> Self:
        self._threads = ThreadPoolExecutor(4)
        self._server = grpc.server(self._threads)
        rpc.add_TraceServiceServicer_to_server(self, self._server)  # type: ignore[no-untyped-call]  # theirs
        port = self._server.add_insecure_port("127.0.0.1:0")
        self.address = f"http://127.0.0.1:{port}"
        self._server.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._go.set()
        self._server.stop(0).wait()
        self._threads.shutdown()

    def Export(  # noqa: N802  (the name of the method)
        self, request: pb.ExportTraceServiceRequest, context: grpc.ServicerContext | None
    ) -> pb.ExportTraceServiceResponse:
        """Take some; one that hangs answers when it ends."""
        del context
        if self._hangs:
            self._go.wait(WAIT_SECONDS)
        self.requests.append(request)
        return pb.ExportTraceServiceResponse()

    @property
    def environment(self) -> dict[str, str]:
        """What makes a server send its spans here, soon."""
        return {"OTEL_EXPORTER_OTLP_ENDPOINT": self.address, "OTEL_BSP_SCHEDULE_DELAY": "20"}

    @property
    def seen(self) -> list[Seen]:
        """The spans that came."""
        scopes = (scope for one in tuple(self.requests) for of in one.resource_spans for scope in of.scope_spans)
        return [_seen(span) for scope in scopes for span in scope.spans]

    @property
    def text(self) -> str:
        """All that came, as text in which a secret would be found."""
        return "\n".join(map(str, tuple(self.requests)))

    def wait_for(self, condition: Callable[[Sequence[Seen]], Any]) -> list[Seen]:
        """The spans, once they are such."""
        deadline = time.monotonic() + WAIT_SECONDS
        while not condition(found := self.seen):
            assert time.monotonic() < deadline, f"it did not come so far: {[one.name for one in found]}"
            time.sleep(0.02)
        return found


@contextmanager
def over_http() -> Iterator[Collector]:
    """A collector that is spoken to over HTTP."""
    collector = Collector()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            if self.path == "/v1/traces":
                collector.Export(pb.ExportTraceServiceRequest.FromString(body), None)
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            """Nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        collector.address = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield collector
        finally:
            server.shutdown()
            thread.join()


def _seen(span: Message) -> Seen:
    return Seen(
        name=span.name,
        kind=KINDS.get(span.kind, ""),
        trace_id=span.trace_id.hex(),
        span_id=span.span_id.hex(),
        parent_id=span.parent_span_id.hex(),
        links=[link.span_id.hex() for link in span.links],
        attributes=_attributes(span.attributes),
        events=[(event.name, _attributes(event.attributes)) for event in span.events],
        status=STATUSES[span.status.code],
    )


def _attributes(given: Any) -> dict[str, Any]:
    return {one.key: getattr(one.value, one.value.WhichOneof("value")) for one in given}
