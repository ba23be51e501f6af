"""Deletes session versions past the history that is kept, unless a kept version is built on them.

Each moment since the history began can be asked for, so the version that was the newest at its beginning is kept, and
with it all from its base on. What is before that base goes, a base with its edits at a time and the oldest first: so
what is left can always be read, wherever a server is killed.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from runtimestore_server.store.tables import BASE, session_versions
from runtimestore_server.store.values import RuntimeKey
from runtimestore_server.store.versions.rows import DESCRIPTION, damage_of, version_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy.engine import Connection

    from runtimestore_server.store.versions.folding import Folding

Place = tuple[int, str, str, int]
"""When a base was committed, and its key."""

_T = session_versions


class Pruning:
    """Looks at each base once it is older than what is kept, as a sweep of maintenance: older ones than it may go.

    How far it has come is kept in memory only: after a start it looks at all bases once.
    """

    pending = True

    def __init__(self, before_ms: Callable[[Connection], int], folding: Folding) -> None:
        self._before_ms = before_ms
        self._folding = folding
        self._reached: Place = (-1, "", "", 0)
        self._next: Place = self._reached
        self._looked_at_folded = 0
        self.count = 0
        """How many versions were deleted since the server started."""
        self._deleted = 0

    def sweep(self, tx: Connection, most: int) -> int:
        """Delete about `most` versions at most; how many, and how many bases were looked at."""
        before_ms = self._before_ms(tx)
        self._deleted = 0
        self._next = min(self._reached, (before_ms, "", "", 0))  # the clock may have been set back
        self._looked_at_folded = 0
        looked_at = 0
        # A version that became a base after its time had been passed.
        for runtime, version in self._folding.folded:
            if self._deleted >= most:
                return looked_at + self._deleted
            looked_at += 1
            if version.committed_at_ms is not None and version.committed_at_ms < before_ms:
                self._delete_before(tx, runtime, version.revision, most)
            self._looked_at_folded += self._deleted < most
        for row in tx.execute(_bases(), _asked(self._next, before_ms, most)).all():
            if self._deleted >= most:
                break
            looked_at += 1
            version, runtime = version_of(row), RuntimeKey(row.realm, row.runtime_id)
            if not damage_of(runtime, version, row.seal):  # its date may be the damage
                self._delete_before(tx, runtime, version.revision, most)
            if self._deleted < most:
                self._next = (row.committed_at_ms, row.realm, row.runtime_id, row.version_revision)
        return looked_at + self._deleted

    def _delete_before(self, tx: Connection, runtime: RuntimeKey, base: int, most: int) -> None:
        """Delete what is older than a base, from each base to the next one, until that is `most`."""
        named = sa.and_(_T.c.realm == runtime.realm, _T.c.runtime_id == runtime.runtime_id)
        bases = sa.select(_T.c.revision).where(named, _T.c.kind == BASE, _T.c.revision <= base).order_by(_T.c.revision)
        for revision in tx.execute(bases.offset(1)).scalars().all():
            if self._deleted >= most:
                return
            deleted = sa.delete(_T).where(named, _T.c.revision < revision)
            self._deleted += tx.execute(deleted).rowcount

    def settle(self) -> None:
        """Take note that the transaction of the last sweep was committed."""
        self._reached = self._next
        del self._folding.folded[: self._looked_at_folded]
        self.count += self._deleted
        self._deleted = self._looked_at_folded = 0


def _asked(after: Place, before_ms: int, most: int) -> dict[str, Any]:
    return {
        **dict(zip(("at", "realm", "runtime_id", "revision"), after, strict=True)),
        "before": before_ms,
        "most": most,
    }


@cache
def _bases() -> sa.Select[Any]:
    at = sa.bindparam("at", type_=sa.BigInteger)
    names = (
        sa.bindparam("realm", type_=sa.Text),
        sa.bindparam("runtime_id", type_=sa.Text),
        sa.bindparam("revision", type_=sa.BigInteger),
    )
    key = sa.tuple_(_T.c.realm, _T.c.runtime_id, _T.c.revision)
    return (
        sa.select(_T.c.realm, _T.c.runtime_id, *DESCRIPTION, _T.c.seal)
        .where(
            sa.text("kind = 'base'"),  # as the index has it: a parameter might be anything
            _T.c.committed_at_ms >= at,
            _T.c.committed_at_ms < sa.bindparam("before", type_=sa.BigInteger),
            sa.or_(_T.c.committed_at_ms > at, key > sa.tuple_(*names)),
        )
        .order_by(_T.c.committed_at_ms, _T.c.realm, _T.c.runtime_id, _T.c.revision)
        .limit(sa.bindparam("most", type_=sa.Integer))
    )
