"""The HTTP port for whoever watches the server: `/metrics`, `/healthz` and `/readyz`, on threads of its own.

It is the library's WSGI server with prometheus-client's own application behind it: a scrape never waits for the event
loop, nor the loop for a scrape. See docs/decisions/0085.
"""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

import structlog
from prometheus_client import make_wsgi_app

from runtimestore_server.logs import frames
from runtimestore_server.telemetry.http_server import HttpServer

if TYPE_CHECKING:
    from collections.abc import Iterable
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

    from prometheus_client import CollectorRegistry

    from runtimestore_server.supervision import Supervision
    from runtimestore_server.telemetry.readiness import Readiness

_log = structlog.get_logger(__name__)


class Telemetry:
    """The HTTP port, from `start` to `close`."""

    def __init__(self, registry: CollectorRegistry, readiness: Readiness) -> None:
        self._metrics: WSGIApplication = make_wsgi_app(registry)
        self._readiness = readiness
        self._server: HttpServer | None = None
        self.address = ""
        """Where it listens, once it does."""

    def start(self, listen: str, supervision: Supervision) -> None:
        """Listen on HOST:PORT, and answer.

        Raises:
            OSError: the address cannot be had.
        """
        host, _, port = listen.rpartition(":")
        self._server = server = HttpServer(host.strip("[]"), int(port))
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

    def _ready(self, *, verbose: bool) -> tuple[str, str, str]:
        checks, warnings = self._readiness.checks(), self._readiness.warnings()
        failing = {name: problem for name, problem in checks.items() if problem is not None}
        status = "503 Service Unavailable" if failing else "200 OK"
        if verbose:
            told = {
                name: {"ready": problem is None, "problem": problem, "warning": warnings.get(name)}
                for name, problem in sorted(checks.items())
            }
            return status, "application/json", json.dumps({"ready": not failing, "checks": told}, indent=2) + "\n"
        text = f"not ready: {', '.join(sorted(failing))}" if failing else "ready"
        if warned := sorted(name for name, warning in warnings.items() if warning is not None):
            text += f"; warning: {', '.join(warned)}"
        return status, "text/plain", f"{text}\n"
