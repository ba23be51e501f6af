"""The way down of a server: its phases in order, each with its share of the grace period.

The parts know two verbs: `drain()`, take nothing new in and bring to its end what was taken in; `abort()`, answer
whoever still waits, truthfully and at once. `close()`, at last, gives back what a part holds.

| phase      | begins with                        | takes no longer than             | is over when                   |
|------------|------------------------------------|----------------------------------|--------------------------------|
| tell       | nothing is checked or begun anew,  | it takes                         | health was told                |
|            | and health says NOT_SERVING        |                                  |                                |
| finish     | calls drain                        | what the other phases leave      | nothing is in flight           |
| no retries | the store drains                   | NO_RETRIES_SECONDS, half at most | nothing is in flight           |
| answer     | store, workers and limiters abort  | CROSSING_SECONDS                 | it was quiet for QUIET_SECONDS |
| disconnect | gRPC's server stops                | LAST_BYTES_SECONDS               | every connection is closed     |
| close      | workers and store close            | CLOSE_SECONDS for each pool      | every thread has ended         |
| spans      | traces close                       | SPANS_SECONDS, and CLOSE_SECONDS | the collector has what waited  |
|            |                                    | when the grace period is over    |                                |

`Shutdown.phases` holds the three whose effect is waited for; the others are one step each, in `Shutdown.end`.

The grace period wins over all: `finish` and `no retries` end before its last LAST_SECONDS, or its last quarter where
it is short, and `disconnect` gets no more than what is left. `answer` and `close` may go beyond it, by what stands
here.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

    from runtimestore_server.rpc.admission import Limiters
    from runtimestore_server.rpc.call import Calls
    from runtimestore_server.rpc.server import Server
    from runtimestore_server.services.health import HealthService
    from runtimestore_server.store import Store
    from runtimestore_server.telemetry.spans import Traces
    from runtimestore_server.workers import Workers

LAST_SECONDS = 1.5
"""How much of the grace period is for what comes after everything is answered."""

NO_RETRIES_SECONDS = 2.0
"""The last part of a drain, in which nothing is run again and no row is waited for."""

CROSSING_SECONDS = 0.3
"""How long a server that ends waits for callers that come one upon the other."""

QUIET_SECONDS = 0.1
"""How long no call may be in flight before a server that ends closes its connections, within the crossing's time."""

LAST_BYTES_SECONDS = 0.5
"""How long answers that were handed to gRPC may take to leave before the connections are closed."""

CLOSE_SECONDS = 0.3
"""How long threads may take to end when nothing waits for them any more; what a database keeps is left behind."""


SPANS_SECONDS = 2.0
"""How long the last spans may take to a collector, within the grace period."""


class Phase(NamedTuple):
    """A step of the drain: what is told, and how long at most its effect is waited for."""

    name: str
    tell: tuple[Callable[[], None], ...]
    at_most_seconds: float
    quiet_seconds: float = 0.0
    """For how long on end nothing may be in flight before the next phase begins."""


class Shutdown:
    """The end of the parts of one server."""

    def __init__(
        self,
        *,
        health: HealthService,
        calls: Calls,
        limiters: Limiters,
        workers: Workers,
        store: Store,
        server: Server,
        traces: Traces | None = None,
    ) -> None:
        self._traces = traces
        self._health = health
        self._calls = calls
        self._limiters = limiters
        self._workers = workers
        self._store = store
        self._server = server

    def phases(self, seconds: float) -> tuple[Phase, ...]:
        """The phases of a drain that has so many seconds."""
        no_retries_seconds = min(NO_RETRIES_SECONDS, seconds / 2)
        return (
            Phase("finish", (self._calls.drain,), seconds - no_retries_seconds),
            Phase("no retries", (self._store.drain,), no_retries_seconds),
            # Calls that crossed our going are told to try again, as long as they come one upon the other.
            Phase(
                "answer",
                (self._store.abort, self._workers.abort, self._limiters.abort),
                CROSSING_SECONDS,
                quiet_seconds=QUIET_SECONDS,
            ),
        )

    async def end(self, *, grace_seconds: float) -> bool:
        """Go the whole way down; whether every thread has ended.

        A database that does not answer in that time holds nothing up: its callers are told so.
        """
        deadline = time.monotonic() + grace_seconds
        await self._health.stop_checking()
        await self._server.drain()
        await self._health.enter_graceful_shutdown()
        await self.drain(deadline - min(LAST_SECONDS, grace_seconds / 4))
        # Everything is answered; the last bytes get a moment. Whoever only watches health must not hold the end up.
        await self._server.stop(max(0.0, min(deadline - time.monotonic(), LAST_BYTES_SECONDS)))
        ended = await self._close_store()
        left_seconds = min(deadline - time.monotonic(), SPANS_SECONDS)
        await self._close_traces(max(left_seconds, CLOSE_SECONDS))
        return ended

    async def drain(self, deadline: float) -> None:
        """Refuse what arrives anew and see that all that had arrived is answered by `deadline` of the monotonic clock.

        What the engine does not let go on by then is answered truthfully: nothing is committed and nothing will be, or
        a COMMIT is under way and its outcome unknown.
        """
        for phase in self.phases(max(0.0, deadline - time.monotonic())):
            for tell in phase.tell:
                tell()
            await reached(self._idle, within_seconds=phase.at_most_seconds, for_seconds=phase.quiet_seconds)

    async def close(self) -> bool:
        """Give back what the parts hold; whether no thread had to be left behind."""
        ended = await self._close_store()
        await self._close_traces(CLOSE_SECONDS)
        return ended

    async def _close_store(self) -> bool:
        ended = await self._workers.close(within_seconds=CLOSE_SECONDS)
        return await self._store.close(within_seconds=CLOSE_SECONDS) and ended

    async def _close_traces(self, within_seconds: float) -> None:
        if self._traces is not None:  # what hangs there is left behind, and no reason to say that the store did
            await self._traces.close(within_seconds=within_seconds)

    def _idle(self) -> bool:
        return not (self._calls.in_flight or self._workers.waiting or self._store.busy)


async def reached(
    condition: Callable[[], bool], *, within_seconds: float, for_seconds: float = 0.0, every_seconds: float = 0.005
) -> bool:
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
        await asyncio.sleep(every_seconds)
    return condition()
