"""Which calls wait for each other before they are received."""

from __future__ import annotations

from typing import TYPE_CHECKING

from grpc_reflection.v1alpha import reflection

from runtimestore.errors import Overloaded
from runtimestore.v1 import runtime_store_pb2
from runtimestore_server.interceptors.admission import Door
from runtimestore_server.interceptors.arrivals import LOADS
from runtimestore_server.interceptors.receiving import Receiving

if TYPE_CHECKING:
    from collections.abc import Callable

    from runtimestore_server.settings import Settings

_STORE = runtime_store_pb2.DESCRIPTOR.services_by_name["RuntimeStore"]

WRITES = frozenset(
    f"/{_STORE.full_name}/{method.name}" for method in _STORE.methods if not method.name.startswith(LOADS)
)
"""The paths of the methods that write."""

EXCHANGES = frozenset({f"/{reflection.SERVICE_NAME}/ServerReflectionInfo"})
"""The paths of the methods whose callers send any number of messages, when they like."""

WRITES_PATIENCE_SECONDS = 10.0
WRITES_LONGEST_SECONDS = 60.0
"""How long the message of a write may be on its way while others wait for its place; histories are large."""

RECEIVING_OTHERS = 8
"""How many messages of other calls than writes are received at once. They are small, but nothing in gRPC keeps a caller
from sending the largest to any method."""

EXCHANGING = 4
"""How many streams of requests are open at once, each with a place to its end."""

OTHERS_PATIENCE_SECONDS = 1.0
OTHERS_LONGEST_SECONDS = 2.0
"""The same for calls of either kind: each of their messages takes one packet."""


class Doors:
    """The door of the writes, that of the streams of requests, and that of all the rest.

    `overload` says why no write can be taken in when so many are arriving before it.
    """

    def __init__(
        self,
        settings: Settings,
        overload: Callable[[int], Overloaded | None],
        comeback_seconds: Callable[[], float],
    ) -> None:
        def too_many(waiting: int) -> Overloaded | None:
            if waiting < settings.max_waiting_reads:
                return None
            return Overloaded(
                f"{waiting} calls wait to be received; try again later",
                metadata={"waiting_reads": str(waiting)},
                retry_after_seconds=comeback_seconds(),
            )

        self.writes = Door(
            Receiving(
                at_once=settings.max_receiving_writes,
                patience_seconds=WRITES_PATIENCE_SECONDS,
                longest_seconds=WRITES_LONGEST_SECONDS,
                comeback_seconds=comeback_seconds,
            ),
            overload,
        )
        self.others, self.exchanges = (
            Door(
                Receiving(
                    at_once=at_once,
                    patience_seconds=OTHERS_PATIENCE_SECONDS,
                    longest_seconds=OTHERS_LONGEST_SECONDS,
                    comeback_seconds=comeback_seconds,
                ),
                too_many,
            )
            for at_once in (RECEIVING_OTHERS, EXCHANGING)
        )

    def of(self, method: str) -> Door:
        """The door of the method with this path."""
        if method in WRITES:
            return self.writes
        return self.exchanges if method in EXCHANGES else self.others

    def abandon(self) -> None:
        """Refuse the calls that wait to be received, and those whose messages have not come."""
        for door in (self.writes, self.others, self.exchanges):
            door.receiving.abandon()
