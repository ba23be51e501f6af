"""Lists the versions of a session that can be read."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from runtimestore_server.integers import INT64_MAX
from runtimestore_server.store.tables import session_versions
from runtimestore_server.store.versions.rows import DESCRIPTION, damage_of, version_of

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

    from runtimestore_server.store.values import RuntimeKey
    from runtimestore_server.store.versions.rows import Version


def list_versions(tx: Connection, runtime: RuntimeKey, *, before_revision: int = INT64_MAX, most: int) -> list[Version]:
    """Up to `most` versions older than `before_revision`, newest first.

    Raises:
        StoredValueCorrupt: what the row of one says of it is damaged.
    """
    asked = {**runtime._asdict(), "before": before_revision, "most": most}
    found = []
    for row in tx.execute(_page(), asked):
        version = version_of(row)
        if damage := damage_of(runtime, version, row.seal):
            raise damage
        found.append(version)
    return found


@cache
def _page() -> sa.Select[Any]:
    table = session_versions
    older = sa.and_(
        table.c.realm == sa.bindparam("realm", type_=sa.Text),
        table.c.runtime_id == sa.bindparam("runtime_id", type_=sa.Text),
        table.c.revision < sa.bindparam("before", type_=sa.BigInteger),
    )
    statement = sa.select(*DESCRIPTION, table.c.seal).where(older).order_by(table.c.revision.desc())
    return statement.limit(sa.bindparam("most", type_=sa.Integer))
