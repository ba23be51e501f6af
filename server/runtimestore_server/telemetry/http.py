"""The HTTP port for whoever watches the server: `/metrics`, `/healthz` and `/readyz`, on threads of its own.

It is the library's WSGI server with prometheus-client's own application behind it: a scrape never waits for the event
loop, nor the loop for a scrape. See docs/decisions/0085.
"""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from socketserver import ThreadingMixIn
from typing import TYPE_CHECKING, Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

import structlog
from prometheus_client import make_wsgi_app

from runtimestore_server.logs import frames

if TYPE_CHECKING:
    from collections.abc import Iterable
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

    from prometheus_client import CollectorRegistry

    from runtimestore_server.supervision import Supervision
    from runtimestore_server.telemetry.readiness import Readiness

_log = structlog.get_logger(__name__)

AT_ONCE = 16
"""How many requests are answered at a time; more are closed, so that nobody fills the process with threads."""

REQUEST_SECONDS = 10.0
"""How long a request may take to come, and its answer to be read."""

_Text = tuple[str, str, str]


class Telemetry:
    """The HTTP port, from `start` to `close`."""

    def __init__(self, registry: CollectorRegistry, readiness: Readiness) -> None:
        self._metrics: WSGIApplication = make_wsgi_app(registry)
        self._readiness = readiness
        self._server: _Server | None = None
        self.address = ""
        """Where it listens, once it does."""

    def start(self, listen: str, supervision: Supervision) -> None:
        """Listen on HOST:PORT, and answer.

        Raises:
            OSError: the address cannot be had.
        """
        host, _, port = listen.rpartition(":")
        self._server = server = _Server(host.strip("[]"), int(port))
        server.set_app(self._answer)
        self.address = f"{host}:{server.server_port}"
        supervision.thread("telemetry", server.serve)
        _log.info("metrics", metrics_address=self.address)

    async def close(self) -> None:
        """Answer no more."""
        if self._server is not None:
            await asyncio.to_thread(self._server.shutdown)
            self._server.server_close()

    def _answer(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        path = environ["PATH_INFO"]
        try:
            if environ["REQUEST_METHOD"] not in ("GET", "HEAD"):
                status, kind, text = "405 Method Not Allowed", "text/plain", "only GET is answered\n"
            elif path == "/metrics":
                return self._metrics(environ, start_response)
            elif path == "/healthz":
                status, kind, text = "200 OK", "text/plain", "the process lives\n"
            elif path == "/readyz":
                status, kind, text = self._ready(verbose="verbose" in environ.get("QUERY_STRING", "").split("&"))
            else:
                status, kind, text = "404 Not Found", "text/plain", "/metrics, /healthz and /readyz are answered\n"
        except Exception as error:  # noqa: BLE001  (whatever it is: the next one is answered)
            _log.warning("metrics failed", error=type(error).__name__, traceback=frames(error))
            status, kind, text = "500 Internal Server Error", "text/plain", "the log has the rest\n"
        body = text.encode()
        headers = [("Content-Type", f"{kind}; charset=utf-8"), ("Content-Length", str(len(body)))]
        start_response(status, headers)
        return [body if environ["REQUEST_METHOD"] != "HEAD" else b""]

    def _ready(self, *, verbose: bool) -> _Text:
        checks = self._readiness.checks()
        failing = {name: problem for name, problem in checks.items() if problem is not None}
        status = "503 Service Unavailable" if failing else "200 OK"
        if verbose:
            told = {name: {"ready": problem is None, "problem": problem} for name, problem in sorted(checks.items())}
            return status, "application/json", json.dumps({"ready": not failing, "checks": told}, indent=2) + "\n"
        return status, "text/plain", f"not ready: {', '.join(sorted(failing))}\n" if failing else "ready\n"


class _Handler(WSGIRequestHandler):
    """One request; nothing of it comes into the log."""

    timeout = REQUEST_SECONDS

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  (the library's name)
        """Write nothing: whoever asks decides how often, and what."""

    def get_stderr(self) -> Any:
        """Nowhere: the library would write there as it likes."""
        return _Nowhere()


class _Nowhere:
    def write(self, text: str) -> None:
        """Nothing."""

    def flush(self) -> None:
        """Nothing."""


class _Server(ThreadingMixIn, WSGIServer):
    """A thread a request, a bounded number of them."""

    daemon_threads = True

    def __init__(self, host: str, port: int) -> None:
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._free = threading.BoundedSemaphore(AT_ONCE)
        super().__init__((host, port), _Handler)

    def serve(self) -> None:
        """Answer until `shutdown`."""
        self.serve_forever(poll_interval=0.05)

    def server_bind(self) -> None:
        """Bind, without the look-up of the host's name that the library does."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # past connections keep no new server out
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])
        self.setup_environ()

    def get_request(self) -> Any:
        """The next connection."""
        try:
            return super().get_request()
        except OSError:
            time.sleep(0.1)  # without a file descriptor for it: it would come again and again at once
            raise

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answer on a thread, if one is free."""
        if not self._free.acquire(blocking=False):
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except BaseException:
            self._free.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Answer, and let the next one in."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Write nothing: the other end went, or was too slow."""
