"""What the engine itself refuses: it fails alone, and no log line quotes what it held."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, cast

import pytest
import sqlalchemy as sa
import structlog.testing

from runtimestore.errors import InternalError, StoredValueCorrupt, StoreUnavailable
from runtimestore_server.store import tables
from runtimestore_server.store.engines.postgres import PostgresDatabase
from runtimestore_server.store.values import Outcome
from runtimestore_server.store.writes import Write
from support.generators.store_writes import (
    boundary,
    commit,
    document,
    everything,
    new_id,
    oauth,
    ops,
    rows,
    runtime,
    snapshot,
)

if TYPE_CHECKING:
    from runtimestore_server.store.engines import Database
    from runtimestore_server.store.writes import OAuthFlowWrite

NO_BYTES = cast("bytes", object())
"""What no driver takes."""

A_NULL = "a NULL where none may be"

UNTAKEN: dict[str, Any] = {
    "a lone surrogate": {"snapshot": snapshot(session_id="\ud800")},
    "a number over 64 bits": {"snapshot": snapshot(total_tokens=2**63)},
    "a value that is no bytes": {"ops": ops()._replace(sha256=NO_BYTES)},
    A_NULL: {"ops": ops()._replace(epoch_id=cast("str", None))},
}


@pytest.mark.parametrize("untaken", UNTAKEN)
def test_a_write_that_the_engine_refuses_fails_alone_and_its_neighbours_land(database: Database, untaken: str) -> None:
    key, bad, good = runtime(), runtime(), runtime()

    decisions = commit(
        database,
        Write(key, new_id(), runtime_state="idle"),
        Write(bad, new_id(), receipt=boundary(), **UNTAKEN[untaken]),
        Write(key, new_id(), if_revision=1, runtime_state="running"),
        Write(key, if_revision=2, receipt=boundary(), **UNTAKEN[untaken]),
        Write(good, new_id(), inputs=(document(),)),
        oauth(b"kept"),
    )

    assert [decisions[position] for position in (0, 2, 4, 5)] == [Outcome(1), Outcome(2), Outcome(1), Outcome(1)]
    # A damaged row of Postgres' lacks a value too: the two look alike.
    damage = untaken == A_NULL and isinstance(database, PostgresDatabase)
    refusal = StoredValueCorrupt if damage else InternalError
    assert isinstance(decisions[1], refusal)
    assert isinstance(decisions[3], refusal)
    left = everything(database)
    assert {row["runtime_id"] for row in left["runtimes"]} == {key.runtime_id, good.runtime_id}
    assert len(left["requests"]) == 3
    assert "receipts" not in left


def test_a_nul_in_an_id_fails_alone_where_the_engine_has_no_nul(postgres_database: Database) -> None:
    good = runtime()

    refused, landed = commit(
        postgres_database, Write(runtime("nul \0"), runtime_state="idle"), Write(good, runtime_state="idle")
    )

    assert isinstance(refused, InternalError)
    assert landed == Outcome(1)
    assert [row["runtime_id"] for row in rows(postgres_database, tables.runtimes)] == [good.runtime_id]


def _raise_at_ops(database: Database, state: str) -> None:
    """Have each insert of an ops snapshot fail with a code of Postgres' own."""
    with database.writers.begin() as connection:
        connection.exec_driver_sql(
            f"""
            CREATE FUNCTION failing() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                RAISE EXCEPTION 'this fails' USING ERRCODE = '{state}';
            END $$
            """
        )
        connection.exec_driver_sql(
            "CREATE TRIGGER failing BEFORE INSERT ON ops_snapshots FOR EACH ROW EXECUTE FUNCTION failing()"
        )


@pytest.mark.parametrize("state", ["23502", "23505", "XX000", "XX001", "XX002"])
def test_what_cannot_be_in_a_sound_database_is_damage_and_no_neighbours(
    postgres_database: Database, state: str
) -> None:
    # A page that leads to it is another one in each version.
    _raise_at_ops(postgres_database, state)

    refused, landed = commit(postgres_database, Write(runtime(), ops=ops()), Write(runtime(), runtime_state="idle"))

    assert isinstance(refused, StoredValueCorrupt)
    assert refused.metadata == {"table": "unknown", "store_error": "write_failed"}
    assert landed == Outcome(1)


@pytest.mark.parametrize("state", ["25P03", "25P04"])
def test_a_transaction_that_the_engine_ended_for_its_age_is_none_of_the_callers_doing(
    postgres_database: Database, state: str
) -> None:
    _raise_at_ops(postgres_database, state)

    (refused,) = commit(postgres_database, Write(runtime(), ops=ops()))

    assert isinstance(refused, StoreUnavailable)


def test_what_a_trigger_says_that_it_does_not_support_is_not_run_again_and_no_neighbours(
    postgres_database: Database,
) -> None:
    # A statement that was prepared for other types has the same code.
    _raise_at_ops(postgres_database, "0A000")

    refused, landed = commit(postgres_database, Write(runtime(), ops=ops()), Write(runtime(), runtime_state="idle"))

    assert isinstance(refused, InternalError)
    assert landed == Outcome(1)


def test_the_memory_of_a_request_whose_write_the_engine_refused_is_not_kept(database: Database) -> None:
    write = Write(runtime(), new_id(), snapshot=snapshot(total_tokens=2**63))

    (refused,) = commit(database, write)
    again = commit(database, dataclasses.replace(write, snapshot=snapshot()))

    assert isinstance(refused, InternalError)
    assert again == [Outcome(1)]


SECRET = b"pkce-verifier-7f3a"
TEXT = "a-sentence-of-a-conversation"


def _failing() -> list[Write | OAuthFlowWrite]:
    return [
        dataclasses.replace(oauth(SECRET), sha256=NO_BYTES),
        Write(runtime(), snapshot=snapshot(TEXT, total_tokens=2**63)),
        Write(runtime(), snapshot=snapshot(TEXT)._replace(sha256=NO_BYTES)),
        Write(runtime(), inputs=(document(TEXT)._replace(sha256=NO_BYTES),)),
        Write(runtime(), ops=ops(TEXT)._replace(sha256=NO_BYTES)),
        Write(runtime(), receipt=boundary(text=TEXT)._replace(sha256=NO_BYTES)),
    ]


@pytest.mark.parametrize("alone", [True, False], ids=["alone", "in a batch"])
def test_no_log_line_of_a_failing_write_holds_a_document_or_a_secret(
    database: Database, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture, alone: bool
) -> None:
    failing = _failing()

    with structlog.testing.capture_logs() as lines, caplog.at_level("DEBUG"):
        decisions = [commit(database, write)[0] for write in failing] if alone else commit(database, *failing)

    assert [type(decision) for decision in decisions] == [InternalError] * len(failing)
    assert sum(line["event"] == "write failed" for line in lines) == len(failing)
    assert all(line["error"] and line["traceback"] for line in lines if line["event"] == "write failed")
    printed = capfd.readouterr()
    told = repr(lines) + caplog.text + printed.out + printed.err + "".join(str(decision) for decision in decisions)
    for private in (SECRET.decode(), TEXT):
        assert private not in told


def test_the_text_of_an_error_of_the_engine_holds_no_parameter(database: Database) -> None:
    # Nothing of ours prints it; a tool that watches exceptions would.
    with database.writers.connect() as connection, pytest.raises(sa.exc.SQLAlchemyError) as raised:
        connection.execute(sa.text("SELECT :given FROM no_such_table"), {"given": TEXT})

    assert "no_such_table" in str(raised.value)
    assert TEXT not in str(raised.value)
