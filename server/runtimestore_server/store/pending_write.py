"""A write in the queue of a commit thread, and what is told of it where it comes to no decision."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from runtimestore.errors import StoreUnavailable
from runtimestore_server.store.transaction import unknown

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from opentelemetry.trace import Span

    from runtimestore.errors import CommitOutcomeUnknown
    from runtimestore_server.store.commit_gate import CommitGate
    from runtimestore_server.store.requests import Decision
    from runtimestore_server.store.values import Outcome
    from runtimestore_server.store.writes import AnyWrite


class PendingWrite:
    """A write that was taken in and is not answered yet, and the future that its handler awaits."""

    __slots__ = ("answer", "decision", "gate", "since", "size_bytes", "span", "unanswered", "write")

    def __init__(self, write: AnyWrite, answer: asyncio.Future[Outcome]) -> None:
        self.write = write
        self.span: Span | None = None
        """The span of its waiting for its batch, where its call has one."""
        self.size_bytes = write.size_bytes
        self.answer = answer
        self.since = time.monotonic()
        self.gate: CommitGate | None = None
        """The gate of the batch that it is in; None while nothing of it can be there."""
        self.decision: Decision | None = None
        """What was decided when its handler did not wait any more; None while nothing was."""
        self.unanswered: Callable[[Decision], None] | None = None
        """Told of that decision, once the handler has left that behind."""


def truth_about(pending: PendingWrite) -> CommitOutcomeUnknown | StoreUnavailable:
    """Return what is told of a write that comes to no decision any more."""
    gate = pending.gate  # once: its thread may take it away meanwhile
    if gate is not None and gate.begun:
        return unknown()
    return StoreUnavailable("the server failed, or ended, before this write was committed; nothing was committed")
