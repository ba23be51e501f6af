"""Lists the versions of a session that can be read, up to the first that cannot be told."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from runtimestore.errors import StoredValueCorrupt
from runtimestore_server.integers import INT64_MAX
from runtimestore_server.store.engines import direct
from runtimestore_server.store.versions import selects
from runtimestore_server.store.versions.rows import corrupt_version, current_of, damage_of, names_no_session, version_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sqlalchemy.engine import Connection

    from runtimestore_server.store.values import RuntimeKey
    from runtimestore_server.store.versions.rows import Version


class Damage(NamedTuple):
    """What keeps a list from going on, and behind which revision it can be gone on past that."""

    refusal: StoredValueCorrupt
    behind: int


class Listed(NamedTuple):
    """Versions of a session, newest first; none between two of them is missing."""

    versions: list[Version]
    damage: Damage | None = None
    """What stands behind the last of them, or before all there are; None where nothing wrong was met."""


def list_versions(tx: Connection, runtime: RuntimeKey, *, behind: int | None = None, most: int) -> Listed:
    """Find up to `most` versions older than that of a revision, or from the newest on, up to the first damaged one.

    A version is damaged where what its row says of it is, or where it is lost: the one after it names it, also where
    that is the one that this list begins behind, and the runtime names the newest.
    """
    before = INT64_MAX if behind is None else behind
    # One more, since the one that it begins behind is found too.
    rows = direct.find(tx, selects.page(), {**runtime._asdict(), "up_to": before, "most": most + 1})
    its = [row for row in rows if row.kind is not None]
    if behind is None:
        damage = _damage_of_newest(runtime, rows[0], its) if rows else None
        return Listed([], damage) if damage else _sound(runtime, None, its, most)
    if its and its[0].version_revision == behind:
        begins_behind, *its = its
        after = version_of(begins_behind)
        # Of a damaged one its caller was told.
        return _sound(runtime, None if damage_of(runtime, after, begins_behind.seal) else after, its, most)
    return _sound(runtime, None, its, most)


def _sound(runtime: RuntimeKey, after: Version | None, its: Iterable[Any], most: int) -> Listed:
    """Take the versions behind one, up to the first that is damaged or lost."""
    found: list[Version] = []
    for row in its:
        if len(found) == most:
            break
        version = version_of(row)
        before = after.previous_revision if after is not None else None
        if before is not None and before > version.revision:
            return Listed(found, Damage(corrupt_version(runtime, before, "is missing"), before))
        if refusal := damage_of(runtime, version, row.seal):
            return Listed(found, Damage(refusal, version.revision))
        found.append(version)
        after = version
    return Listed(found)


def _damage_of_newest(runtime: RuntimeKey, row: Any, its: list[Any]) -> Damage | None:
    """Say what is wrong with which version a runtime's row names as the newest."""
    try:
        current = current_of(runtime, row.session_revision, row.session_sha256)
    except StoredValueCorrupt as refusal:
        return Damage(refusal, INT64_MAX)
    if current is None:
        return Damage(names_no_session(runtime), INT64_MAX) if its else None
    if not its or its[0].version_revision < current.revision:
        return Damage(corrupt_version(runtime, current.revision, "is missing"), current.revision)
    return None
