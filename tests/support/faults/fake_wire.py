"""A fake channel and a fake clock under the client for threads: nothing here waits for real time."""

from __future__ import annotations

import threading
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

import grpc

from runtimestore import RuntimeStoreClient
from support.servers.scripted_store import METHODS, Failure

if TYPE_CHECKING:
    from collections.abc import Callable

WAIT_SECONDS = 10.0
"""How long a test waits for a thread before it fails instead of hanging."""


class FakeClock:
    """Stands where the modules of the client have `time`: whoever sleeps moves it on."""

    def __init__(self, time: Any) -> None:
        self._time = time
        self.pauses: list[float] = []

    def monotonic(self) -> float:
        now: float = self._time.time()
        return now

    def sleep(self, seconds: float) -> None:
        self.pauses.append(round(seconds, 6))
        self.pass_by(seconds)

    def pass_by(self, seconds: float) -> None:
        """Move the time on, as work does."""
        self._time.sleep_for(seconds)


class Wire:
    """The server's end of the fake channel, and the threads that call at the other end."""

    def __init__(self, channel: Any, clock: FakeClock) -> None:
        self.channel = channel
        self.clock = clock
        self.timeouts_seconds: list[float] = []
        # The fake channel does not enforce timeouts and forgets them; what was asked for is to be seen all the same.
        invoke = channel._state.invoke_rpc

        def invoke_rpc(method: str, metadata: Any, requests: Any, closed: Any, timeout: float) -> Any:
            self.timeouts_seconds.append(round(timeout, 6))
            return invoke(method, metadata, requests, closed, timeout)

        channel._state.invoke_rpc = invoke_rpc

    def client(self, **settings: Any) -> RuntimeStoreClient:
        return RuntimeStoreClient(channel=self.channel, **settings)

    def calling(self, call: Callable[[], Any]) -> Future[Any]:
        return _in_a_thread(call)

    def take(self, method: str) -> tuple[Any, Any]:
        """The next request of a method and the call to answer; fails, not hangs, if none comes."""
        descriptor = METHODS[method]
        taking = self.channel.take_unary_stream if descriptor.server_streaming else self.channel.take_unary_unary
        _, request, rpc = _in_a_thread(lambda: taking(descriptor)).result(WAIT_SECONDS)
        rpc.send_initial_metadata(())
        return request, rpc

    def answer(self, method: str, answer: Any) -> Any:
        """Answer the next request of a method with a message or a failure; returns the request."""
        request, rpc = self.take(method)
        if isinstance(answer, Failure):
            # The fake channel hands an answer over before the status; the client may not look at it.
            rpc.terminate(None, answer.trailing_metadata, answer.code, answer.message)
        else:
            rpc.terminate(answer, (), grpc.StatusCode.OK, "")
        return request


def _in_a_thread(call: Callable[[], Any]) -> Future[Any]:
    future: Future[Any] = Future()

    def run() -> None:
        try:
            future.set_result(call())
        except BaseException as error:  # noqa: BLE001  (whatever it is, it is the test's to see)
            future.set_exception(error)

    # A daemon: the fake channel knows no way out for who waits at it, and a failed test must not hang the run.
    threading.Thread(target=run, daemon=True).start()
    return future
