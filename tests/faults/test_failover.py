"""The primary dies, its synchronous standby takes over: nothing acknowledged is missing, and the server follows."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

import pytest

from runtimestore import CommitOutcomeUnknown, RetryPolicy, StoreUnavailable
from runtimestore_server.store.engines import CommitState, open_database
from runtimestore_server.store.schema import upgrade
from scripts.postgres_server import PostgresServer
from support.generators.calls import Store
from support.generators.lives import Life
from support.generators.writers import Writers
from support.servers.server import in_process

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Mapping

    from runtimestore import Commit
    from support.checkers.torture import Trial

ONCE = RetryPolicy(max_attempts=1)

# A standby says soon how far it is, and asks soon for a primary that is back.
SETTINGS = {"wal_receiver_status_interval": "1", "wal_retrieve_retry_interval": "100ms"}


class Pair:
    """A primary and its synchronous standby, until the one dies; then the standby is primary, and gets one itself."""

    def __init__(self, servers: contextlib.ExitStack) -> None:
        self._servers = servers
        self.primary = servers.enter_context(PostgresServer(tcp=True, settings=SETTINGS))
        upgrade(self.primary.url)
        self.standby = self._followed()

    @property
    def url(self) -> str:
        """Both, for a server that follows whichever takes writes."""
        hosts = "&".join(f"host=127.0.0.1:{server.port}" for server in (self.primary, self.standby))
        return f"postgresql://postgres@/postgres?{hosts}&target_session_attrs=read-write"

    def fail_over(self, mode: Any) -> None:
        """The primary dies and the standby takes over, without a standby of its own."""
        self.primary.stop(mode)
        self.take_over()

    def take_over(self) -> None:
        """The standby becomes a primary that waits for nobody."""
        self.standby.promote()
        self.standby.execute("ALTER SYSTEM SET synchronous_standby_names = ''", "SELECT pg_reload_conf()")

    def renew(self) -> None:
        """A new standby where the dead primary was, at its address; then writes wait for it."""
        port = self.primary.port
        self.primary.close()
        self.primary = self.standby
        self.standby = self._followed(port)

    def _followed(self, port: int | None = None) -> PostgresServer:
        standby = self._servers.enter_context(self.primary.standby(port=port))
        self.primary.execute("ALTER SYSTEM SET synchronous_standby_names = '*'", "SELECT pg_reload_conf()")
        return standby

    @contextlib.asynccontextmanager
    async def test(self) -> AsyncIterator[None]:
        """A test that fails takes both along: a COMMIT that waits for a standby would hold up the server's end."""
        try:
            yield
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End both."""
        for server in (self.primary, self.standby):
            server.stop("kill")

    def waiting_for_the_standby(self) -> list[int]:
        """The processes of the primary whose COMMIT waits for the standby."""
        waiting = "SELECT pid FROM pg_stat_activity WHERE wait_event = 'SyncRep'"
        return [pid for (pid,) in self.primary.execute(waiting)]


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    with contextlib.ExitStack() as servers:
        yield Pair(servers)


def _landed(pair: Pair, realm: str, turns: Mapping[Life, int]) -> None:
    database = open_database(pair.url, committer_threads=1, reader_threads=1)
    with database.readers.connect() as connection:
        for life, turn in turns.items():
            assert life.landed(connection, realm, at_least=turn, at_most=turn) == turn
    database.dispose()


@pytest.mark.slow
async def test_a_server_follows_to_the_standby_and_nothing_acknowledged_is_missing(
    pair: Pair, trial: Trial, realm: str
) -> None:
    rounds = trial.rounds(short=1, long=12)
    lives = [Life(f"rt:{number}") for number in range(6)]
    async with (
        in_process(pair.url, committer_threads=2) as app,
        Store(app.address, realm=realm, retry=ONCE) as store,
        Writers(store, lives) as writers,
        pair.test(),
    ):
        for number in range(rounds):
            await writers.go_on()
            await asyncio.sleep(trial.random.uniform(0, 0.2))
            await asyncio.to_thread(pair.fail_over, ("kill", "immediate")[number % 2])
            await writers.go_on()
            await asyncio.to_thread(pair.renew)
        await writers.go_on()
    database = open_database(pair.url, committer_threads=1, reader_threads=1)
    with database.readers.connect() as connection:
        found = writers.found(connection, realm)
    database.dispose()
    trial.record(failovers=rounds, acknowledged=writers.told["OK"], **found, **writers.refusals())
    assert found == dict.fromkeys(found, 0)


@pytest.mark.slow
@pytest.mark.parametrize("least", ["warning", "error"])
@pytest.mark.parametrize("end", ["pg_terminate_backend", "pg_cancel_backend"])
async def test_a_write_that_only_the_dead_primary_had_is_not_acknowledged(
    pair: Pair, realm: str, end: str, least: str
) -> None:
    life = Life(f"rt:{end}")
    # The end of a wait is told in a warning, of which an operator may not want to hear.
    await asyncio.to_thread(pair.primary.execute, f"ALTER ROLE postgres SET client_min_messages = {least}")
    async with in_process(pair.url) as app, Store(app.address, realm=realm, retry=ONCE) as store, pair.test():
        await life.send(store, 1)
        await asyncio.to_thread(pair.standby.stop, "fast")
        writing = asyncio.create_task(life.send(store, 2, timeout_seconds=120))
        first = await _waiting(pair, writing)

        # Its wait is over; on the primary the write is committed, and visible.
        await asyncio.to_thread(pair.primary.execute, f"SELECT {end}({first})")
        await _waiting(pair, writing, other_than=first)
        assert not writing.done(), "acknowledged, and no standby has it"

        await asyncio.to_thread(pair.primary.stop, "kill")
        await asyncio.to_thread(pair.standby.start)
        await asyncio.to_thread(pair.take_over)
        with contextlib.suppress(CommitOutcomeUnknown, StoreUnavailable):
            assert await writing == (2, False)
        assert (await life.send(store, 2)).revision == 2
        await asyncio.to_thread(_landed, pair, realm, {life: 2})
    await asyncio.to_thread(pair.renew)


async def _waiting(pair: Pair, writing: asyncio.Task[Commit], *, other_than: int = 0) -> int:
    """The process whose COMMIT waits for the standby; 0 if the write is answered before there is one."""
    while not writing.done():
        for process in await asyncio.to_thread(pair.waiting_for_the_standby):
            if process != other_than:
                return process
        await asyncio.sleep(0.02)
    return 0


@pytest.mark.slow
def test_a_standby_that_still_replays_is_not_believed_about_a_commit(pair: Pair) -> None:
    primary = open_database(pair.primary.url, committer_threads=1, reader_threads=1)
    standby = open_database(pair.standby.url, committer_threads=1, reader_threads=1)
    with primary.writers.begin() as connection:
        token = primary.began(connection)().token
    with standby.readers.connect() as connection:
        assert standby.commit_state(connection, token) is CommitState.IN_PROGRESS
    primary.dispose()
    standby.dispose()
