"""Versions of sessions: stored as what changed, folded and pruned without a byte of what is kept being lost."""

from __future__ import annotations

import contextlib
import random
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa

from runtimestore.errors import RevisionNotKept, SnapshotBaseMismatch, StoredValueCorrupt
from runtimestore_server.store import tables
from runtimestore_server.store.values import Outcome
from runtimestore_server.store.versions import chains, edits
from runtimestore_server.store.versions.folding import Folding
from runtimestore_server.store.versions.pruning import Pruning
from runtimestore_server.store.versions.recent import ENTRY_BYTES, RecentSession, RecentSessions
from runtimestore_server.store.versions.rows import sequence_of
from runtimestore_server.store.writes import Write
from support.generators.edits import changed
from support.generators.store_writes import commit, rows, runtime
from support.generators.versions import folded, kinds, made_of, read, write_all

if TYPE_CHECKING:
    from runtimestore_server.store.engines import Database
    from runtimestore_server.store.values import RuntimeKey

EVER = 2**60
LARGE_BYTES = 15 * 1024 * 1024


def _random(seed: int) -> random.Random:
    return random.Random(seed)  # noqa: S311  (no secret)


def test_edits_that_were_found_make_the_result_whatever_changed() -> None:
    rng = _random(7)
    text = "Größe — 日本語 🙂 ".encode() * 200
    for _ in range(2000):
        after = changed(rng, text)
        found = edits.find(text, after)
        assert edits.applied(text, found) == after
        encoded = edits.encode(found)
        document = bytearray(text)
        edits.apply(document, edits.decode(encoded))
        assert document == after
        assert len(encoded) <= len(after) + 64
        text = after or b"begun anew"


