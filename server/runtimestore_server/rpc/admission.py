"""Decides who may be received and how much may wait: the limiter of each kind of call."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from grpc_reflection.v1alpha import reflection

from runtimestore.errors import StoreUnavailable
from runtimestore.v1 import runtime_store_pb2
from runtimestore_server.budget import Bound, Budget
from runtimestore_server.rpc.small_messages import LOOKS_OF_OTHERS, LateMessages, late, late_beside_growth
from runtimestore_server.rpc.upload_slots import ENDS, UploadSlots
from runtimestore_server.rpc.watches import Watches

if TYPE_CHECKING:
    import asyncio

    from runtimestore_server.budget import RetryPacing
    from runtimestore_server.settings import Settings

_STORE = runtime_store_pb2.DESCRIPTOR.services_by_name["RuntimeStore"]

OURS = "/runtimestore."
"""How the paths of our own services begin."""

LOADS = ("Load", "AuthAuthorityKey", "GetServerInfo")
"""How the names of the methods begin that only read."""

WRITES = frozenset(
    f"/{_STORE.full_name}/{method.name}" for method in _STORE.methods if not method.name.startswith(LOADS)
)
"""The paths of the methods that write documents."""

EXCHANGES = frozenset({f"/{reflection.SERVICE_NAME}/ServerReflectionInfo"})
"""The paths of the methods whose callers send any number of messages, when they like."""

PROMPT = "/grpc.health."
"""How the paths of the methods begin whose messages come with their calls: anybody may ask for health."""

# What acts together on who is received. How many slots there are of each kind, writes' being a setting:

UPLOAD_SLOTS_OF_OTHERS = 8
"""How many messages of other calls than writes are received at once. They are small, but nothing in gRPC keeps a caller
from sending the largest to any method."""

EXCHANGING = 4
"""How many streams of requests are open at once, each with a slot to its end."""

STRANGERS = 3
"""How many messages are received at once of those who show no credential where one is asked for, two of them of one
host, whatever connections it has: one that holds what it may keeps no probe of another host waiting. They may ask for
the health of the whole server, which is an empty message; what they send instead is in nobody's way, and given up
before it fills anything (`small_messages`)."""

# And for how long each may be kept. Nobody is sent away where nobody waits. Else `…_PATIENCE_SECONDS` wins for whoever
# has several slots while another has none, or was late before; `…_LONGEST_SECONDS` for all others. A caller's own
# deadline wins over both, and for small messages the growth of the process does (`small_messages`).

WRITES_PATIENCE_SECONDS = 10.0
WRITES_LONGEST_SECONDS = 60.0
"""How long the message of a write may be on its way while others wait for its slot; histories are large."""

OTHERS_PATIENCE_SECONDS = 1.0
OTHERS_LONGEST_SECONDS = 2.0
"""The same for all other calls: each of their messages takes one packet."""

LATE_STRANGERS_SECONDS = 60.0
"""For how long a host of strangers that kept a place without a message has its turns after those of others: it takes as
many hosts as places can be kept in that time to keep all others waiting, and not four."""


class Limiter(NamedTuple):
    """What calls of one kind pass before they are received."""

    slots: UploadSlots
    budget: Budget
    """What bounds those who wait for a slot, together with all that waits behind them."""

    def admit(self, call: asyncio.Task[Any], connection: str) -> bool:
        """Tell whether the message of a call may be received at once: it has a slot then, until `slots.end`.

        Raises:
            Overloaded: too much waits already.
        """
        slots, budget = self
        must_wait = slots.must_wait(connection)
        # Those who wait for a slot are nothing to a connection that need not wait with them.
        if (refusal := budget.refusal(ahead=slots.waiting if must_wait else 0)) is not None:
            raise refusal
        if not must_wait:
            slots.take(call, connection)
        return not must_wait

    async def wait(self, call: asyncio.Task[Any], connection: str) -> None:
        """Wait until the message of a call may be received; it has a slot then, until `slots.end`.

        Raises:
            Overloaded: too much waits when its turn comes: what filled up meanwhile may have come in another way.
            NotReceived: the server ends.
        """
        if await self.slots.begin(call, connection) and (refusal := self.budget.refusal()) is not None:
            raise refusal


class Limiters:
    """The limiter of the writes, that of the streams of requests, that of strangers, and that of all the rest.

    `writes` bounds the writes that wait for their transaction: those that wait to be received count beside them.
    """

    def __init__(self, settings: Settings, writes: Budget, pacing: RetryPacing) -> None:
        self.writes = Limiter(
            UploadSlots(
                at_once=settings.max_receiving_writes,
                patience_seconds=WRITES_PATIENCE_SECONDS,
                longest_seconds=WRITES_LONGEST_SECONDS,
                pacing=pacing,
            ),
            writes,
        )
        self._late_to_health = LateMessages(late)
        self._late = LateMessages(lambda: late_beside_growth(pacing), looks=LOOKS_OF_OTHERS)
        self.watches = Watches()
        waiting = Bound(settings.max_waiting_reads, "waiting_reads", "calls wait to be received")
        self.others, self.exchanges, self.strangers = (
            Limiter(
                UploadSlots(
                    at_once=at_once,
                    patience_seconds=OTHERS_PATIENCE_SECONDS,
                    longest_seconds=OTHERS_LONGEST_SECONDS,
                    pacing=pacing,
                    late_seconds=late_seconds,
                ),
                Budget(pacing, items=waiting),
            )
            for at_once, late_seconds in (
                (UPLOAD_SLOTS_OF_OTHERS, 0.0),
                (EXCHANGING, 0.0),
                (STRANGERS, LATE_STRANGERS_SECONDS),
            )
        )

    def of(self, method: str) -> Limiter:
        """Return the limiter of the method with this path."""
        if method in WRITES:
            return self.writes
        return self.exchanges if method in EXCHANGES else self.others

    def late_of(self, method: str) -> LateMessages | None:
        """Return what refuses slow messages of the method with this path; None where they may be slow."""
        if method in WRITES or method in EXCHANGES:
            return None
        return self._late_to_health if method.startswith(PROMPT) else self._late

    def abort(self, because: str = ENDS) -> None:
        """Refuse the calls that wait to be received, and those whose messages have not come."""
        for limiter in (self.writes, self.others, self.exchanges, self.strangers):
            limiter.slots.abort(because)

    def restart(self) -> None:
        """Refuse the same calls, since gRPC's server stopped by itself and nobody knows which of them were its."""
        self.abort("gRPC stopped by itself and is started again")


def unavailable(method: str, because: str) -> StoreUnavailable:
    """Make the refusal, for the method with this path, of a call that arrived or waited, and is received no more."""
    writes = method.startswith(OURS) and not method.rpartition("/")[2].startswith(LOADS)
    store_error = "write_failed" if writes else "read_failed"
    return StoreUnavailable(f"{because}; nothing was done, try again", metadata={"store_error": store_error})
