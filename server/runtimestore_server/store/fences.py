"""Locks the fences of runtimes, one row each, and refuses the writes of whoever does not hold the newest one."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

from runtimestore.errors import Fenced, StoredValueCorrupt
from runtimestore_server.store.by_key import lock_by_key
from runtimestore_server.store.reads import corrupt, is_count, is_text
from runtimestore_server.store.tables import fences
from runtimestore_server.store.values import RuntimeKey
from runtimestore_server.store.writes import Acquisition, Write

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy.engine import Connection

    from runtimestore_server.store.engines import Database
    from runtimestore_server.store.writes import AnyWrite


class Held(NamedTuple):
    """The newest fence of a runtime and who holds it."""

    fence: int
    owner: str | None


NEVER_ACQUIRED = Held(0, None)


_KEY = (fences.c.realm, fences.c.runtime_id)
_VALUES = (fences.c.fence, fences.c.owner)


class Fences:
    """The newest fences of the runtimes that a batch acquires, or writes with a fence; they stay so until it ends."""

    def __init__(self, database: Database, tx: Connection, batch: Sequence[AnyWrite], *, skip_held: bool) -> None:
        acquired = {one.runtime for one in batch if isinstance(one, Acquisition)}
        written = {one.runtime for one in batch if isinstance(one, Write) and one.fence is not None}
        # All at once: first to read and then to change them, two servers would wait for each other in a circle.
        self._locked = lock_by_key(
            database, tx, _KEY, _VALUES, sorted(acquired | written), share=not acquired, skip_held=skip_held
        )

    @cached_property
    def held(self) -> dict[RuntimeKey, Held]:
        """The fences of the runtimes that have one."""
        return {RuntimeKey(row.realm, row.runtime_id): Held(row.fence, row.owner) for row in self._locked().rows}

    @cached_property
    def held_by_others(self) -> set[RuntimeKey]:
        """The runtimes whose fences another session holds, if they were passed over."""
        return {RuntimeKey(*key) for key in self._locked().held}

    def refusal(self, write: Write) -> Fenced | StoredValueCorrupt | None:
        """Say why this write may not land, if so: its fence is not the newest."""
        if write.fence is None:
            return None
        newest = self.held.get(write.runtime)
        if newest is None:
            # Not even 0 fits: there is no row that would hold an acquisition up until this is written.
            newest, problem = NEVER_ACQUIRED, "is none of this runtime, which nobody has acquired;"
        elif is_count(newest.fence) and write.fence == newest.fence:
            return None
        elif damaged := damage(write.runtime, newest):
            return damaged
        else:
            # A greater one was never handed out here, but before this store was restored from a backup: no less a
            # stranger.
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


def damage(runtime: RuntimeKey, held: Held) -> StoredValueCorrupt | None:
    """Make the refusal to continue from a fence, or to name an owner, that no acquisition can have written."""
    # Neither comes from a backup: a fence that was handed out already would let an older writer in again.
    if not is_count(held.fence):
        cure = "set it to a number greater than every fence of this runtime that was handed out"
        return corrupt(fences.name, "has no fence", cure=cure, **runtime._asdict())
    if not is_text(held.owner):
        return corrupt(fences.name, "has no owner", cure="set its owner to any text", **runtime._asdict())
    return None
