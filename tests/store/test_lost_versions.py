"""Versions of a session that are gone: whoever asks for them is told, and nobody gets another one in their place."""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa

from runtimestore.errors import RevisionNotKept, StoredValueCorrupt
from runtimestore_server.store import tables
from runtimestore_server.store.tables import BASE
from runtimestore_server.store.values import Outcome
from runtimestore_server.store.versions.chains import load_session
from runtimestore_server.store.versions.listing import list_versions
from runtimestore_server.store.writes import Write
from runtimestore_server.verify import verify
from support.checkers.verified import Told
from support.generators.store_writes import boundary, commit, rows, runtime
from support.generators.versions import folded, made_of, read

if TYPE_CHECKING:
    from runtimestore_server.store.engines import Database
    from runtimestore_server.store.values import RuntimeKey

BODIES = {
    2: b"a" * 200,
    4: b"a" * 200 + b"b" * 300,
    6: b"a" * 200 + b"b" * 300 + b"c" * 40,
    8: b"d" * 100,
    10: b"d" * 101,
}
"""By the revision that leaves it; the ones between write no session."""
BASES = {2, 4, 8}
REVISIONS = range(1, 13)


def _written(database: Database) -> RuntimeKey:
    """A session of several versions, of which some are bases and some edits."""
    key = runtime()
    base = None
    for revision in range(1, 12):
        if (body := BODIES.get(revision)) is None:
            commit(database, Write(key, receipt=boundary()))
            continue
        (outcome,) = commit(database, Write(key, snapshot=made_of(None if revision == 8 else base, body)))
        assert isinstance(outcome, Outcome)
        base = body
        if revision == 4:
            folded(database, key)
    kinds = {row["revision"]: row["kind"] for row in rows(database, tables.session_versions)}
    assert {revision for revision, kind in kinds.items() if kind == BASE} == BASES
    return key


def _delete(database: Database, revision: int) -> None:
    with database.writers.begin() as tx:
        tx.execute(sa.delete(tables.session_versions).where(tables.session_versions.c.revision == revision))


def _was(revision: int) -> int | None:
    """Whose session is the one as of a revision."""
    return max((left for left in BODIES if left <= revision), default=None)


def _rests_on(lost: int, revision: int) -> bool:
    """Whether the session as of a revision is the lost one, or is made of it."""
    was = _was(revision)
    return was is not None and lost <= was and not any(lost < base <= was for base in BASES)


@pytest.mark.parametrize("known", [False, True])
@pytest.mark.parametrize("lost", [4, 6, 8, 10])
def test_exactly_what_rests_on_a_lost_version_is_refused_as_of_any_revision(
    database: Database, lost: int, *, known: bool
) -> None:
    key = _written(database)
    before = {revision: read(database, key, revision) for revision in REVISIONS}
    _delete(database, lost)

    for revision in REVISIONS:
        was = max((left for left in BODIES if left <= revision and left != lost), default=None)
        digest = sha256(BODIES[was]).digest() if known and was else None
        with database.readers.connect() as tx:
            # What the caller has needs nothing that it rests on.
            if _was(revision) == lost or (digest is None and _rests_on(lost, revision)):
                with pytest.raises(StoredValueCorrupt, match=f"revision {lost}"):
                    load_session(tx, key, as_of_revision=revision, known_sha256=digest)
            else:
                _, found = load_session(tx, key, as_of_revision=revision, known_sha256=digest)
                assert (found and found.revision) == _was(revision)
                assert found is None or found.body in (None, before[revision])
    with database.readers.connect() as tx:
        newer, damage = list_versions(tx, key, most=100)
        assert damage is not None
        assert f"revision {lost}" in str(damage.refusal)
        older = list_versions(tx, key, behind=damage.behind, most=100)
    assert [version.revision for version in newer] == [left for left in reversed(BODIES) if left > lost]
    assert [version.revision for version in older.versions] == [left for left in reversed(BODIES) if left < lost]
    assert older.damage is None
    told = Told()
    if not database.ephemeral:
        verify(database, told)
        assert "version_missing" in {found.kind for found in told.findings}


def test_the_oldest_version_that_is_lost_reads_as_one_that_is_not_kept(database: Database) -> None:
    key = _written(database)
    _delete(database, 2)

    for revision in (1, 2, 3):
        with pytest.raises(RevisionNotKept):
            read(database, key, revision)
    assert read(database, key, 4) == BODIES[4]


def test_a_session_of_which_every_version_is_lost_is_not_answered_as_none(database: Database) -> None:
    key = runtime()
    commit(database, Write(key, snapshot=made_of(None, b"a")))
    _delete(database, 1)

    for revision in (None, 1, 2**63):
        with pytest.raises(StoredValueCorrupt, match="revision 1"):
            read(database, key, revision)


def test_a_damaged_version_after_a_revision_hides_which_was_the_newest_then(database: Database) -> None:
    key = _written(database)
    table = tables.session_versions
    with database.writers.begin() as tx:  # the key of one, which no other row names then
        tx.execute(sa.update(table).where(table.c.revision == 6).values(revision=7))

    for revision in (6, 7):
        with pytest.raises(StoredValueCorrupt):
            read(database, key, revision)
    for revision in (4, 8, 10, 12):
        assert read(database, key, revision) == BODIES[_was(revision) or 0]


def test_a_runtime_that_names_no_session_is_told_where_there_are_versions_of_one(database: Database) -> None:
    key = _written(database)
    table = tables.runtimes
    with database.writers.begin() as tx:
        tx.execute(sa.update(table).values(session_revision=None, session_sha256=None))
    digest = sha256(BODIES[10]).digest()
    asked: list[dict[str, Any]] = [{}, {"known_sha256": digest}, {"as_of_revision": 12}]
    asked.append({"as_of_revision": 12, "known_sha256": digest})

    for question in asked:
        with database.readers.connect() as tx, pytest.raises(StoredValueCorrupt) as found:
            load_session(tx, key, **question)
        assert found.value.metadata["table"] == "runtimes"
    with database.readers.connect() as tx:
        none, damage = list_versions(tx, key, most=100)
        assert damage is not None
        assert (none, damage.refusal.metadata["table"]) == ([], "runtimes")
        every = list_versions(tx, key, behind=damage.behind, most=100)
    assert [version.revision for version in every.versions] == list(reversed(BODIES))
    for revision in (2, 4, 6, 8, 9, 10):
        assert read(database, key, revision) == BODIES[_was(revision) or 0]

    # A whole one mends it, and does not pass for the first.
    commit(database, Write(key, snapshot=made_of(None, b"mended")))
    assert read(database, key) == read(database, key, 12) == b"mended"
    assert read(database, key, 9) == BODIES[8]
    told = Told()
    if not database.ephemeral:
        verify(database, told)
        assert "version_missing" not in {found.kind for found in told.findings}
