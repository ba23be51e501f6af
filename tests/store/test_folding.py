"""A version becomes a base beside the commits: what is read stays the same, and it happens once."""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa

from runtimestore_server.store import tables
from runtimestore_server.store.versions.chains import load_session
from runtimestore_server.store.versions.folding import Folding
from runtimestore_server.store.versions.recent import Fold, RecentSession, RecentSessions
from support.generators.store_writes import rows, runtime
from support.generators.versions import folded, kinds, read, write_all
from support.servers.listening import listening

if TYPE_CHECKING:
    from runtimestore_server.store.engines import Database

BODIES = [b"a" * 100, b"a" * 100 + b"b" * 300, b"a" * 100 + b"b" * 300 + b"c" * 20]
SECOND = RecentSession(sha256(BODIES[1]).digest(), b"", 2, 100, 300, base_revision=1)
THIRD = RecentSession(sha256(BODIES[2]).digest(), b"", 3, 100, 320, base_revision=1)


def sweep(database: Database, folding: Folding) -> int:
    """Write what was prepared."""
    with database.writers.begin() as tx:
        pages = folding.sweep(tx, 100)
    folding.settle()
    return pages


def test_a_fold_takes_what_memory_holds_or_replays_what_is_stored(database: Database) -> None:
    for held in (True, False):
        key, bodies = runtime(), [b"a" * 100, b"a" * 100 + b"b" * 300]
        write_all(database, key, bodies)
        recent = RecentSessions(10_000)
        if held:
            recent.put(key, RecentSession(sha256(bodies[1]).digest(), bodies[1], 2, 100, 300))

        folding = folded(database, key, recent)

        assert kinds(database, key) == {1: "base", 2: "base"}
        assert (folding.count, read(database, key, 1), read(database, key, 2)) == (1, *bodies)
        with database.readers.connect() as connection:
            _, stored = load_session(connection, key)
        assert stored is not None
        assert (stored.base_bytes, stored.edits_bytes) == (400, 0)


def test_a_fold_that_is_not_committed_leaves_everything_and_is_made_again(database: Database) -> None:
    key, bodies = runtime(), [b"a" * 100, b"a" * 100 + b"b" * 300]
    write_all(database, key, bodies)
    before = rows(database, tables.session_versions)
    folding = Folding(database, RecentSessions(0))
    folding.add(key, RecentSession(sha256(bodies[1]).digest(), b"", 2, 100, 300))
    folding.prepare()
    with database.writers.connect() as connection:
        transaction = connection.begin()
        folding.sweep(connection, 100)
        transaction.rollback()

    assert rows(database, tables.session_versions) == before
    assert folding.pending
    with database.writers.begin() as tx:
        folding.sweep(tx, 100)
    folding.settle()
    assert kinds(database, key) == {1: "base", 2: "base"}


def test_the_transaction_of_a_fold_reads_no_document(database: Database) -> None:
    key, statements = runtime(), []
    write_all(database, key, BODIES)
    folding = Folding(database, RecentSessions(0))
    folding.add(key, THIRD)
    folding.prepare()

    def note(*given: Any) -> None:
        statements.append(given[2])

    with listening(database.writers, before_cursor_execute=note):
        assert sweep(database, folding) > 0

    assert not [text for text in statements if text.startswith("SELECT") and "body" in text]
    assert kinds(database, key) == {1: "base", 2: "edits", 3: "base"}
    assert read(database, key) == BODIES[2]


@pytest.mark.parametrize("meanwhile", ["deleted", "sha256", "body of another size", "a base"])
def test_a_fold_is_not_written_over_a_row_that_was_changed_since_its_document_was_made(
    database: Database, meanwhile: str
) -> None:
    key, table = runtime(), tables.session_versions
    write_all(database, key, BODIES[:2])
    folding = Folding(database, RecentSessions(0))
    folding.add(key, SECOND)
    folding.prepare()
    assert folding.pending
    its = table.c.revision == 2
    with database.writers.begin() as tx:
        if meanwhile == "deleted":
            tx.execute(sa.delete(table).where(its))
        else:
            changes: dict[str, dict[str, Any]] = {"sha256": {"sha256": b"d" * 32}, "a base": {"kind": "base"}}
            other = changes.get(meanwhile, {"size_bytes": 7})
            tx.execute(sa.update(table).where(its).values(**other))
    before = rows(database, table)

    assert sweep(database, folding) == 0

    assert rows(database, table) == before
    assert (folding.count, len(folding._pending), folding.pending) == (0, 0, False)


def test_a_turn_that_was_under_way_while_a_fold_was_made_does_not_have_another_one_made(database: Database) -> None:
    key, recent = runtime(), RecentSessions(10_000)
    write_all(database, key, BODIES)
    folding = Folding(database, recent)
    recent.put(key, SECOND._replace(body=BODIES[1]))
    folding.add(key, SECOND)
    folding.prepare()
    folding.add(key, THIRD)  # before the fold is committed
    sweep(database, folding)
    landed = recent.put(key, THIRD._replace(body=BODIES[2]))  # after it; it counts from the base before

    assert not landed.outweighed
    assert (landed.base_revision, landed.base_bytes, landed.edits_bytes) == (2, 400, 20)
    assert not folding._pending
    assert kinds(database, key) == {1: "base", 2: "base", 3: "edits"}


def test_only_who_counts_from_the_base_before_is_told_of_the_new_one() -> None:
    fold = Fold(revision=2, base_bytes=400, former_revision=1, edits_bytes=300)

    assert SECOND.after(None) == SECOND
    assert SECOND.after(fold).edits_bytes == 0
    whole = RecentSession(b"", b"", 3, 50, 0, base_revision=3)
    assert whole.after(fold) == whole
    earlier = RecentSession(b"", b"", 1, 100, 0, base_revision=1)
    assert earlier.after(fold) == earlier
    again = THIRD.after(fold)
    assert again.after(fold) == again
