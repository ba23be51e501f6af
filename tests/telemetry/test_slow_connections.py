"""Whoever holds connections to the HTTP port, and sends or reads slowly, keeps no probe from its answer."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import time
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from runtimestore_server.telemetry import http_server
from runtimestore_server.telemetry.http_server import AT_ONCE, HttpServer
from support.checkers.scraping import LISTEN, WAIT_SECONDS, get, until
from support.servers.server import in_process

if TYPE_CHECKING:
    from collections.abc import Iterator

IDLE = 64


def connected(address: str, stack: contextlib.ExitStack) -> socket.socket:
    """A connection on which nothing was sent."""
    host, _, port = address.rpartition(":")
    return stack.enter_context(socket.create_connection((host, int(port))))


class Application:
    """Answers `/`, and whoever asks for anything else when it is told to."""

    def __init__(self) -> None:
        self.asked = 0
        self.go_on = threading.Event()

    def __call__(self, environ: dict[str, Any], start_response: Any) -> list[bytes]:
        """Answer one request."""
        self.asked += 1
        if environ["PATH_INFO"] != "/":
            self.go_on.wait(WAIT_SECONDS)
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [b"answered"]


@contextlib.contextmanager
def answering(app: Application) -> Iterator[str]:
    """Where an application is answered by a server of its own."""
    server = HttpServer("127.0.0.1", 0)
    server.set_app(app)
    thread = threading.Thread(target=server.serve)
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_port}"
    finally:
        app.go_on.set()
        server.shutdown()
        thread.join()
        server.server_close()


async def test_every_path_is_answered_at_once_while_many_connections_are_idle() -> None:
    async with in_process("memory:", **LISTEN) as app:
        with contextlib.ExitStack() as stack:
            for _ in range(IDLE):
                connected(app.telemetry.address, stack)
            for path in ("/healthz", "/readyz", "/metrics") * 5:
                status, _ = await asyncio.to_thread(get, app.telemetry.address, path)
                assert status == 200
                threads = sum("process_request" in thread.name for thread in threading.enumerate())
                assert threads <= 2 * AT_ONCE


async def test_a_request_that_comes_a_byte_at_a_time_is_over_when_its_time_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_server, "REQUEST_SECONDS", 0.3)
    with answering(Application()) as address, contextlib.ExitStack() as stack:
        slow = connected(address, stack)
        slow.settimeout(0.05)
        slow.sendall(b"GET / HTTP/1.1\r\nx: ")
        deadline = time.monotonic() + WAIT_SECONDS
        while time.monotonic() < deadline:
            try:
                slow.sendall(b"x")
                over = slow.recv(1) == b""
            except TimeoutError:
                continue
            except OSError:
                over = True
            assert over
            break
        else:
            pytest.fail("it goes on")


def test_who_is_answered_slowly_makes_room_and_who_was_asked_just_now_does_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    app = Application()
    with answering(app) as address, contextlib.ExitStack() as stack:
        held = [connected(address, stack) for _ in range(AT_ONCE)]
        for number, connection in enumerate(held, start=1):
            connection.sendall(b"GET /held HTTP/1.1\r\n\r\n")
            until(partial(_was_asked, app, number))  # one after the other, so that the first is the oldest
        with connected(address, stack) as late:
            late.sendall(b"GET / HTTP/1.1\r\n\r\n")
            with contextlib.suppress(ConnectionResetError):
                assert late.recv(1) == b""  # nobody makes room for it
        monkeypatch.setattr(http_server, "ANSWER_SECONDS", 0.0)
        assert get(address, "/") == (200, "answered")
        app.go_on.set()
        answers = [_received(connection) for connection in held]
    assert sum(answer.endswith(b"answered") for answer in answers) == AT_ONCE - 1
    assert answers[0] == b""  # the oldest of them


def _was_asked(app: Application, times: int) -> bool:
    return app.asked == times


def _received(connection: socket.socket) -> bytes:
    found = b""
    with contextlib.suppress(ConnectionResetError):
        while part := connection.recv(1 << 16):
            found += part
    return found
