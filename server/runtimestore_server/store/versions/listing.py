"""Lists the versions of a session that can be read."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

from runtimestore_server.integers import INT64_MAX
from runtimestore_server.store.engines import direct
from runtimestore_server.store.versions import selects
from runtimestore_server.store.versions.rows import (
    corrupt_version,
    current_of,
    damage_of,
    names_no_session,
    version_of,
)

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

    from runtimestore_server.store.values import RuntimeKey
    from runtimestore_server.store.versions.rows import Current, Version


def list_versions(tx: Connection, runtime: RuntimeKey, *, before_revision: int = INT64_MAX, most: int) -> list[Version]:
    """Up to `most` versions older than `before_revision`, newest first; none between two of them is missing.

    Raises:
        StoredValueCorrupt: what the row of one says of it is damaged, or one is lost.
    """
    rows = direct.find(tx, selects.page(), {**runtime._asdict(), "before": before_revision, "most": most})
    found = []
    for row in rows:
        if row.kind is None:
            continue
        version = version_of(row)
        if damage := damage_of(runtime, version, row.seal):
            raise damage
        found.append(version)
    if rows and before_revision == INT64_MAX:
        _see_that_the_newest_is_there(
            runtime, current_of(runtime, rows[0].session_revision, rows[0].session_sha256), found
        )
    for later, earlier in pairwise(found):
        if later.previous_revision is not None and later.previous_revision > earlier.revision:
            raise corrupt_version(runtime, later.previous_revision, "is missing")
    return found


def _see_that_the_newest_is_there(runtime: RuntimeKey, current: Current | None, found: list[Version]) -> None:
    if current is None and found:
        raise names_no_session(runtime)
    if current is not None and (not found or found[0].revision < current.revision):
        raise corrupt_version(runtime, current.revision, "is missing")
