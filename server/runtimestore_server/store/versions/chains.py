"""Loads versions of sessions: the whole documents that bases and edits come to, each checked against its digest."""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING, Any, NamedTuple

from runtimestore.errors import RevisionNotKept
from runtimestore_server.integers import INT64_MAX
from runtimestore_server.store.engines import direct
from runtimestore_server.store.reads import revision_of
from runtimestore_server.store.tables import BASE, EDITS
from runtimestore_server.store.versions import edits, selects
from runtimestore_server.store.versions.packing import unpacked
from runtimestore_server.store.versions.recent import weight_of_edits
from runtimestore_server.store.versions.rows import (
    Current,
    Version,
    before_its_session,
    corrupt_version,
    current_of,
    damage_of,
    names_no_session,
    version_of,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy.engine import Connection

    from runtimestore_server.store.values import RuntimeKey
    from runtimestore_server.store.versions.recent import RecentSession


class StoredSession(NamedTuple):
    """A version of a session as it was written."""

    session_id: str
    sha256: bytes
    size_bytes: int
    revision: int
    """The revision whose write left it."""
    body: bytes | None
    """The document; None where it was not asked for."""
    base_bytes: int = 0
    """The size of the base that it rests on."""
    edits_bytes: int = 0
    """How much all the edits weigh that lead from there to it."""
    base_revision: int = 0
    """The revision of the base that it rests on."""


class StoredVersion(NamedTuple):
    """A row of `session_versions` with its body."""

    version: Version
    seal: object
    body: bytes


def load_session(
    tx: Connection,
    runtime: RuntimeKey,
    *,
    as_of_revision: int | None = None,
    known_sha256: bytes | None = None,
    held: RecentSession | None = None,
) -> tuple[int, StoredSession | None]:
    """Read the revision and the session of a runtime: the newest, or the one that was the newest at a revision.

    Where its digest is `known_sha256` it comes without its body. What is `held` in memory need not be digested again:
    the bytes are compared.

    Raises:
        StoredValueCorrupt: it is damaged, or what it rests on is.
        RevisionNotKept: it is older than what is kept.
    """
    if known_sha256 is not None:
        revision, described = _describe(tx, runtime, as_of_revision)
        if described is not None and described.sha256 == known_sha256:
            return revision, described
    found = _found(tx, selects.chain(as_of=as_of_revision is not None), runtime, as_of_revision)
    if as_of_revision is None:
        current = found.current
        if current is None:
            return found.revision, None
        if not found.chain or found.chain[-1].version.revision != current.revision:
            raise corrupt_version(runtime, current.revision, "is missing, or the one that it rests on is")
        if found.chain[-1].version.sha256 != current.sha256:
            raise corrupt_version(runtime, current.revision, "is not the one that its runtime names")
    else:
        found.refuse_if_lost(as_of_revision)
        if not found.chain:
            return found.revision, None
    return found.revision, replayed(runtime, found.chain, held)


def replayed(runtime: RuntimeKey, chain: Sequence[StoredVersion], held: RecentSession | None = None) -> StoredSession:
    """Apply a chain's edits one after the other to its base; return its last version.

    Raises:
        StoredValueCorrupt: it is damaged, or what it rests on is; the one that is, is named.
    """
    last, seal, _ = chain[-1]
    if damage := damage_of(runtime, last, seal):
        raise damage
    base_bytes = 0
    try:
        base = _base(chain[0])
        base_bytes, body = len(base), _document(base, chain[1:])
    except edits.Undecodable:
        body = None
    if body is None or not _comes_to(body, last.sha256, held):
        raise _named_damage(runtime, chain)
    if last.size_bytes != len(body):  # under no seal where it came over from a store that had none
        raise corrupt_version(runtime, last.revision, "is not as large as its row says")
    return StoredSession(
        last.session_id,
        last.sha256,
        len(body),
        last.revision,
        body,
        base_bytes=base_bytes,
        edits_bytes=sum(weight_of_edits(len(row.body), base_bytes=base_bytes) for row in chain[1:]),
        base_revision=chain[0].version.revision,
    )


def _comes_to(body: bytes, digest: bytes, held: RecentSession | None) -> bool:
    if held is not None and held.sha256 == digest and held.body == body:
        return True
    return sha256(body).digest() == digest


def _base(row: StoredVersion) -> bytes:
    if row.version.kind != BASE:
        raise edits.Undecodable("a base is none")
    return unpacked(row.body, row.version.size_bytes)


def _document(base: bytes, chain: Sequence[StoredVersion]) -> bytes:
    if not chain:
        return base
    document = bytearray(base)
    for row in chain:
        step(document, row)
    return bytes(document)


def step(document: bytearray, row: StoredVersion) -> None:
    """Apply the edits of one version to the document of the version before.

    Raises:
        Undecodable: its row cannot be applied.
    """
    if not isinstance(row.body, bytes) or row.version.kind != EDITS:
        raise edits.Undecodable("edits are none")
    edits.apply(document, edits.decode(row.body))


def _named_damage(runtime: RuntimeKey, chain: Sequence[StoredVersion]) -> Exception:
    """Make the refusal that names the first row of a chain which does not come to its digest."""
    document = bytearray()
    for position, row in enumerate(chain):
        before = row.version.previous_revision
        if position and isinstance(before, int) and before > chain[position - 1].version.revision:
            return corrupt_version(runtime, before, "is missing")
        try:
            if position == 0:
                document += _base(row)
            else:
                step(document, row)
        except edits.Undecodable:
            rests_on_nothing = position == 0 and row.version.kind == EDITS
            what = "cannot be applied" if position else "cannot be unpacked"
            if rests_on_nothing:
                what = "is no base, and nothing is there that it rests on"
            return corrupt_version(runtime, row.version.revision, what)
        if sha256(document).digest() != row.version.sha256:
            return corrupt_version(runtime, row.version.revision, "does not match its SHA-256")
    return corrupt_version(runtime, chain[-1].version.revision, "was read in two ways")


def _describe(tx: Connection, runtime: RuntimeKey, as_of_revision: int | None) -> tuple[int, StoredSession | None]:
    """Return the revision, and the session without its body if its row says what it is."""
    found = _found(tx, selects.description(as_of=as_of_revision is not None), runtime, as_of_revision)
    if len(found.chain) != 1:
        return found.revision, None
    version, seal, _ = found.chain[0]
    if damage_of(runtime, version, seal):
        return found.revision, None
    if as_of_revision is not None:
        found.refuse_if_lost(as_of_revision)
    elif found.current != (version.revision, version.sha256):
        return found.revision, None
    return found.revision, StoredSession(version.session_id, version.sha256, version.size_bytes, version.revision, None)


class _Found(NamedTuple):
    """What one statement found of a runtime and its versions."""

    runtime: RuntimeKey
    row: Any
    """That of the runtime; None if there is none."""
    chain: list[StoredVersion]
    """From a base up to the version that is asked for."""
    after: StoredVersion | None
    """The one after it, where a revision is asked for."""

    @property
    def revision(self) -> int:
        """The revision that the runtime is at."""
        return revision_of(self.row, self.runtime)

    @property
    def current(self) -> Current | None:
        """The newest version of its session; None if it has none."""
        if self.row is None:
            return None
        current = current_of(self.runtime, self.row.session_revision, self.row.session_sha256)
        if current is not None and (damage := before_its_session(self.runtime, self.revision, current)):
            raise damage
        if current is None and self.chain:
            raise names_no_session(self.runtime)
        return current

    def refuse_if_lost(self, as_of_revision: int) -> None:
        """See that the last of the chain was the newest at a revision: the next one names it, or else the runtime does.

        Raises:
            RevisionNotKept: there may have been a session then, before the oldest that is kept.
            StoredValueCorrupt: the one of then is lost, or what says so is damaged.
        """
        last = self.chain[-1].version if self.chain else None
        if last is not None and last.revision == as_of_revision:
            return
        if self.after is None:
            current = self.current
            if current is None or (last is not None and current.revision == last.revision):
                return
            if last is not None and current.revision < last.revision:
                raise corrupt_version(self.runtime, last.revision, "is newer than the one that its runtime names")
            if last is None or current.revision <= as_of_revision:
                raise corrupt_version(self.runtime, current.revision, "is missing")
            return
        after, seal, _ = self.after
        if damage := damage_of(self.runtime, after, seal):
            raise damage
        before = after.previous_revision
        if last is None:
            if before is not None or after.committed_at_ms is None:
                raise _not_kept(as_of_revision, after.revision)
        elif before is not None and last.revision < before <= as_of_revision:
            raise corrupt_version(self.runtime, before, "is missing")


def _not_kept(as_of_revision: int, oldest: int) -> RevisionNotKept:
    return RevisionNotKept(
        f"the session as of revision {as_of_revision} is not kept any more; the oldest that can be read is {oldest}",
        metadata={"as_of_revision": str(as_of_revision), "oldest_revision": str(oldest)},
    )


def _found(tx: Connection, statement: Any, runtime: RuntimeKey, as_of_revision: int | None) -> _Found:
    rows = direct.find(tx, statement, _asked(runtime, as_of_revision))
    versions = [StoredVersion(version_of(row), row.seal, row.body) for row in rows if row.kind is not None]
    later = as_of_revision is not None and versions and not _is_up_to(versions[-1].version.revision, as_of_revision)
    after = versions.pop() if later else None
    return _Found(runtime, rows[0] if rows else None, versions, after)


def _is_up_to(stored: object, revision: int) -> bool:
    # SQLite keeps, and sorts behind all numbers, what is none.
    return isinstance(stored, (int, float)) and stored <= revision


def _asked(runtime: RuntimeKey, as_of_revision: int | None) -> dict[str, Any]:
    asked: dict[str, Any] = {"realm": runtime.realm, "runtime_id": runtime.runtime_id}
    # No revision is larger than what a column holds.
    return asked if as_of_revision is None else asked | {"as_of": min(as_of_revision, INT64_MAX)}
