"""What a write that lands leaves in the tables, and what it does not touch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from runtimestore_server.store import tables
from runtimestore_server.store.values import Outcome
from runtimestore_server.store.writes import Write
from support.generators.store_writes import boundary, commit, document, new_id, rows, runtime, snapshot, statements

if TYPE_CHECKING:
    from runtimestore_server.store.engines import Database


def test_the_session_projection_is_written_with_every_snapshot(database: Database) -> None:
    key, session_id = runtime(), new_id()
    first = snapshot(session_id=session_id, created_at_ms=10, updated_at_ms=20, message_count=1, total_tokens=7)
    second = snapshot(
        session_id=session_id, created_at_ms=10, updated_at_ms=30, message_count=2, total_tokens=2**63 - 1
    )
    projection = {"realm": key.realm, "session_id": session_id, "runtime_id": key.runtime_id, "created_at_ms": 10}

    commit(database, Write(key, snapshot=first))
    assert rows(database, tables.sessions) == [
        {**projection, "updated_at_ms": 20, "message_count": 1, "total_tokens": 7}
    ]

    commit(database, Write(key, snapshot=second, receipt=boundary()))
    assert rows(database, tables.sessions) == [
        {**projection, "updated_at_ms": 30, "message_count": 2, "total_tokens": 2**63 - 1}
    ]


def test_the_session_projection_lists_every_session_a_runtime_had_and_who_wrote_it_last(database: Database) -> None:
    first, second = runtime(), runtime()
    shared, other = sorted([new_id(), new_id()])

    commit(
        database, Write(first, snapshot=snapshot(session_id=other)), Write(first, snapshot=snapshot(session_id=shared))
    )
    commit(database, Write(second, snapshot=snapshot(session_id=shared)))

    assert [(row["session_id"], row["runtime_id"]) for row in rows(database, tables.sessions)] == [
        (shared, second.runtime_id),
        (other, first.runtime_id),
    ]


def test_the_session_projection_holds_no_body(database: Database) -> None:
    commit(database, Write(runtime(), snapshot=snapshot("a marker in the body")))

    assert "a marker in the body" not in repr(rows(database, tables.sessions))
    assert "a marker in the body" in repr(rows(database, tables.session_versions))


def test_an_input_whose_bytes_are_unchanged_is_not_sent_to_be_written_again(database: Database) -> None:
    key = runtime()
    same, changing = document("the same as ever"), document("before")
    commit(database, Write(key, inputs=(same, changing)))
    changed = document("after", input_id=changing.input_id)

    with statements(database.writers) as sent:
        assert commit(database, Write(key, inputs=(same, changed))) == [Outcome(2)]
        assert commit(database, Write(key, inputs=(same, changed))) == [Outcome(3)]

    written = [parameters for statement, parameters in sent if statement.startswith("INSERT INTO inputs")]
    assert len(written) == 1
    assert "after" in repr(written)
    assert "the same as ever" not in repr(written)


def test_an_input_whose_bytes_are_unchanged_keeps_its_row_version(postgres_database: Database) -> None:
    database, key = postgres_database, runtime()
    same, changing = document("the same as ever"), document("before")
    commit(database, Write(key, inputs=(same, changing)))
    before = _row_versions(database)

    commit(database, Write(key, inputs=(same, document("after", input_id=changing.input_id))))

    after = _row_versions(database)
    assert after[same.input_id] == before[same.input_id]
    assert after[changing.input_id] != before[changing.input_id]


def _row_versions(database: Database) -> dict[str, Any]:
    with database.readers.connect() as connection:
        found = connection.execute(sa.text("SELECT input_id, xmin::text, ctid::text FROM inputs"))
        return {row.input_id: (row.xmin, row.ctid) for row in found}


def test_every_sequence_up_to_the_largest_is_kept_and_sorts_as_a_number(database: Database) -> None:
    key, run_id = runtime(), new_id()
    sequences = [2**64 - 1, 10, 9, 2**63, 0, 2**32]

    commit(database, *(Write(key, receipt=boundary(run_id, sequence)) for sequence in sequences))

    assert [row["sequence"] for row in rows(database, tables.receipts)] == sorted(sequences)


def test_ids_are_compared_and_sorted_as_bytes(database: Database) -> None:
    ids = ["B", "a", "Z", "ä", "a\u0308", "é", "b"]  # one letter as one and as two code points among them

    commit(database, *(Write(runtime(runtime_id), runtime_state="idle") for runtime_id in ids))

    assert [row["runtime_id"] for row in rows(database, tables.runtimes)] == sorted(ids, key=str.encode)


def test_a_write_with_more_inputs_than_a_statement_has_parameters_lands(database: Database) -> None:
    many = tuple(document(str(number)) for number in range(40_000))

    assert commit(database, Write(runtime(), inputs=many)) == [Outcome(1)]

    with database.readers.connect() as connection:
        assert connection.execute(sa.select(sa.func.count()).select_from(tables.inputs)).scalar_one() == len(many)
