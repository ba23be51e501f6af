"""Carries the sessions of a store without versions over, a bounded slice at a time, each moved and never copied.

What was carried is gone from the former table in the same transaction: so it can be cut off after any slice, and goes
on from there. Keys do not leave the engine, whatever damage they have.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

FORMER = "session_snapshots_to_carry"
"""What the table is called while there are any. Servers of the version before must not find it: they would tell of each
session that was carried that there is none."""

SLICE_BYTES = 16 * 1024 * 1024
SLICE_ROWS = 1000


_FORMER = sa.table(FORMER, *map(sa.column, ("realm", "runtime_id", "session_id", "sha256", "body")))
_VERSIONS = sa.table(
    "session_versions",
    *map(sa.column, ("realm", "runtime_id", "revision", "kind", "session_id", "sha256", "size_bytes", "body")),
)
_RUNTIMES = sa.table(
    "runtimes", *map(sa.column, ("realm", "runtime_id", "revision", "session_revision", "session_sha256"))
)


def carry_some(connection: Connection) -> int:
    """Carry a slice over; about how many bytes that were. 0: nothing is left.

    Each session becomes the first version that is known of it, at the revision that its runtime is at. A snapshot
    without a runtime is damage, which `verify` tells of: it keeps its row, at revision 1. Neither the new rows nor the
    runtimes' digests are sealed: the documents' own SHA-256 came over, and is all there is.
    """
    if FORMER not in sa.inspect(connection).get_table_names():
        return 0
    key = (_FORMER.c.realm, _FORMER.c.runtime_id)
    sizes = connection.execute(sa.select(sa.func.length(_FORMER.c.body)).order_by(*key).limit(SLICE_ROWS))
    rows = size_bytes = 0
    for size in sizes.scalars().all():
        rows += 1
        size_bytes += 1 + (size or 0)
        if size_bytes >= SLICE_BYTES:
            break
    if rows:
        these = sa.select(*key).order_by(*key).limit(rows)
        _carry(connection, these)
        connection.execute(sa.delete(_FORMER).where(sa.tuple_(*key).in_(these)))
    return size_bytes


def _carry(connection: Connection, these: sa.Select[Any]) -> None:
    its = sa.and_(_RUNTIMES.c.realm == _FORMER.c.realm, _RUNTIMES.c.runtime_id == _FORMER.c.runtime_id)
    revision = sa.func.coalesce(_RUNTIMES.c.revision, sa.literal_column("1"))
    former = _FORMER.c
    first_versions = (
        sa.select(
            former.realm,
            former.runtime_id,
            revision,
            sa.literal_column("'base'"),
            former.session_id,
            former.sha256,
            sa.func.length(former.body),
            former.body,
        )
        .select_from(_FORMER.outerjoin(_RUNTIMES, its))
        .where(sa.tuple_(former.realm, former.runtime_id).in_(these))
    )
    connection.execute(sa.insert(_VERSIONS).from_select([column.name for column in _VERSIONS.c], first_versions))
    connection.execute(
        sa.update(_RUNTIMES)
        .where(sa.tuple_(_RUNTIMES.c.realm, _RUNTIMES.c.runtime_id).in_(these))
        .values(
            session_revision=_RUNTIMES.c.revision,
            session_sha256=sa.select(former.sha256).where(its).correlate(_RUNTIMES).scalar_subquery(),
        )
    )
