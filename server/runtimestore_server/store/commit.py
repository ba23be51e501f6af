"""Commits a batch of writes of any kinds as if they had come one after the other: the one driver for all kinds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from runtimestore_server.store.fences import Fences
from runtimestore_server.store.kinds import KINDS, Transaction
from runtimestore_server.store.requests import RequestMemory
from runtimestore_server.store.values import DEFERRED

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sqlalchemy.engine import Connection

    from runtimestore_server.store.engines import Database
    from runtimestore_server.store.kinds.kind import Part
    from runtimestore_server.store.requests import Decision
    from runtimestore_server.store.values import Deferred
    from runtimestore_server.store.writes import AnyWrite


def commit(
    database: Database,
    tx: Connection,
    batch: Sequence[AnyWrite],
    *,
    now_ms: Callable[[], int],
    skip_held: bool = False,
) -> list[Decision | Deferred]:
    """Put a batch of writes into the store: each lands whole or is refused whole.

    Rows are locked in one order everywhere, fences first, then kind by kind, each by their keys, so that no two
    transactions wait for each other in a circle. The order of a decision is that of the questions: was this request
    seen before, may it land here at all, does what is stored fit what it expects? What passes all is written. The
    second write to a subject sees what the first one left. Nothing is decided by anything outside `tx`, so that the
    transaction can be run again.

    Where the engine takes statements ahead, the questions are sent behind the locks without waiting for those: it
    answers them one after the other, each as of when its turn comes.

    With `skip_held`, a write whose rows another session holds is deferred instead of waited for, and so is every other
    write to its subject.

    Raises:
        RowTaken: another transaction inserted a row that this one needs; run again.
    """
    fences = Fences(database, tx, batch, skip_held=skip_held)
    transaction = Transaction(database, tx, now_ms, skip_held, fences)
    parts = [part for begin in KINDS if (part := begin(transaction, batch))]
    held: set[object] = {*fences.held_by_others} if skip_held else set()
    locks = []
    for part in parts:
        locks.append(part.lock(held))
        if skip_held:
            held |= locks[-1]().held  # who is passed over here is not asked about further down
    memory = _asked(database, tx, batch, parts, held)
    found = [lock() for lock in locks]
    if any(lock.made for lock in found):
        memory = _asked(database, tx, batch, parts, held)
    memory.load()
    decisions: list[Decision | Deferred] = [DEFERRED] * len(batch)
    for part in parts:
        for position, decision in part.decide(memory, held):
            decisions[position] = decision
    memory.record(now_ms())
    for part in parts:
        part.confirm()
    memory.confirm()
    return decisions


def _asked(
    database: Database, tx: Connection, batch: Sequence[AnyWrite], parts: Sequence[Part[Any]], held: set[object]
) -> RequestMemory:
    """Send the queries that decide about all writes whose rows are locked."""
    memory = RequestMemory(database, tx, [write for write in batch if write.subject not in held])
    for part in parts:
        part.ask(held)
    return memory
