"""Loads versions of sessions: the whole documents that bases and edits come to, each checked against its digest."""

from __future__ import annotations

from functools import cache
from hashlib import sha256
from typing import TYPE_CHECKING, Any, NamedTuple

import sqlalchemy as sa

from runtimestore.errors import RevisionNotKept
from runtimestore_server.integers import INT64_MAX
from runtimestore_server.store.engines import direct
from runtimestore_server.store.reads import revision_of
from runtimestore_server.store.tables import runtimes, session_versions
from runtimestore_server.store.versions import edits
from runtimestore_server.store.versions.recent import weight_of_edits
from runtimestore_server.store.versions.rows import (
    BASE,
    DESCRIPTION,
    EDITS,
    Version,
    corrupt_version,
    current_of,
    damage_of,
    version_of,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy.engine import Connection

    from runtimestore_server.store.values import RuntimeKey

_V = session_versions
_ITS = _V.alias("its")


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
    tx: Connection, runtime: RuntimeKey, *, as_of_revision: int | None = None, known_sha256: bytes | None = None
) -> tuple[int, StoredSession | None]:
    """The revision and the session of a runtime: the newest, or the one that was the newest at a revision.

    Where its digest is `known_sha256` it comes without its body.

    Raises:
        StoredValueCorrupt: it is damaged, or what it rests on is.
        RevisionNotKept: it is older than what is kept.
    """
    if known_sha256 is not None:
        revision, described = _describe(tx, runtime, as_of_revision)
        if described is not None and described.sha256 == known_sha256:
            return revision, described
    rows = direct.find(tx, _chain(as_of=as_of_revision is not None), _asked(runtime, as_of_revision))
    revision = revision_of(rows[0] if rows else None, runtime)
    chain = [StoredVersion(version_of(row), row.seal, row.body) for row in rows if row.kind is not None]
    if as_of_revision is None:
        current = current_of(runtime, rows[0].session_revision, rows[0].session_sha256) if rows else None
        if current is None:
            return revision, None
        if not chain or chain[-1].version.revision != current.revision:
            raise corrupt_version(runtime, current.revision, "is missing, or the one that it rests on is")
        if chain[-1].version.sha256 != current.sha256:
            raise corrupt_version(runtime, current.revision, "is not the one that its runtime names")
    elif not chain:
        _refuse_what_is_not_kept(tx, runtime, as_of_revision)
        return revision, None
    return revision, replayed(runtime, chain)


def replayed(runtime: RuntimeKey, chain: Sequence[StoredVersion]) -> StoredSession:
    """The last version of a chain, whose first is a base.

    Raises:
        StoredValueCorrupt: it is damaged, or what it rests on is; the one that is, is named.
    """
    last, seal, _ = chain[-1]
    if damage := damage_of(runtime, last, seal):
        raise damage
    try:
        body = _document(chain)
    except edits.Undecodable:
        body = None
    if body is None or sha256(body).digest() != last.sha256:
        raise _named_damage(runtime, chain)
    base_bytes = len(chain[0].body)
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


def _document(chain: Sequence[StoredVersion]) -> bytes:
    base = chain[0].body
    if not isinstance(base, bytes) or chain[0].version.kind != BASE:
        raise edits.Undecodable("a base is none")
    if len(chain) == 1:
        return base
    document = bytearray(base)
    for row in chain[1:]:
        step(document, row)
    return bytes(document)


def step(document: bytearray, row: StoredVersion) -> None:
    """Make of one version the next.

    Raises:
        Undecodable: its row cannot be applied.
    """
    if not isinstance(row.body, bytes) or row.version.kind != EDITS:
        raise edits.Undecodable("edits are none")
    edits.apply(document, edits.decode(row.body))


def _named_damage(runtime: RuntimeKey, chain: Sequence[StoredVersion]) -> Exception:
    """The refusal that names the first row of a chain which does not come to its digest."""
    document = bytearray()
    for position, row in enumerate(chain):
        try:
            if position == 0:
                document += _document(chain[:1])
            else:
                step(document, row)
        except edits.Undecodable:
            return corrupt_version(runtime, row.version.revision, "cannot be applied")
        if sha256(document).digest() != row.version.sha256:
            return corrupt_version(runtime, row.version.revision, "does not match its SHA-256")
    return corrupt_version(runtime, chain[-1].version.revision, "was read in two ways")


