"""Postgres behind PgBouncer in transaction mode, where no two transactions need be on one connection."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from typing import TYPE_CHECKING

import psycopg
import pytest
import sqlalchemy as sa
from sqlalchemy import event

from runtimestore import RetryPolicy, StoreUnavailable
from runtimestore_server.store import schema, tables
from runtimestore_server.store.engines import Fault, open_database
from runtimestore_server.store.engines.postgres_connections import CommitInDoubt
from runtimestore_server.store.values import Outcome
from support.checkers.clean_up import until
from support.generators.calls import Store
from support.generators.lives import Life
from support.generators.store_writes import commit
from support.generators.writers import Writers
from support.servers.command import run
from support.servers.pgbouncer import NoPgBouncer, PgBouncer, drop_pools
from support.servers.postgres import Cluster, quick_postgres
from support.servers.server import in_process

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from runtimestore import AsyncRuntimeStoreClient
    from runtimestore_server.store.engines import Database
    from scripts.postgres_server import PostgresServer
    from support.checkers.torture import Trial

ONCE = RetryPolicy(max_attempts=1)


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    with quick_postgres(tcp=True, settings={"max_connections": 200}) as found:
        yield found


@pytest.fixture(scope="module")
def pooler(server: PostgresServer) -> Iterator[PgBouncer]:
    try:
        with PgBouncer(server) as found:
            yield found
    except NoPgBouncer as none:
        pytest.skip(str(none))


@pytest.fixture
def url(server: PostgresServer) -> Iterator[str]:
    """A migrated database, reached without the pooler."""
    cluster = Cluster(server.url)
    found = cluster.fresh_database()
    yield found
    drop_pools(server, found)
    cluster.drop(found)
    cluster.close()


@contextlib.contextmanager
def opened(url: str) -> Iterator[Database]:
    database = open_database(url, committer_threads=2, reader_threads=2)
    yield database
    database.dispose()


@contextlib.asynccontextmanager
async def loading(store: AsyncRuntimeStoreClient, lives: list[Life]) -> AsyncIterator[dict[str, int]]:
    """Load in every way, without a pause; that the store cannot be reached is all that may be told."""
    told = {"loaded": 0, "unavailable": 0}

    async def load(life: Life) -> None:
        while True:
            try:
                await store.load_session_snapshot(life.runtime_id)
                await store.load_input_states(life.runtime_id)
                whole = await store.load_runtime(life.runtime_id)
                expected = life.stored_after(whole.revision)
                state = None if whole.state is None else whole.state.value
                assert (state, whole.session_snapshot) == (expected.state, expected.session), "not of one moment"
                listed = await store.list_session_versions(life.runtime_id)
                for version in listed.versions[-1:]:
                    assert await store.load_session_snapshot(life.runtime_id, as_of_revision=version.revision)
            except StoreUnavailable:
                told["unavailable"] += 1
                await asyncio.sleep(0.02)
            else:
                told["loaded"] += 1

    tasks = [asyncio.create_task(load(life)) for life in lives]
    try:
        yield told
    finally:
        for task in tasks:
            task.cancel()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
        assert [end for end in ended if not isinstance(end, asyncio.CancelledError)] == []


async def test_two_servers_behind_a_pooler_tell_the_truth_whatever_is_killed(
    server: PostgresServer, pooler: PgBouncer, url: str, trial: Trial, realm: str
) -> None:
    rounds = trial.rounds(short=3, long=60)
    lives = [Life(f"rt:{number}", padding_bytes=20_000) for number in range(8)]  # of which edits are worth sending
    through = pooler.url(url)
    async with (
        in_process(through, committer_threads=2, reader_threads=2) as first,
        in_process(through, committer_threads=2, reader_threads=2) as second,
        Store(first.address, realm=realm, retry=ONCE) as one,
        Store(second.address, realm=realm, retry=ONCE) as other,
        loading(one, lives[4:]) as told_by_one,
        loading(other, lives[:4]) as told_by_other,
        Writers(one, lives[:4]) as writers,
        Writers(other, lives[4:]) as others,
    ):
        for number in range(rounds):
            await writers.go_on()
            await others.go_on()
            await asyncio.sleep(trial.random.uniform(0, 0.1))
            match number % 3:
                case 0:
                    await asyncio.to_thread(drop_pools, server, url)
                case 1:
                    await asyncio.to_thread(pooler.crash)
                case _:
                    await asyncio.to_thread(pooler.kill)
                    await asyncio.sleep(trial.random.uniform(0, 0.3))
                    await asyncio.to_thread(pooler.start)
        await writers.go_on()
        await others.go_on()
        before = told_by_one["loaded"], told_by_other["loaded"]
        await until(lambda: told_by_one["loaded"] > before[0] and told_by_other["loaded"] > before[1])

    with opened(url) as database, database.readers.connect() as connection:
        found = [driven.found(connection, realm) for driven in (writers, others)]
    trial.record(ends=rounds, acknowledged=writers.told["OK"] + others.told["OK"], **writers.refusals())
    assert [set(one.values()) for one in found] == [{0}, {0}]


def test_behind_a_pooler_nothing_is_set_for_a_session_and_each_transaction_has_what_it_needs(
    pooler: PgBouncer, url: str
) -> None:
    life = Life("rt:one")
    with opened(pooler.url(url)) as database:
        for turn in range(1, 30):
            assert commit(database, life.write("r", turn)) == [Outcome(turn)]
        with database.writers.begin() as tx:
            inside = tx.exec_driver_sql(_LOOK).one()
        with database.readers.connect() as connection:
            outside = {connection.exec_driver_sql(_LOOK).one() for _ in range(20)}

    assert inside == ("1s", "warning", 0)
    assert outside == {("0", "notice", 0)}


_LOOK = (
    "SELECT current_setting('lock_timeout'), current_setting('client_min_messages'),"
    " (SELECT count(*) FROM pg_prepared_statements WHERE name LIKE '\\_pg3%%')"
)


@pytest.mark.parametrize("pooled", [True, False], ids=["pooled", "direct"])
def test_a_connection_that_is_ours_alone_is_set_up_once_and_no_transaction_pays_for_it(
    pooler: PgBouncer, url: str, pooled: bool
) -> None:
    life = Life("rt:one")
    sent: list[str] = []
    with opened(pooler.url(url) if pooled else url) as database:
        commit(database, life.write("r", 1))
        event.listen(database.writers, "before_cursor_execute", lambda *arguments: sent.append(arguments[2]))
        for turn in range(2, 18):
            commit(database, life.write("r", turn))
        with database.writers.begin() as tx:
            _, _, prepared = tx.exec_driver_sql(_LOOK).one()

    settings = [statement for statement in sent if "set_config" in statement and "current" not in statement]
    assert len(settings) == (17 if pooled else 0)
    assert bool(prepared) is not pooled


def test_a_url_may_say_that_there_is_a_pooler(url: str) -> None:
    with opened(f"{url}?prepare_threshold=0") as database, database.readers.connect() as connection:
        assert connection.exec_driver_sql("SHOW lock_timeout").scalar_one() == "0"
        assert connection.connection.driver_connection.prepare_threshold is None  # type: ignore[union-attr]


def test_a_commit_whose_wait_for_a_standby_was_cut_short_is_in_doubt_through_a_pooler_too(
    server: PostgresServer, pooler: PgBouncer, url: str
) -> None:
    server.execute(
        "ALTER ROLE postgres SET client_min_messages = error",
        "ALTER SYSTEM SET synchronous_standby_names = 'nobody'",
        "SELECT pg_reload_conf()",
    )
    drop_pools(server, url)
    try:
        with opened(pooler.url(url)) as database:
            canceller = threading.Thread(target=_cancel_a_commit, args=(server.url,))
            canceller.start()
            with pytest.raises(CommitInDoubt), database.writers.begin() as tx:
                tx.execute(sa.insert(tables.runtimes).values(realm="r", runtime_id="rt", revision=1))
            canceller.join()
    finally:
        server.execute(
            "ALTER SYSTEM RESET synchronous_standby_names",
            "SELECT pg_reload_conf()",
            "SET synchronous_commit = local",  # the settings may not be read yet
            "ALTER ROLE postgres RESET client_min_messages",
        )


def _cancel_a_commit(url: str) -> None:
    waiting = "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep'"
    with psycopg.connect(url, autocommit=True) as connection:
        for _ in range(1000):
            if connection.execute(waiting).fetchall():
                return
            threading.Event().wait(0.01)


def test_what_a_pooler_cannot_give_is_told_at_start_with_the_cure(
    server: PostgresServer, pooler: PgBouncer, url: str
) -> None:
    with opened(pooler.url(url)) as database, database.readers.connect() as connection:
        (told,) = database.pooler_warnings(connection)
    assert "ALTER ROLE" in told
    server.execute("ALTER ROLE postgres SET lock_timeout = '1s'")
    drop_pools(server, url)
    try:
        with opened(pooler.url(url)) as database, database.readers.connect() as connection:
            assert database.pooler_warnings(connection) == []
    finally:
        server.execute("ALTER ROLE postgres RESET lock_timeout")
    with opened(url) as database, database.readers.connect() as connection:
        assert database.pooler_warnings(connection) == []


def test_a_pooler_that_lets_no_transaction_begin_is_refused_at_start(
    server: PostgresServer, url: str, tmp_path: Path
) -> None:
    with contextlib.ExitStack() as stack:
        try:
            pooler = stack.enter_context(PgBouncer(server, pool_mode="statement"))
        except NoPgBouncer as none:
            pytest.skip(str(none))
        told = run("serve", cwd=tmp_path, extra={"RUNTIMESTORE_DATABASE_URL": pooler.url(url)})
    assert told.returncode == 1
    assert "pool_mode must be transaction" in told.stderr


def test_the_last_words_of_a_process_before_an_answer_are_the_connections_end(url: str) -> None:
    with opened(url) as database:
        confused = psycopg.InternalError("received 2 results from command 'BEGIN'")
        error = sa.exc.InternalError(None, None, confused)
        assert database.classify(error) is Fault.UNAVAILABLE
        assert database.commit_is_ambiguous(error)


def test_a_database_is_migrated_through_a_pooler(server: PostgresServer, pooler: PgBouncer) -> None:
    cluster = Cluster(server.url)
    empty = cluster.fresh_database(migrated=False)
    try:
        assert schema.upgrade(pooler.url(empty)) == (None, schema.HEAD)
        assert schema.upgrade(pooler.url(empty)) == (schema.HEAD, schema.HEAD)
    finally:
        drop_pools(server, empty)
        cluster.drop(empty)
        cluster.close()
