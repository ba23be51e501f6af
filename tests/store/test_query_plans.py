"""No statement of the store reads a whole table."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from runtimestore_server.store import reads, requests, tables
from runtimestore_server.store.engines import open_database
from runtimestore_server.store.values import Outcome
from runtimestore_server.store.versions.chains import load_session
from runtimestore_server.store.versions.listing import list_versions
from runtimestore_server.store.writes import Write
from support.generators.store_writes import (
    REALM,
    boundary,
    commit,
    document,
    new_id,
    oauth,
    ops,
    runtime,
    snapshot,
    statements,
)

if TYPE_CHECKING:
    from runtimestore_server.store.engines import Database
    from support.servers.postgres import Cluster

UNTIL_KEPT = 8
"""How many commits it takes until psycopg has prepared a statement and Postgres keeps its plan."""


def _plans(database: Database, sent: list[tuple[str, Any]]) -> dict[str, list[str]]:
    plans = {}
    with database.readers.connect() as connection:
        driver: Any = connection.connection.driver_connection
        for statement, parameters in sent:
            if statement.startswith(("SELECT", "DELETE", "UPDATE")):
                given = parameters[0] if isinstance(parameters, list) else parameters
                plans[statement] = [row[-1] for row in driver.execute(f"EXPLAIN QUERY PLAN {statement}", given)]
    return plans


def test_every_read_and_every_question_of_a_write_searches_by_key(sqlite_database: Database) -> None:
    database, key, run_id, input_id = sqlite_database, runtime(), new_id(), new_id()
    whole = Write(
        key,
        new_id(),
        if_revision=0,
        snapshot=snapshot(),
        receipt=boundary(run_id),
        inputs=(document(input_id=input_id), document()),
        runtime_state="idle",
        ops=ops(),
    )
    with statements(database.writers) as written, statements(database.readers) as read:
        assert commit(database, whole, oauth(b"flow", request_id=new_id())) == [Outcome(1), Outcome(1)]
        with database.writers.begin() as tx:
            assert requests.recorded(tx, whole, now_ms=0) is False
            assert requests.forget(tx, before_ms=2**60, most=10) == 2
        with database.readers.connect() as tx:
            load_session(tx, key, known_sha256=b"another")
            load_session(tx, key, as_of_revision=1, known_sha256=b"another")
            list_versions(tx, key, most=10)
            reads.load_input_states(tx, key)
            reads.load_input_state(tx, key, input_id)
            reads.load_boundary_receipt(tx, key, run_id, 0)
            reads.load_runtime_state(tx, key)
            reads.load_ops_lifecycle(tx, key)
            reads.load_oauth_flow_snapshot(tx, REALM)

    plans = _plans(database, written + read)

    assert len(plans) >= 14
    names = {table.name for table in tables.metadata.tables.values()}
    for statement, plan in plans.items():
        touched = [step for step in plan if len(step.split()) > 1 and step.split()[1] in names]
        assert touched, statement
        assert [step for step in touched if not step.startswith("SEARCH")] == [], (statement, plan)
        assert "AUTOMATIC" not in " ".join(plan), (statement, plan)


def test_inputs_come_out_of_their_key_in_order_without_being_sorted(sqlite_database: Database) -> None:
    with statements(sqlite_database.readers) as sent, sqlite_database.readers.connect() as tx:
        reads.load_input_states(tx, runtime())

    (plan,) = _plans(sqlite_database, sent).values()
    assert "TEMP B-TREE" not in " ".join(plan)


def _commit_batches(url: str, *batches: int) -> None:
    """Commit batches of so many writes by a process' own connections, whose plans begin anew."""
    database = open_database(url, committer_threads=1, reader_threads=1)
    try:
        for writes in batches:
            given = [
                Write(runtime(), new_id(), if_revision=0, snapshot=snapshot(), receipt=boundary(), inputs=(document(),))
                for _ in range(writes)
            ]
            assert commit(database, *given) == [Outcome(1)] * writes
    finally:
        database.dispose()


@pytest.mark.parametrize("rows_before", [0, 500])
def test_postgres_searches_by_key_whatever_the_tables_were_when_it_planned(
    postgres_cluster: Cluster, rows_before: int
) -> None:
    url = postgres_cluster.fresh_database()
    _commit_batches(url, *[rows_before] * bool(rows_before))
    _commit_batches(url, *[1] * UNTIL_KEPT, 200, *[1] * UNTIL_KEPT)

    with psycopg.connect(url) as connection:  # what a connection read is told when it ends
        asked = "SELECT relname, seq_tup_read FROM pg_stat_user_tables WHERE relname = ANY (%s) AND seq_tup_read > 0"
        read_whole = connection.execute(asked, [[table.name for table in tables.metadata.sorted_tables]]).fetchall()
    assert read_whole == []
    postgres_cluster.drop(url)


def test_what_reads_a_whole_store_on_postgres_is_planned_as_the_database_is_set_to(postgres_database: Database) -> None:
    asked = "SELECT current_setting('enable_hashjoin')"
    with postgres_database.snapshot() as tx:
        assert tx.exec_driver_sql(asked).scalar_one() == "on"
    with postgres_database.writers.connect() as connection:  # the same one
        assert connection.exec_driver_sql(asked).scalar_one() == "off"
