"""Fences: one row a runtime, which says who drives it. An older writer is held back by the transaction it writes in."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

from runtimestore.errors import Fenced, StoredValueCorrupt
from runtimestore_server.store import keyed
from runtimestore_server.store.keyed import select_by_key
from runtimestore_server.store.reads import corrupt, is_count, is_text
from runtimestore_server.store.requests import Decision, RequestMemory, RowTaken
from runtimestore_server.store.tables import fences
from runtimestore_server.store.values import Acquisition, Outcome, RuntimeKey, Write

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import sqlalchemy as sa
    from sqlalchemy.engine import Connection

    from runtimestore_server.store.engines import Database


class Held(NamedTuple):
    """The newest fence of a runtime and who holds it."""

    fence: int
    owner: str | None


NEVER_ACQUIRED = Held(0, None)


def commit(database: Database, tx: Connection, batch: Sequence[Acquisition], *, now_ms: int) -> list[Decision]:
    """Give each acquisition of a batch a fence greater than all before it.

    Raises:
        RowTaken: another transaction acquired a runtime for the first time, or recorded a request id, meanwhile; run
            again.
    """
    held = _held(database, tx, {acquisition.runtime for acquisition in batch}, for_change=True)
    existing = set(held)
    memory = RequestMemory(database, tx, batch)
    rows: dict[RuntimeKey, tuple[int, str, int]] = {}
    decisions: list[Decision] = []
    for acquisition in batch:
        if known := memory.recall(acquisition):
            decisions.append(known)
            continue
        before = held.get(acquisition.runtime, NEVER_ACQUIRED)
        if acquisition.runtime in held and (damaged := _damage(acquisition.runtime, before)):
            decisions.append(damaged)
            continue
        now = held[acquisition.runtime] = Held(before.fence + 1, acquisition.owner)
        rows[acquisition.runtime] = (now.fence, acquisition.owner, now_ms)
        memory.remember(acquisition, now.fence)
        decisions.append(Outcome(now.fence, previous_owner=before.owner))
    # A row that was not there could not be locked: there the key decides.
    first = [(*key, *row) for key, row in sorted(rows.items()) if key not in existing]
    if database.insert_new(tx, fences, first) != len(first):
        raise RowTaken
    database.upsert(tx, fences, [(*key, *row) for key, row in sorted(rows.items()) if key in existing])
    memory.record(now_ms)
    return decisions


def lock(database: Database, tx: Connection, batch: Sequence[object]) -> None:
    """Lock the fences of a batch that has acquisitions and writes with a fence, all at once.

    One kind after the other, first to read and then to change them, two servers would wait for each other in a circle.
    """
    acquired = {one.runtime for one in batch if isinstance(one, Acquisition)}
    written = {one.runtime for one in batch if isinstance(one, Write) and one.fence is not None}
    if acquired and written:
        _held(database, tx, acquired | written, for_change=True)


def held_by_writers(database: Database, tx: Connection, batch: Sequence[Write]) -> dict[RuntimeKey, Held]:
    """The newest fences of the runtimes that writes with a fence are about; they stay so until the transaction ends."""
    return _held(database, tx, {write.runtime for write in batch if write.fence is not None}, for_change=False)


def held_by_others(database: Database, tx: Connection, batch: Sequence[Acquisition]) -> set[RuntimeKey]:
    """The runtimes that these acquisitions would have to wait for, because another session holds their fences now."""
    return _held_by_others(database, tx, {acquisition.runtime for acquisition in batch}, for_change=True)


def held_from_writers(database: Database, tx: Connection, batch: Sequence[Write]) -> set[RuntimeKey]:
    """The runtimes whose fences writes with a fence would have to wait for; those of other writers do not count."""
    return _held_by_others(
        database, tx, {write.runtime for write in batch if write.fence is not None}, for_change=False
    )


def _held_by_others(
    database: Database, tx: Connection, runtimes: Iterable[RuntimeKey], *, for_change: bool
) -> set[RuntimeKey]:
    columns = (fences.c.realm, fences.c.runtime_id)
    held = keyed.held_by_others(database, tx, columns, sorted(runtimes), read=not for_change)
    return {RuntimeKey(*key) for key in held}


def _damage(runtime: RuntimeKey, held: Held) -> StoredValueCorrupt | None:
    """The refusal to count on from a fence, or to tell an owner, that no acquisition left."""
    # Neither comes from a backup: a fence that was handed out already would let an older writer in again.
    if not is_count(held.fence):
        cure = "set it to a number greater than every fence of this runtime that was handed out"
        return corrupt(fences.name, "has no fence", cure=cure, **runtime._asdict())
    if not is_text(held.owner):
        return corrupt(fences.name, "has no owner", cure="set its owner to any text", **runtime._asdict())
    return None


def refusal(write: Write, held: dict[RuntimeKey, Held]) -> Fenced | StoredValueCorrupt | None:
    """Why this write may not land, if so: its fence is not the newest."""
    if write.fence is None:
        return None
    newest = held.get(write.runtime)
    if newest is None:
        # Not even 0 fits: there is no row that would hold an acquisition up until this is written.
        newest, problem = NEVER_ACQUIRED, "is none of this runtime, which nobody has acquired;"
    elif is_count(newest.fence) and write.fence == newest.fence:
        return None
    elif damaged := _damage(write.runtime, newest):
        return damaged
    else:
        # A greater one was never handed out here, but by a store that this one was restored after: no less a stranger.
        problem = f"is not the newest of this runtime, which is {newest.fence}: another one drives it now; stop, or"
    return Fenced(
        f"fence {write.fence} {problem} acquire it again",
        metadata={
            "runtime_id": write.runtime.runtime_id,
            "fence": str(write.fence),
            "current_fence": str(newest.fence),
            "owner": newest.owner or "",
        },
    )


def _held(
    database: Database, tx: Connection, runtimes: Iterable[RuntimeKey], *, for_change: bool
) -> dict[RuntimeKey, Held]:
    keys = sorted(runtimes)
    if not keys:
        return {}
    columns = (fences.c.realm, fences.c.runtime_id)
    rows = tx.execute(_locked(database, for_change=for_change), database.keys(columns, keys))
    return {RuntimeKey(row.realm, row.runtime_id): Held(row.fence, row.owner) for row in rows}


@cache
def _locked(database: Database, *, for_change: bool) -> sa.Select[Any]:
    columns = (fences.c.realm, fences.c.runtime_id)
    return (
        select_by_key(database, columns, (*columns, fences.c.fence, fences.c.owner))
        .order_by(*columns)
        .with_for_update(of=fences, read=not for_change)
    )
