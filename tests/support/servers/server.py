"""Servers to test against: one in this process; the one in a process of its own is in `server_process`."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import SecretStr

from runtimestore_server.app import Application
from runtimestore_server.settings import Settings
from support.checkers.clean_up import open_connections
from support.servers.server_process import ServerProcess

if TYPE_CHECKING:
    import asyncio
    from collections.abc import AsyncIterator, Iterator

__all__ = ["ServerProcess", "drain", "entered", "in_process", "settings_of"]

T = TypeVar("T")


@contextlib.asynccontextmanager
async def in_process(database_url: str, **settings: Any) -> AsyncIterator[Application]:
    """A running server in this process; afterwards no thread and no connection of it is left."""
    app = Application(settings_of(database_url, **settings))
    async with app:
        yield app
        pools = (app.store.database.writers.pool, app.store.database.readers.pool)
        threads = {one._thread for one in app.store._committer._all_threads} | set(app.workers._threads)
    assert app.ended
    assert [thread.name for thread in threads if thread.is_alive()] == []
    assert await open_connections(pools) == 0


def settings_of(database_url: str, **settings: Any) -> Settings:
    """The settings of a server in this process: on a port that the system chooses, without metrics."""
    return Settings(
        _env_file=None,
        listen=settings.pop("listen", "127.0.0.1:0"),
        database_url=SecretStr(database_url),
        metrics_listen=settings.pop("metrics_listen", ""),
        grace_period_seconds=settings.pop("grace_period_seconds", 5.0),
        **settings,
    )


async def drain(app: Application, *, grace_seconds: float) -> None:
    """Answer what has come and refuse what comes, as a server does that ends: the phases from `finish` to `answer`."""
    await app.shutdown._go(app.shutdown.phases(grace_seconds)[1:4], grace_seconds)


@contextlib.contextmanager
def entered(runner: asyncio.Runner, context: contextlib.AbstractAsyncContextManager[T]) -> Iterator[T]:
    """An asynchronous context for a fixture that is none."""

    async def enter() -> T:
        return await context.__aenter__()

    async def leave() -> None:
        await context.__aexit__(None, None, None)

    value = runner.run(enter())
    try:
        yield value
    finally:
        runner.run(leave())
