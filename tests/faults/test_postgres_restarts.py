"""Postgres goes away under load and comes back: nothing acknowledged is missing, and the server goes on by itself."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from runtimestore import CommitOutcomeUnknown, RetryPolicy
from runtimestore_server.store.engines import open_database
from runtimestore_server.store.engines.postgres_execution import open_pipeline_of
from runtimestore_server.store.engines.postgres_pipeline import statement_of
from runtimestore_server.store.values import Outcome
from scripts.postgres_server import PostgresServer
from support.generators.calls import Store
from support.generators.lives import Life
from support.generators.store_writes import commit
from support.generators.writers import Writers
from support.servers.postgres import Cluster
from support.servers.server import in_process

if TYPE_CHECKING:
    from collections.abc import Iterator

    from runtimestore_server.store.engines import Database
    from support.checkers.torture import Trial

ONCE = RetryPolicy(max_attempts=1)

# Nothing but a COMMIT writes the log to the disk, so that a crash loses what was not committed.
SETTINGS = {"wal_writer_delay": "10s"}


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    with PostgresServer(tcp=True, settings=SETTINGS) as found:
        yield found


@pytest.fixture
def url(server: PostgresServer) -> Iterator[str]:
    cluster = Cluster(server.url)
    found = cluster.fresh_database()
    yield found
    cluster.drop(found)
    cluster.close()


@pytest.fixture
def database(url: str) -> Iterator[Database]:
    found = open_database(url, committer_threads=2, reader_threads=1)
    yield found
    found.dispose()


async def test_a_server_outlasts_every_end_of_its_postgres_and_nothing_acknowledged_is_missing(
    server: PostgresServer, url: str, database: Database, trial: Trial, realm: str
) -> None:
    rounds = trial.rounds(short=4, long=60)
    lives = [Life(f"rt:{number}") for number in range(6)]
    async with (
        in_process(url, committer_threads=2) as app,
        Store(app.address, realm=realm, retry=ONCE) as store,
        Writers(store, lives) as writers,
    ):
        for number in range(rounds):
            await writers.go_on()
            await asyncio.sleep(trial.random.uniform(0, 0.1))
            match number % 4:
                case 0:
                    await asyncio.to_thread(server.crash)
                case 1:
                    await asyncio.to_thread(server.restart, "fast")
                case 2:
                    await asyncio.to_thread(server.restart, "immediate")
                case _:
                    await asyncio.to_thread(server.stop, "kill")
                    await asyncio.sleep(trial.random.uniform(0, 0.5))
                    await asyncio.to_thread(server.start)
        await writers.go_on()

    with database.readers.connect() as connection:
        found = writers.found(connection, realm)
    trial.record(ends=rounds, acknowledged=writers.told["OK"], **found, **writers.refusals())
    assert found == dict.fromkeys(found, 0)


def _use_up_ids(database: Database, token: str) -> None:
    """Commit transactions until one has had the id that `token` names."""
    wanted = int(token.partition("/")[0])
    while True:
        with database.writers.begin() as connection:
            if int(connection.exec_driver_sql("SELECT pg_current_xact_id()::text").scalar_one()) >= wanted:
                return


@pytest.mark.parametrize("identified", [True, False], ids=["with ids", "without ids"])
def test_a_write_lost_in_a_crash_is_not_taken_for_the_transaction_that_got_its_id_afterwards(
    server: PostgresServer, url: str, database: Database, monkeypatch: pytest.MonkeyPatch, identified: bool
) -> None:
    life = Life("rt:lost", identified=identified)
    real = database.writers.dialect.do_commit
    crashed: list[str] = []

    def do_commit(connection: Any) -> None:
        if not crashed:
            pipeline = open_pipeline_of(connection.driver_connection)
            assert pipeline
            ((token,),) = pipeline.found(pipeline.send(statement_of("SELECT pg_current_xact_id()::text"), {}))
            server.crash()  # one process is killed, all begin anew; the server's start time stays
            crashed.append(token)
            other = open_database(url, committer_threads=1, reader_threads=1)
            _use_up_ids(other, crashed[0])
            other.dispose()
        real(connection)

    monkeypatch.setattr(database.writers.dialect, "do_commit", do_commit)

    (decision,) = commit(database, life.write("r", 1))

    assert crashed
    with database.readers.connect() as connection:
        landed = life.landed(connection, "r", at_least=0, at_most=1)
    if identified:
        assert (decision, landed) == (Outcome(1), 1)
    else:
        assert (type(decision), landed) == (CommitOutcomeUnknown, 0)