def test_edits_are_small_where_little_changed_in_a_large_document() -> None:
    rng = _random(8)
    before = rng.randbytes(LARGE_BYTES // 2).hex().encode()
    middle = len(before) // 2
    removed = before[:middle] + before[middle + 700_000 :]
    scattered = bytearray(before)
    for place in range(10):
        scattered[place * 1_000_000 : place * 1_000_000 + 20] = b"another text of its own"

    for after, most_bytes in ((before + b"x" * 5000, 5100), (removed, 100), (bytes(scattered), 2000)):
        encoded = edits.encode(edits.find(before, after))
        assert edits.applied(before, edits.decode(encoded)) == after
        assert len(encoded) <= most_bytes


def test_every_earlier_version_of_a_session_can_be_read_byte_for_byte(database: Database) -> None:
    rng, key = _random(9), runtime()
    bodies = ["Größe — 日本語 🙂 ".encode() * 100]
    while len(bodies) < 40:
        bodies.append(changed(rng, bodies[-1]))
    write_all(database, key, bodies)
    before = rows(database, tables.session_versions)

    for revision, body in enumerate(bodies, 1):
        assert read(database, key, revision) == body
        if revision % 13 == 0:
            # Whichever version is folded, whatever comes before and after it reads the same.
            fold_at(database, key, revision, body)
    assert [read(database, key, revision) for revision in range(1, 41)] == bodies
    assert read(database, key) == bodies[-1]
    assert [row["sha256"] for row in before] == [sha256(body).digest() for body in bodies]


def fold_at(database: Database, key: RuntimeKey, revision: int, body: bytes) -> None:
    """Make an earlier version a base."""
    folding = Folding(database, RecentSessions(0))
    folding.add(key, RecentSession(sha256(body).digest(), b"", revision, 0, 0))
    folding.prepare()
    with database.writers.begin() as tx:
        folding.sweep(tx, 100)
    folding.settle()
    assert kinds(database, key)[revision] == "base"


def test_a_session_of_fifteen_megabytes_is_edited_folded_and_read(database: Database) -> None:
    key = runtime()
    body = _random(10).randbytes(LARGE_BYTES // 2).hex().encode()
    bodies = [body, body + b"more", b"before" + body + b"more", body[:1000]]
    write_all(database, key, bodies)
    folded(database, key)

    assert [read(database, key, revision) for revision in range(1, 5)] == bodies


def test_a_second_write_of_a_batch_is_made_of_what_the_first_left(database: Database) -> None:
    key, one, two, three = runtime(), b"one" * 100, b"two" * 100, b"three" * 100
    first, second, late, whole = commit(
        database,
        Write(key, snapshot=made_of(None, one)),
        Write(key, snapshot=made_of(one, two)),
        Write(key, snapshot=made_of(one, three)),
        Write(key, snapshot=made_of(one, three, required=False)),
    )

    assert (first, second, whole) == (Outcome(1), Outcome(2, as_edits=True), Outcome(3))
    assert isinstance(late, SnapshotBaseMismatch)
    assert late.current_sha256 == sha256(two).digest()
    assert [read(database, key, revision) for revision in (1, 2, 3)] == [one, two, three]


def test_pruning_keeps_what_kept_versions_rest_on_and_tells_what_is_gone(database: Database) -> None:
    rng, key, other = _random(11), runtime(), runtime()
    bodies = [b"begin" * 100]
    while len(bodies) < 12:
        bodies.append(changed(rng, bodies[-1]))
    write_all(database, key, bodies)
    write_all(database, other, bodies[:1])
    fold_at(database, key, 5, bodies[4])
    fold_at(database, key, 9, bodies[8])
    pruning = Pruning(lambda _tx: EVER, Folding(database, RecentSessions(0)))
    while pruning.count == 0:
        with database.writers.begin() as tx:
            assert pruning.sweep(tx, 1) > 0
        pruning.settle()
    # A slice that ended early has left what can be read.
    oldest = min(kinds(database, key))
    assert oldest == 5
    assert [read(database, key, revision) for revision in range(oldest, 13)] == bodies[oldest - 1 :]

    for _ in range(10):
        with database.writers.begin() as tx:
            pruning.sweep(tx, 100)
        pruning.settle()

    assert [*kinds(database, key)] == [9, 10, 11, 12]
    assert pruning.count == 8
    assert [read(database, key, revision) for revision in range(9, 13)] == bodies[8:]
    for revision in (0, 4, 8):
        with pytest.raises(RevisionNotKept) as found:
            read(database, key, revision)
        assert found.value.oldest_revision == 9
    assert read(database, other) == bodies[0]
    assert read(database, other, 0) is None


def test_a_version_that_became_a_base_after_its_time_was_passed_is_looked_at_all_the_same(database: Database) -> None:
    key, bodies = runtime(), [b"a" * 100, b"a" * 100 + b"b" * 300, b"c" * 100]
    write_all(database, key, bodies)
    folding = Folding(database, RecentSessions(0))
    pruning = Pruning(lambda _tx: EVER, folding)
    with database.writers.begin() as tx:
        pruning.sweep(tx, 100)
    pruning.settle()
    assert len(kinds(database, key)) == 3

    folding.add(key, RecentSession(sha256(bodies[1]).digest(), b"", 2, 100, 300))
    folding.prepare()
    for errand in (folding, pruning):
        with database.writers.begin() as tx:
            errand.sweep(tx, 100)
        errand.settle()

    assert [*kinds(database, key)] == [2, 3]
    assert folding.folded == []


@pytest.mark.parametrize("column", ["body", "sha256", "kind", "size_bytes", "committed_at_ms"])
@pytest.mark.parametrize("damaged", [1, 3, 5])
def test_exactly_the_versions_that_rest_on_damage_are_refused(database: Database, damaged: int, column: str) -> None:
    key, bodies = (
        runtime(),
        [b"common" * 50 + b"".join(b"%c" % (97 + n) * 40 for n in range(turn + 1)) for turn in range(6)],
    )
    write_all(database, key, bodies)
    fold_at(database, key, 4, bodies[3])
    table = tables.session_versions
    (row,) = [row for row in rows(database, table) if row["revision"] == damaged]
    value = row[column]
    other = value[:-1] + bytes([value[-1] ^ 1]) if isinstance(value, bytes) else value + type(value)(1)
    with database.writers.begin() as tx:
        tx.execute(sa.update(table).where(table.c.revision == damaged).values({column: other}))

    refused = set()
    for revision, body in enumerate(bodies, 1):
        found = None
        with contextlib.suppress(StoredValueCorrupt):
            found = read(database, key, revision)
        if found is None:
            refused.add(revision)
        else:
            assert found == body
    with pytest.raises(StoredValueCorrupt, match=f"revision {damaged}"):
        read(database, key, damaged)
    rests_on = {1: {1, 2, 3}, 3: {3}, 5: {5, 6}}
    # What a row says of itself is asked of itself alone; what it comes to, of all that rests on it.
    assert damaged in refused
    assert refused <= rests_on[damaged]
    if column == "body":
        assert refused == rests_on[damaged]


def test_what_memory_holds_is_compared_and_not_digested_again_and_hides_no_damage(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, bodies = runtime(), [b"a" * 100, b"a" * 100 + b"b" * 30]
    write_all(database, key, bodies)
    held = RecentSession(sha256(bodies[1]).digest(), bodies[1], 2, 100, 30)
    digested = []

    def digest(body: bytes) -> Any:
        digested.append(bytes(body))
        return sha256(body)

    monkeypatch.setattr(chains, "sha256", digest)
    with database.readers.connect() as tx:
        _, found = chains.load_session(tx, key, held=held)
        assert found is not None
        assert (found.body, digested) == (bodies[1], [])
        _, found = chains.load_session(tx, key, as_of_revision=1, held=held)
        assert found is not None
        assert (found.body, digested) == (bodies[0], [bodies[0]])

    table = tables.session_versions
    with database.writers.begin() as tx:
        tx.execute(sa.update(table).where(table.c.revision == 1).values(body=b"A" + bodies[0][1:]))
    with database.readers.connect() as tx, pytest.raises(StoredValueCorrupt, match="revision 1"):
        chains.load_session(tx, key, held=held)


def test_memory_holds_the_newest_documents_within_its_bound() -> None:
    recent = RecentSessions(3 * (1000 + ENTRY_BYTES))
    keys = [runtime() for _ in range(4)]
    for revision, key in enumerate(keys, 1):
        recent.put(key, RecentSession(b"d", bytes(1000), revision, 1000, 0))

    assert [recent.get(key) is not None for key in keys] == [False, True, True, True]
    assert recent.bytes == 3 * (1000 + ENTRY_BYTES)
    recent.put(keys[3], RecentSession(b"e", b"older", 3, 5, 0))
    assert (found := recent.get(keys[3])) is not None
    assert found.sha256 == b"d"
    recent.put(keys[0], RecentSession(b"d", bytes(10_000), 9, 10_000, 0))
    assert recent.get(keys[0]) is None


@pytest.mark.parametrize("stored", ["0" * 6000, "1", "x" * 20, b"0" * 20, 7, None])
def test_a_sequence_that_no_write_left_is_read_as_it_is_so_that_the_seal_tells(stored: object) -> None:
    assert sequence_of(stored) is stored
    assert sequence_of(f"{5:020d}") == 5
