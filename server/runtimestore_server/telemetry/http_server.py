"""The library's WSGI server with a bound on its connections, where those that send nothing stand in nobody's way.

A connection has so many seconds in all. Where as many are open as are answered at a time, the next one takes the place
of the one that has been sending its request for longest: whoever sends nothing is closed, and a probe is answered.
"""

from __future__ import annotations

import contextlib
import io
import socket
import threading
import time
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

AT_ONCE = 16
"""How many connections are open at a time, so that nobody fills the process with threads. As many may be ending."""

REQUEST_SECONDS = 10.0
"""How long a connection may be open: its request comes, is answered, and the answer is read."""

ANSWER_SECONDS = 2.0
"""How long a request that has come keeps its place while others wait for one."""

WAITING = 128
"""How many connections the system keeps until they are looked at."""

LOOK_SECONDS = 0.05
"""How often it is looked whose time is over, and whether to end."""


class HttpServer(ThreadingMixIn, WSGIServer):
    """A thread a request, a bounded number of them."""

    daemon_threads = True
    request_queue_size = WAITING

    def __init__(self, host: str, port: int) -> None:
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.connections = _Connections()
        super().__init__((host, port), _Handler)

    def serve(self) -> None:
        """Answer until `shutdown`."""
        self.serve_forever(poll_interval=LOOK_SECONDS)

    def server_bind(self) -> None:
        """Bind, without the look-up of the host's name that the library does."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # past connections keep no new server out
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])
        self.setup_environ()

    def get_request(self) -> Any:
        """Return the next connection."""
        try:
            return super().get_request()
        except OSError:
            time.sleep(0.1)  # without a file descriptor for it: it would come again and again at once
            raise

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answer on a thread, if there is a place."""
        if not self.connections.add(request):
            super().shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except BaseException:
            self.shutdown_request(request)
            raise

    def shutdown_request(self, request: Any) -> None:
        """Close a connection, and give its place to the next."""
        self.connections.remove(request)
        super().shutdown_request(request)

    def service_actions(self) -> None:
        """Close those whose time is over; the library asks for it all the time."""
        super().service_actions()
        self.connections.end_late()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Write nothing: the other end went, or was too slow."""


class _Connections:
    """Those that are open, the oldest first, and since when each does what it does."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._opened: dict[Any, float] = {}
        self._came: dict[Any, float] = {}
        self._ending: set[Any] = set()

    def add(self, connection: Any) -> bool:
        """Give a connection a place, another one's if none is free; False where nobody has to make room."""
        with self._lock:
            if len(self._ending) >= AT_ONCE:
                return False  # their threads have not come to it yet
            if len(self._opened) >= AT_ONCE:
                slow = self._slowest()
                if slow is None:
                    return False
                self._end(slow)
            self._opened[connection] = time.monotonic()
            return True

    def has_come(self, connection: Any) -> None:
        """Know that a request has come whole: it is being answered from now on."""
        with self._lock:
            if connection in self._opened:
                self._came[connection] = time.monotonic()

    def remove(self, connection: Any) -> None:
        """Free the place of a connection that is about to be closed; nothing happens if another one has it by now."""
        with self._lock:
            self._forget(connection)
            self._ending.discard(connection)

    def end_late(self) -> None:
        """Close connections whose time limit has passed."""
        latest = time.monotonic() - REQUEST_SECONDS
        with self._lock:
            for connection in [one for one, opened in self._opened.items() if opened < latest]:
                self._end(connection)

    def _slowest(self) -> Any | None:
        """Return which connection to close for a new one: the slowest sender, else the slowest reader."""
        for connection in self._opened:
            if connection not in self._came:
                return connection
        late = time.monotonic() - ANSWER_SECONDS
        return next((connection for connection, came in self._came.items() if came < late), None)

    def _end(self, connection: Any) -> None:
        """Wake the thread of a connection by its end; it closes it. Under the lock, so that it is not closed yet."""
        self._forget(connection)
        self._ending.add(connection)
        with contextlib.suppress(OSError):  # the other end was faster
            connection.shutdown(socket.SHUT_RDWR)

    def _forget(self, connection: Any) -> None:
        self._opened.pop(connection, None)
        self._came.pop(connection, None)


class _Handler(WSGIRequestHandler):
    """One request; nothing of it comes into the log."""

    timeout = REQUEST_SECONDS

    def get_environ(self) -> Any:
        """Return what the application is asked with, once the request has come."""
        if isinstance(self.server, HttpServer):
            self.server.connections.has_come(self.request)
        return super().get_environ()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  (the library's name)
        """Write nothing: whoever asks decides how often, and what."""

    def get_stderr(self) -> Any:
        """Write into nothing: the library would write there as it likes."""
        return io.StringIO()
