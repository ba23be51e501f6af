"""Few keys are looked up in another way than many on SQLite, and what is found is the same."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa

from runtimestore_server.store import tables
from runtimestore_server.store.by_key import lock_by_key, select_by_key
from runtimestore_server.store.engines.any_sqlite import FEW_KEYS
from support.generators.store_writes import runtime
from support.servers.listening import listening

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

    from runtimestore_server.store.engines import Database

LONGEST = 2**64 - 1
RECEIPT = (tables.receipts.c.realm, tables.receipts.c.runtime_id, tables.receipts.c.run_id, tables.receipts.c.sequence)
RUNTIME = (tables.runtimes.c.realm, tables.runtimes.c.runtime_id)
RUN = "019e4f8e-8200-7daf-ae78-9e6aa1b965f4"


def _found(database: Database, tx: Connection, keys: list[Any]) -> list[Any]:
    columns = (*RECEIPT, tables.receipts.c.receipt)
    return [tuple(row) for row in database.ask(tx, select_by_key(database, RECEIPT, columns), RECEIPT, keys)()]


@pytest.mark.parametrize("count", range(1, FEW_KEYS + 3))
def test_each_key_finds_its_row_however_many_are_asked_for(database: Database, count: int) -> None:
    key = runtime()
    sequences = [0, 1, LONGEST, 7, 10, 2**63]
    rows = [(*key, RUN, sequence, b"digest", b"receipt %d" % sequence, 1) for sequence in sequences]
    asked = [(*key, RUN, sequence) for sequence in sorted(sequences)[:count]]
    missing = (*key, RUN, 5)
    with database.writers.begin() as tx:
        database.insert_missing(tx, tables.receipts, rows)

        assert sorted(_found(database, tx, asked)) == [(*one, b"receipt %d" % one[3]) for one in asked]
        assert sorted(_found(database, tx, [missing, *asked][:count])) == [
            (*one, b"receipt %d" % one[3]) for one in asked[: count - 1]
        ]


@pytest.mark.parametrize("count", [1, FEW_KEYS, FEW_KEYS + 1])
def test_rows_come_in_the_order_of_their_keys(database: Database, count: int) -> None:
    keys = sorted(runtime() for _ in range(count))
    with database.writers.begin() as tx:
        database.insert_missing(tx, tables.runtimes, [(*key, 1, None, None, None) for key in reversed(keys)])

        locked = lock_by_key(database, tx, RUNTIME, (tables.runtimes.c.revision,), keys)()

    assert [tuple(row) for row in locked.rows] == [(*key, 1) for key in keys]


def test_one_key_is_found_by_the_primary_key_alone(sqlite_database: Database) -> None:
    sent: list[str] = []

    def note(_connection: Any, _cursor: Any, text: str, *_: Any) -> None:
        sent.append(text)

    with listening(sqlite_database.writers, before_cursor_execute=note), sqlite_database.writers.begin() as tx:
        assert _found(sqlite_database, tx, [(*runtime(), RUN, 0)]) == []
    (text,) = [one for one in sent if "receipts" in one]
    with sqlite_database.readers.connect() as connection:
        plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {text}", (*runtime(), RUN, "0")).fetchall()

    assert [row[-1].split(" ")[:2] for row in plan] == [["SEARCH", "receipts"]]


def test_who_begins_to_listen_is_told_of_the_next_transaction(database: Database) -> None:
    sent: list[str] = []

    def note(_connection: Any, _cursor: Any, text: str, *_: Any) -> None:
        sent.append(text)

    for listens in (False, True, False):
        before = len(sent)
        with database.writers.connect() as connection:
            if listens:
                with listening(database.writers, before_cursor_execute=note), connection.begin():
                    _found(database, connection, [(*runtime(), RUN, 0)])
            else:
                with connection.begin():
                    _found(database, connection, [(*runtime(), RUN, 0)])
        assert any("receipts" in text for text in sent[before:]) is listens


def test_statements_go_on_with_the_connection_that_is_there_after_an_error(database: Database) -> None:
    if database.ephemeral:
        pytest.skip("its one connection is the store")
    with database.writers.connect() as connection:
        with connection.begin():
            assert _found(database, connection, [(*runtime(), RUN, 0)]) == []
        connection.invalidate()
        with connection.begin():
            assert _found(database, connection, [(*runtime(), RUN, 0)]) == []
            assert connection.execute(sa.text("SELECT 1")).scalar_one() == 1
