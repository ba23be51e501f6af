"""The rows of versions as values, and the seals in which any damage of them shows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import sqlalchemy as sa

from runtimestore_server.store.digests import SHA256_BYTES, seal
from runtimestore_server.store.reads import bad_revision, corrupt, is_count, is_text
from runtimestore_server.store.tables import BASE, UINT64_DIGITS, runtimes, session_versions

if TYPE_CHECKING:
    from runtimestore.errors import StoredValueCorrupt
    from runtimestore_server.store.values import RuntimeKey


UNKNOWN = 0
"""As the revision of the version before one: nobody knows if there was any."""


class Current(NamedTuple):
    """The newest version of a runtime's session."""

    revision: int
    sha256: bytes


class Version(NamedTuple):
    """A row of `session_versions`, but for its key's runtime, its seal and its body; in the order of the columns."""

    revision: int
    kind: str
    session_id: str
    sha256: bytes
    size_bytes: int
    previous_revision: int | None
    committed_at_ms: int | None
    run_id: str | None
    sequence: int | None


DESCRIPTION: tuple[sa.ColumnElement[Any], ...] = (
    # Under a name of its own, since it is selected beside that of its runtime.
    session_versions.c.revision.label("version_revision"),
    *(session_versions.c[name] for name in Version._fields[1:-1]),
    # As it is stored: damage must not stop the statement.
    sa.type_coerce(session_versions.c.sequence, sa.types.NullType()).label("sequence"),
)
"""The columns of a `Version`."""


def version_of(row: Any) -> Version:
    """Return the version in a row that has these columns."""
    middle = (getattr(row, name) for name in Version._fields[1:-1])
    return Version._make((row.version_revision, *middle, sequence_of(row.sequence)))


def sequence_of(stored: Any) -> Any:
    """Return the number of a boundary in a column as it is stored, if it is one."""
    if isinstance(stored, str) and len(stored) == UINT64_DIGITS and stored.isascii() and stored.isdecimal():
        return int(stored)
    return stored


def sealed(runtime: RuntimeKey, version: Version) -> bytes:
    """Make the seal of a version's row."""
    return seal(b"version/1", *runtime, *version)


def damage_of(runtime: RuntimeKey, version: Version, stored_seal: object) -> StoredValueCorrupt | None:
    """Make the refusal to hand out what a row says of a version, if it is not as it was written."""
    if stored_seal is None and version.committed_at_ms is None:
        # It came over from a store that had no seals.
        sound = is_count(version.revision) and version.kind == BASE and is_text(version.session_id)
        sound = sound and isinstance(version.sha256, bytes) and is_count(version.size_bytes)
        sound = sound and version[Version._fields.index("previous_revision") :] == (None, None, None, None)
    else:
        sound = stored_seal == sealed(runtime, version)
    return None if sound else corrupt_version(runtime, version.revision, "does not match its seal")


def corrupt_version(runtime: RuntimeKey, revision: object, what: str) -> StoredValueCorrupt:
    """Make the refusal to hand out a version, or what rests on it."""
    return corrupt(session_versions.name, what, **runtime._asdict(), revision=str(revision))


def sealed_current(runtime: RuntimeKey, current: Current) -> bytes:
    """Make the stored form of the digest of a runtime's newest version, with a seal behind it over whose and which."""
    return current.sha256 + seal(b"current/1", *runtime, *current)


def current_of(runtime: RuntimeKey, revision: object, stored: object) -> Current | None:
    """Return the newest version that a runtime's row names; None if it has none.

    Raises:
        StoredValueCorrupt: no write left that.
    """
    if revision is None and stored is None:
        return None
    if is_count(revision) and isinstance(revision, int) and isinstance(stored, bytes):
        current = Current(revision, stored[:SHA256_BYTES])
        # One that came over from a store without history has no seal.
        if len(stored) == SHA256_BYTES or stored == sealed_current(runtime, current):
            return current
    raise corrupt(runtimes.name, "does not say which version of its session is the newest", **runtime._asdict())


def names_no_session(runtime: RuntimeKey) -> StoredValueCorrupt:
    """Make the refusal to take a runtime that has versions of a session for one that has none."""
    return corrupt(runtimes.name, "names no session, and there are versions of one", **runtime._asdict())


def before_its_session(runtime: RuntimeKey, revision: int, current: Current) -> StoredValueCorrupt | None:
    """Make the refusal to count on from a revision before its newest session's: a write would replace a version."""
    if revision >= current.revision:
        return None
    return bad_revision(runtime, "has a revision before that of its session")
