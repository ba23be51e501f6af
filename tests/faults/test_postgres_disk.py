"""A Postgres whose disk is full or that takes no writes: refused by name, nothing lost, no restart of the server."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
import pytest
from psycopg import sql
from sqlalchemy.engine import make_url

from runtimestore_server.store.schema import upgrade
from scripts.postgres_installation import Account
from support.faults.disk import MIB, SmallDisk, small_disk
from support.generators.calls import Store
from support.generators.turns import ONCE, Turns, acknowledged, refusals
from support.servers.server import ServerProcess

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.checkers.torture import Trial
    from support.servers.postgres import Cluster

pytestmark = [pytest.mark.usefixtures("runner"), pytest.mark.root]


@pytest.fixture
def own_cluster(postgres_cluster: Cluster) -> Cluster:
    """The cluster, if it is this run's own: nobody else's is to be filled."""
    if "TEST_DATABASE_URL" in os.environ:
        pytest.skip("the Postgres behind $TEST_DATABASE_URL is somebody else's disk")
    return postgres_cluster


@pytest.fixture
def disk(own_cluster: Cluster) -> Iterator[SmallDisk]:
    """A small disk that Postgres can reach: not within pytest's own folder."""
    del own_cluster
    above = Path(tempfile.mkdtemp(prefix="pg-disk-", dir="/tmp"))
    above.chmod(0o755)
    try:
        with small_disk(above / "disk", size_bytes=64 * MIB) as found:
            Account.found().give(found.folder)
            yield found
    finally:
        shutil.rmtree(above)


@pytest.fixture
def url(own_cluster: Cluster, disk: SmallDisk) -> Iterator[str]:
    """A database on the small disk."""
    with _connected(own_cluster.url("postgres")) as connection:
        connection.execute(sql.SQL("CREATE TABLESPACE small LOCATION {}").format(str(disk.folder)))
        connection.execute("CREATE DATABASE on_small_disk TABLESPACE small")
        found = own_cluster.url("on_small_disk")
        upgrade(found)
        yield found
        connection.execute("DROP DATABASE on_small_disk")
        connection.execute("DROP TABLESPACE small")


def _connected(url: str) -> psycopg.Connection:
    plain = make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
    return psycopg.connect(plain, autocommit=True)


async def test_a_full_disk_of_postgres_refuses_by_name_and_needs_no_restart(
    trial: Trial, url: str, disk: SmallDisk
) -> None:
    rounds = trial.rounds(short=2, long=20)
    writers = [Turns(f"rt:{name}", size_bytes=size) for name, size in enumerate((500, 40_000, 200_000))]
    with ServerProcess(url) as server:
        async with Store(server.address, retry=ONCE) as store:
            for _ in range(rounds):
                for writer in writers:
                    assert await writer.take(store)
                disk.fill(leave_bytes=trial.random.randrange(MIB // 2))
                for writer in reversed(writers):
                    await writer.until_refused(store)
                for writer in writers:
                    await writer.check(store, last_turns=2)  # loads go on
                disk.make_room()
                for writer in writers:
                    assert await writer.take(store)  # the turn that was refused, under its request id
            server.kill()
    with ServerProcess(url) as server:
        async with Store(server.address) as store:
            for writer in writers:
                await writer.check(store)
    reasons = refusals(writers)
    assert set(reasons) == {"STORE_FULL"}
    trial.record(rounds=rounds, acknowledged_turns=acknowledged(writers), refused_as_full=reasons["STORE_FULL"])


async def test_a_postgres_that_was_read_only_for_a_while_is_written_again_without_a_restart(
    trial: Trial, postgres_cluster: Cluster
) -> None:
    rounds = trial.rounds(short=3, long=60)
    url = postgres_cluster.fresh_database()
    database = sql.Identifier(make_url(url).database or "")
    writer = Turns("rt:read-only")
    with _connected(postgres_cluster.url("postgres")) as operator, ServerProcess(url) as server:
        async with Store(server.address, retry=ONCE) as store:
            for _ in range(rounds):
                assert await writer.take(store)
                operator.execute(sql.SQL("ALTER DATABASE {} SET default_transaction_read_only = on").format(database))
                _end_sessions(operator, url)  # a setting of a database is for sessions that begin
                for _ in range(3):
                    assert not await writer.take(store)
                    await writer.check(store, last_turns=2)  # loads go on
                operator.execute(sql.SQL("ALTER DATABASE {} RESET default_transaction_read_only").format(database))
                assert await writer.take(store)
            await writer.check(store)
    assert set(writer.refusals) == {"STORE_READ_ONLY"}
    trial.record(rounds=rounds, acknowledged_turns=writer.acknowledged, refused=sum(writer.refusals.values()))
    postgres_cluster.drop(url)


def _end_sessions(operator: psycopg.Connection, url: str) -> None:
    operator.execute(
        "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = %s", [make_url(url).database]
    )