def _describe(tx: Connection, runtime: RuntimeKey, as_of_revision: int | None) -> tuple[int, StoredSession | None]:
    """The revision, and the session without its body if its row says what it is."""
    asked = _asked(runtime, as_of_revision)
    row = direct.find_one(tx, _description(as_of=as_of_revision is not None), asked)
    revision = revision_of(row, runtime)
    if row is None or row.kind is None:
        return revision, None
    version = version_of(row)
    if damage_of(runtime, version, row.seal):
        return revision, None
    if as_of_revision is None and current_of(runtime, row.session_revision, row.session_sha256) != (
        version.revision,
        version.sha256,
    ):
        return revision, None
    return revision, StoredSession(version.session_id, version.sha256, version.size_bytes, version.revision, None)


def _refuse_what_is_not_kept(tx: Connection, runtime: RuntimeKey, as_of_revision: int) -> None:
    """Tell a revision at which there was no session yet, which is no error, from one that is not kept.

    Raises:
        RevisionNotKept: there may have been a session then.
        StoredValueCorrupt: there is a version of then, and nothing that it rests on.
    """
    row = direct.find_one(tx, _oldest(), _asked(runtime, None))
    if row is None:
        return
    oldest = version_of(row)
    if damage := damage_of(runtime, oldest, row.seal):
        raise damage
    if oldest.revision <= as_of_revision:
        raise corrupt_version(runtime, oldest.revision, "is no base, and nothing is there that it rests on")
    if oldest.previous_revision is not None or oldest.committed_at_ms is None:
        raise RevisionNotKept(
            f"the session as of revision {as_of_revision} is not kept any more; the oldest that can be read is "
            f"{oldest.revision}",
            metadata={"as_of_revision": str(as_of_revision), "oldest_revision": str(oldest.revision)},
        )


def _asked(runtime: RuntimeKey, as_of_revision: int | None) -> dict[str, Any]:
    asked: dict[str, Any] = {"realm": runtime.realm, "runtime_id": runtime.runtime_id}
    # No revision is larger than what a column holds.
    return asked if as_of_revision is None else asked | {"as_of": min(as_of_revision, INT64_MAX)}


def _is_asked_for() -> sa.ColumnElement[bool]:
    return sa.and_(
        runtimes.c.realm == sa.bindparam("realm", type_=sa.Text),
        runtimes.c.runtime_id == sa.bindparam("runtime_id", type_=sa.Text),
    )


def _newest(*, as_of: bool) -> sa.ColumnElement[Any]:
    """The revision that a version may have at most."""
    return sa.bindparam("as_of", type_=sa.BigInteger) if as_of else runtimes.c.session_revision


def _latest(*kind: sa.ColumnExpressionArgument[bool], as_of: bool) -> sa.ScalarSelect[Any]:
    """The revision of a runtime's latest version, or of its latest one of a kind, up to the one that is asked for."""
    its = _ITS.c.realm == runtimes.c.realm, _ITS.c.runtime_id == runtimes.c.runtime_id
    latest = sa.select(sa.func.max(_ITS.c.revision)).where(*its, *kind, _ITS.c.revision <= _newest(as_of=as_of))
    return latest.correlate(runtimes).scalar_subquery()


def _beside_its(found: sa.ColumnElement[bool], *columns: sa.ColumnElement[Any]) -> sa.Select[Any]:
    """What a runtime's row says, beside the rows of its versions that are `found`: one statement, so one moment."""
    of_it = sa.and_(_V.c.realm == runtimes.c.realm, _V.c.runtime_id == runtimes.c.runtime_id, found)
    return sa.select(*_beside(), *columns).select_from(runtimes.outerjoin(_V, of_it)).where(_is_asked_for())


@cache
def _chain(*, as_of: bool) -> sa.Select[Any]:
    """The rows from a base up to the version."""
    base = _latest(_ITS.c.kind == BASE, as_of=as_of)
    between = sa.and_(_V.c.revision >= base, _V.c.revision <= _newest(as_of=as_of))
    return _beside_its(between, _V.c.seal, _V.c.body).order_by(_V.c.revision)


@cache
def _description(*, as_of: bool) -> sa.Select[Any]:
    """The row of the version without its body."""
    return _beside_its(_V.c.revision == _latest(as_of=as_of), _V.c.seal)


def _beside() -> list[sa.ColumnElement[Any]]:
    """What a runtime's row says, and what the row of a version does."""
    return [runtimes.c.revision, runtimes.c.session_revision, runtimes.c.session_sha256, *DESCRIPTION]


@cache
def _oldest() -> sa.Select[Any]:
    named = sa.and_(
        _V.c.realm == sa.bindparam("realm", type_=sa.Text), _V.c.runtime_id == sa.bindparam("runtime_id", type_=sa.Text)
    )
    return sa.select(*DESCRIPTION, _V.c.seal).where(named).order_by(_V.c.revision).limit(1)
