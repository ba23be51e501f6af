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
| close      | workers and store close            | LONGEST_CLOSE_SECONDS, and       | every thread has ended         |
|            |                                    | CLOSE_SECONDS for each pool when |                                |
|            |                                    | the grace period is over         |                                |
| spans      | traces close                       | SPANS_SECONDS, and CLOSE_SECONDS | the collector has what waited  |
|            |                                    | when the grace period is over    |                                |

`Shutdown.phases` is this table in code.

The grace period wins over all: `finish` and `no retries` end before its last LAST_SECONDS, or its last quarter where
it is short, and `disconnect` gets no more than what is left. `answer` and `close` may go beyond it, by what stands
here.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from runtimestore_server.supervision import CLOSE_SECONDS, reached

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

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

LONGEST_CLOSE_SECONDS = 5.0
"""How long threads may take to end, within the grace period, when nothing waits for them any more. They have nothing to
do, and take longer than a moment where the machine is too busy to come to them, or where a database keeps them: then
they are left behind. CLOSE_SECONDS is the same when the grace period is over."""

SPANS_SECONDS = 2.0
"""How long the last spans may take to a collector, within the grace period."""


class Phase(NamedTuple):
    """A step on the way down: what is told and done, and how long at most its effect is waited for."""

    name: str
    tell: tuple[Callable[[], None], ...] = ()
    """Told at once, one after the other."""
    do: tuple[Callable[[float], Awaitable[bool | None]], ...] = ()
    """Done one after the other, each in what is left of the phase; False where one had to leave something behind."""
    at_most_seconds: float = math.inf
    at_least_seconds: float = 0.0
    """How long it has though nothing is left of the grace period."""
    leaves_seconds: float | None = None
    """How much of the grace period must be left then; None may go beyond it."""
    quiet_seconds: float | None = None
    """For how long on end nothing may be in flight before the next phase begins; None waits for no call."""

    def within_seconds(self, deadline: float) -> float:
        """Tell how long it may take from now on, where the grace period ends at `deadline`."""
        if self.leaves_seconds is None:
            return self.at_most_seconds
        left_seconds = deadline - self.leaves_seconds - time.monotonic()
        return max(self.at_least_seconds, min(self.at_most_seconds, left_seconds))


@dataclass(frozen=True, kw_only=True)
class Shutdown:
    """The end of the parts of one server."""

    health: HealthService
    calls: Calls
    limiters: Limiters
    workers: Workers
    store: Store
    server: Server
    traces: Traces | None = None

    def phases(self, grace_seconds: float) -> tuple[Phase, ...]:
        """Lay out the way down in so many seconds, from its first phase to its last."""
        last_seconds = min(LAST_SECONDS, grace_seconds / 4)
        no_retries_seconds = min(NO_RETRIES_SECONDS, (grace_seconds - last_seconds) / 2)
        return (
            Phase("tell", do=(self._tell,)),
            Phase("finish", (self.calls.drain,), leaves_seconds=last_seconds + no_retries_seconds, quiet_seconds=0.0),
            Phase(
                "no retries",
                (self.store.drain,),
                at_most_seconds=no_retries_seconds,
                leaves_seconds=last_seconds,
                quiet_seconds=0.0,
            ),
            # Calls that crossed our going are told to try again, as long as they come one upon the other.
            Phase(
                "answer",
                (self.store.abort, self.workers.abort, self.limiters.abort),
                at_most_seconds=CROSSING_SECONDS,
                quiet_seconds=QUIET_SECONDS,
            ),
            # Everything is answered; the last bytes get a moment. Whoever only watches health must not hold the end up.
            Phase("disconnect", do=(self.server.stop,), at_most_seconds=LAST_BYTES_SECONDS, leaves_seconds=0.0),
            Phase(
                "close",
                do=(self.workers.close, self.store.close),
                at_least_seconds=CLOSE_SECONDS,
                at_most_seconds=LONGEST_CLOSE_SECONDS,
                leaves_seconds=0.0,
            ),
            Phase(
                "spans",
                do=(self._close_traces,),
                at_least_seconds=CLOSE_SECONDS,
                at_most_seconds=SPANS_SECONDS,
                leaves_seconds=0.0,
            ),
        )

    async def end(self, *, grace_seconds: float) -> bool:
        """Go the whole way down; whether every thread has ended.

        A database that does not answer in that time holds nothing up: its callers are told so.
        """
        return await self._go(self.phases(grace_seconds), grace_seconds)

    async def close(self) -> bool:
        """Give back what the parts hold of a server that never served; whether no thread had to be left behind."""
        return await self._go(self.phases(0.0)[-2:], 0.0)

    async def _go(self, phases: tuple[Phase, ...], grace_seconds: float) -> bool:
        """Go through phases; whether nothing had to be left behind."""
        deadline = time.monotonic() + grace_seconds
        all_ended = True
        for phase in phases:
            for tell in phase.tell:
                tell()
            for do in phase.do:
                all_ended &= await do(phase.within_seconds(deadline)) is not False
            if phase.quiet_seconds is not None:
                within_seconds = phase.within_seconds(deadline)
                await reached(self._idle, within_seconds=within_seconds, for_seconds=phase.quiet_seconds)
        return all_ended

    async def _tell(self, _within_seconds: float) -> None:
        """Have nothing checked or begun anew, and health say NOT_SERVING."""
        await self.health.stop_checking()
        await self.server.drain()
        await self.health.enter_graceful_shutdown()

    async def _close_traces(self, within_seconds: float) -> None:
        if self.traces is not None:  # what hangs there is left behind, and no reason to say that the store did
            await self.traces.close(within_seconds=within_seconds)

    def _idle(self) -> bool:
        return not (self.calls.in_flight or self.workers.waiting or self.store.busy)
