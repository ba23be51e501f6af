"""The commit thread of a test: on a database, without a server in front of it."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from typing import TYPE_CHECKING, Any

from runtimestore_server.store.committer import Committer
from runtimestore_server.store.writes import Write
from support.checkers.clean_up import threads_left
from support.generators.store_writes import document, runtime
from support.servers.listening import listening

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from runtimestore_server.store.engines import Database
    from runtimestore_server.store.values import Outcome
    from runtimestore_server.store.writes import OAuthFlowWrite

WAIT_SECONDS = 20


@contextlib.asynccontextmanager
async def committing(database: Database, **bounds: Any) -> AsyncIterator[Committer]:
    """A queue of writes with these bounds; afterwards no thread of it is left."""
    before = threading.enumerate()
    usual: dict[str, Any] = {
        "threads": 1,
        "max_batch_writes": 64,
        "max_waiting_writes": 1000,
        "max_waiting_bytes": 1_000_000,
    }
    committer = Committer(database, **{**usual, **bounds})
    try:
        yield committer
    finally:
        assert await committer.close(within_seconds=WAIT_SECONDS)
        assert await threads_left(before) == set()


@contextlib.contextmanager
def held(database: Database) -> Iterator[threading.Event]:
    """No transaction goes on before the event is set."""
    go_on = threading.Event()

    def begun(_connection: Any) -> None:
        assert go_on.wait(WAIT_SECONDS)

    with listening(database.writers, begin=begun):
        try:
            yield go_on
        finally:
            go_on.set()


async def waiting(committer: Committer, *writes: Write | OAuthFlowWrite) -> list[asyncio.Task[Outcome]]:
    """Put writes into the queue, without awaiting what becomes of them."""
    tasks = [asyncio.create_task(committer.commit(write)) for write in writes]
    await asyncio.sleep(0)  # each has put its write into the queue
    return tasks


def sized(size_bytes: int) -> Write:
    """A write of so many bytes."""
    given = document()
    return Write(runtime(), inputs=(given._replace(state_json=bytes(size_bytes)),))


async def until_taken(committer: Committer) -> None:
    """Wait until the commit thread has taken all that is in the queue."""
    (only,) = committer._threads
    while only._queue:  # noqa: ASYNC110  (the commit thread and knows no asyncio.Event)
        await asyncio.sleep(0.001)
