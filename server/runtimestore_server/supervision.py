"""Keeps the threads and tasks running that a server cannot do without, and tells when one of them ends by an error.

Nothing dies in silence. What ends by an error that nobody foresaw is logged, health says NOT_SERVING until it has gone
well again for one check, and it is begun anew, after a pause that grows. What does not come to run is no server any
more: after MOST_IN_A_ROW ends the process drains, ends with a code, and whoever started it starts it again. What a
server can do without for a while does not end it, and only its first end in a row is told to health.

| what                     | who waits for it is told                                           |
|--------------------------|--------------------------------------------------------------------|
| a commit thread          | its batch: nothing was committed, or unknown; the others go on     |
| a worker                 | its load: unavailable, nothing was done                            |
| the watch over health    | NOT_SERVING, by the next one                                       |
| serving on (gRPC's stop) | nothing: calls go on while gRPC does                               |
| maintenance on Postgres  | nothing: requests are remembered for longer                        |
| giving memory back       | nothing: the process stays larger than it need be                  |
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from typing import TYPE_CHECKING, Any

import structlog

from runtimestore_server.logs import frames

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

_log = structlog.get_logger(__name__)

MOST_IN_A_ROW = 5
"""After so many ends by an error, one upon the other, the process ends."""

STEADY_SECONDS = 30.0
"""What ran for so long before it ended is not counted with what was before."""

FIRST_PAUSE_SECONDS = 0.05
LONGEST_PAUSE_SECONDS = 1.0
PAUSE_SECONDS_OF_THE_REST = 60.0
"""How long nothing is begun anew after the first end by an error, and after many; and what can be done without."""

CLOSE_SECONDS = 0.3
"""How long threads may take to end when the grace period of a shutdown is over, or there was none: see `shutdown`."""


class Supervision:
    """What one server's threads and tasks are begun by; made on the event loop.

    Args:
        told: called on the event loop when one of them ended by an error.
    """

    def __init__(self, told: Callable[[], None] = lambda: None) -> None:
        self._loop = asyncio.get_running_loop()
        self._told = told
        self._ended: list[str] = []
        self.given_up = asyncio.Event()
        """Set when one of them does not come to run: the server is to end."""

    def thread(
        self, name: str, work: Callable[[], None], *, failed: Callable[[], None] = lambda: None
    ) -> threading.Thread:
        """Start a thread that does `work` until that returns; `failed` is called on it before `work` begins anew."""
        # A daemon: a process that is told to go must not wait for a database that does not answer.
        thread = threading.Thread(target=self._keep, args=(_Run(name), work, failed), name=name, daemon=True)
        thread.start()
        return thread

    def task(
        self, name: str, work: Callable[[], Coroutine[Any, Any, None]], *, vital: bool = True
    ) -> asyncio.Task[None]:
        """Start a task that does `work` until that returns or it is cancelled."""
        return asyncio.create_task(self._keep_task(_Run(name, vital=vital), work), name=name)

    def problem(self) -> str | None:
        """Return what ended by an error since this was asked last, or does not come to run; None if nothing."""
        ended, self._ended = self._ended, []
        return f"ended by an error: {', '.join(sorted({*ended}))}" if ended or self.given_up.is_set() else None

    def _keep(self, run: _Run, work: Callable[[], None], failed: Callable[[], None]) -> None:
        while True:
            try:
                run.begin()
                work()
            except BaseException as error:  # noqa: BLE001  (whatever it is: nobody else would ever know)
                pause_seconds = self._failed(run, error)
                try:
                    failed()
                except Exception as raised:  # noqa: BLE001  (as above)
                    self._failed(run, raised)
            else:
                return
            time.sleep(pause_seconds)

    async def _keep_task(self, run: _Run, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        while True:
            try:
                run.begin()
                await work()
            except asyncio.CancelledError as error:
                task = asyncio.current_task()
                if task is None or task.cancelling():
                    raise
                pause_seconds = self._failed(run, error)  # what it waited for was cancelled, not we
            except (KeyboardInterrupt, SystemExit, GeneratorExit):
                raise  # of the process, or of the loop
            except BaseException as error:  # noqa: BLE001  (whatever it is: nobody else would ever know)
                pause_seconds = self._failed(run, error)
            else:
                return
            await asyncio.sleep(pause_seconds)

    def _failed(self, run: _Run, error: BaseException) -> float:
        """Tell of an end by an error; the seconds after which it may begin anew."""
        in_a_row = run.end()
        # Without the exception's text: drivers quote parameters in it, and those hold documents.
        _log.error(
            "ended by an error, begun anew",
            name=run.name,
            in_a_row=in_a_row,
            error=type(error).__name__,
            traceback=frames(error),
        )
        if run.vital or in_a_row == 1:
            with contextlib.suppress(RuntimeError):  # the loop has ended
                self._loop.call_soon_threadsafe(self._note, run.name, in_a_row)
        longest_seconds = LONGEST_PAUSE_SECONDS if run.vital else PAUSE_SECONDS_OF_THE_REST
        return min(longest_seconds, FIRST_PAUSE_SECONDS * 2.0 ** min(in_a_row - 1, 32))

    def _note(self, name: str, in_a_row: int) -> None:
        self._ended.append(name)
        if in_a_row >= MOST_IN_A_ROW and not self.given_up.is_set():
            _log.error("does not come to run: the server ends", name=name)
            self.given_up.set()
        self._told()


async def stopped(task: asyncio.Task[None] | None) -> None:
    """Cancel a task and wait for its end, if there is one."""
    if task is not None:
        task.cancel()
        await asyncio.wait([task])


async def reached(condition: Callable[[], bool], *, within_seconds: float, for_seconds: float = 0.0) -> bool:
    """Wait until a condition holds, for `for_seconds` on end, but no longer than `within_seconds`; whether it holds.

    By looking again and again, a few times in a process' life: events would be set and cleared on every call, and a
    thread that a database keeps cannot be waited for in any other way.
    """
    since: float | None = None  # the first look of those that found it so
    deadline = time.monotonic() + within_seconds
    while (now := time.monotonic()) < deadline:
        if not condition():
            since = None
        else:
            since = now if since is None else since
            if now - since >= for_seconds:
                return True
        await asyncio.sleep(0.002)
    return condition()


class _Run:
    """One thread or task, and how often in a row it has ended by an error."""

    def __init__(self, name: str, *, vital: bool = True) -> None:
        self.name = name
        self.vital = vital
        self._since = 0.0
        self._in_a_row = 0

    def begin(self) -> None:
        """Take note that it runs from now on."""
        self._since = time.monotonic()

    def end(self) -> int:
        """Take note that it ended by an error; how often in a row it did."""
        if time.monotonic() - self._since >= STEADY_SECONDS:
            self._in_a_row = 0
        self._in_a_row += 1
        return self._in_a_row
