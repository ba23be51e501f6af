"""The disk under Postgres fails to sync: Postgres crashes by itself, and no answer turns out to be untrue."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from runtimestore import RetryPolicy
from runtimestore_server.store.engines import open_database
from scripts.postgres_installation import NoPostgres
from scripts.postgres_server import PostgresServer
from support.checkers.clean_up import until
from support.faults.preload import compiled
from support.generators.calls import Store
from support.generators.lives import Life
from support.generators.writers import Writers
from support.servers.postgres import Cluster
from support.servers.server import in_process

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.checkers.torture import Trial

ONCE = RetryPolicy(max_attempts=1)
PANIC = "PANIC:"
"""What Postgres writes before it crashes on a failed sync, since its pages are doubtful from then on."""


class Disk:
    """What is under Postgres, in a folder that its own account can see: not within pytest's."""

    def __init__(self, folder: Path) -> None:
        self._told = folder / "fail"
        self.environment = {
            "LD_PRELOAD": str(compiled("failing_syncs.c", folder)),
            "FAILING_SYNCS": str(self._told),
        }

    @contextlib.contextmanager
    def failing(self) -> Iterator[None]:
        """Inside, every sync fails."""
        self._told.touch()
        try:
            yield
        finally:
            self._told.unlink()


@pytest.fixture
def disk() -> Iterator[Disk]:
    folder = Path(tempfile.mkdtemp(prefix="pg-syncs-", dir="/tmp"))
    folder.chmod(0o755)
    try:
        yield Disk(folder)
    finally:
        shutil.rmtree(folder)


@pytest.fixture
def server(disk: Disk) -> Iterator[PostgresServer]:
    with PostgresServer(tcp=True, settings={"wal_sync_method": "fdatasync"}, environment=disk.environment) as found:
        yield found


def _up_again(server: PostgresServer) -> bool:
    """Wait until it takes connections; whether it had ended for good, as it does if its recovery meets the fault."""
    try:
        server.wait_until_ready()
    except NoPostgres:
        server.restart("immediate")
        return True
    return False


async def test_while_syncs_of_postgres_fail_every_answer_is_the_truth_and_the_server_goes_on_by_itself(
    server: PostgresServer, disk: Disk, trial: Trial, realm: str
) -> None:
    rounds = trial.rounds(short=2, long=24)
    cluster = Cluster(server.url)
    url = cluster.fresh_database()
    lives = [Life(f"rt:{number}") for number in range(8)]
    ended = 0
    async with (
        in_process(url, committer_threads=2) as app,
        Store(app.address, realm=realm, retry=ONCE) as store,
        Writers(store, lives) as writers,
    ):
        for number in range(rounds):
            await writers.go_on()
            crashes = server.log.count(PANIC)
            with disk.failing():
                if number % 2:
                    # A checkpoint syncs all that was written; a commit may come first.
                    checkpoint = asyncio.to_thread(server.execute, "CHECKPOINT")
                    await asyncio.gather(checkpoint, return_exceptions=True)
                await until(lambda: server.log.count(PANIC) > crashes)  # noqa: B023  (called within the round)
                await asyncio.sleep(trial.random.uniform(0, 0.2))
            ended += await asyncio.to_thread(_up_again, server)
        await writers.go_on()
    database = open_database(url, committer_threads=1, reader_threads=1)
    with database.readers.connect() as connection:
        found = writers.found(connection, realm)
    database.dispose()
    trial.record(
        faults=rounds,
        panics=server.log.count(PANIC),
        ended_for_good=ended,
        acknowledged=writers.told["OK"],
        **found,
        **writers.refusals(),
    )
    assert found == dict.fromkeys(found, 0)
    cluster.drop(url)
    cluster.close()
