"""`runtimestore serve`: serve until a signal, then drain."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import sys
from typing import TYPE_CHECKING

import click
import structlog

from runtimestore import RuntimeStoreError
from runtimestore_server import logs
from runtimestore_server.cli.flags import SOURCES, takes_settings
from runtimestore_server.cli.introduction import (
    contents,
    introduce,
    warn_of_a_visible_password,
    warn_of_near_misses,
    warn_of_traces,
)
from runtimestore_server.cli.refusals import refusing

if TYPE_CHECKING:
    from runtimestore_server.app import Application
    from runtimestore_server.settings import Settings

_log = structlog.get_logger(__name__)

FAILED = 70
"""The exit code of a server of which a part does not come to run: EX_SOFTWARE of sysexits.h."""

ECHO_SECONDS = 0.5
"""A second signal that comes so soon is the first once more: who starts us sends it to us and to our process group."""


@click.command(epilog=SOURCES)
@takes_settings()
def command(settings: Settings) -> int:
    """Serve the store until SIGTERM or SIGINT, then drain.

    Draining: health says NOT_SERVING, calls in flight finish within the grace period, what waits is committed, and the
    exit code is 0. A missing SQLite file is created; on any other database whose schema is not current, serve refuses
    and says what to run.
    """
    import uvloop

    from runtimestore_server.app import CannotServe
    from runtimestore_server.rpc.connections import allow_files
    from runtimestore_server.store.schema import SchemaNotCurrent

    warn_of_near_misses(settings)
    warn_of_a_visible_password(settings)
    warn_of_traces()
    allow_files(settings)
    # In seconds, a fifth of Python's default: a small write needs the interpreter several times, on two threads, while
    # a worker checks a large document.
    sys.setswitchinterval(0.001)
    with refusing(SchemaNotCurrent, CannotServe, ValueError, code=1):
        code, ended = uvloop.run(_serve_until_told(settings))
        if not ended:
            _leave_at_once(code)
    return code


async def _serve_until_told(settings: Settings) -> tuple[int, bool]:
    """Serve until a signal says to end, or a part fails for good; the exit code, and whether every thread has ended."""
    from runtimestore_server.app import Application

    told = asyncio.Event()
    loop = asyncio.get_running_loop()
    first = 0.0

    def tell(number: signal.Signals) -> None:
        nonlocal first
        if not told.is_set():
            first = loop.time()
        elif loop.time() - first > ECHO_SECONDS:
            _log.warning("told again: ending at once", signal=number.name)
            _leave_at_once(1)
        told.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, tell, number)
    async with Application(settings) as app:
        _leave_out_of_collections()
        # Beside: a store that does not answer now must not keep the end from coming.
        introduced = asyncio.create_task(_introduce(app, settings))
        await _either(told, app.supervision.given_up, introduced)
        if introduced.done():
            introduced.result()
            await _either(told, app.supervision.given_up)
        introduced.cancel()
        _log.info("draining", grace_period_seconds=settings.grace_period_seconds)
    counters = app.store.counters
    if not app.ended:
        _log.warning("the database does not answer: ending without it; whoever waited was told so")
    _log.info("stopped", transactions=counters.transactions, writes=counters.writes)
    return FAILED if app.supervision.given_up.is_set() else 0, app.ended


async def _introduce(app: Application, settings: Settings) -> None:
    """Tell what serves, and where."""
    if app.store.database.ephemeral:
        _log.warning("this store is in memory only: it forgets everything when it stops")
    database = app.store.database
    with contextlib.suppress(RuntimeStoreError):  # whether the database answers, health tells
        if warnings := await app.store.read(database.durability_warnings):
            _log.warning("durability settings are off", settings="; ".join(warnings))
        if warnings := await app.store.read(database.pooler_warnings):
            _log.warning("behind a pooler", settings="; ".join(warnings))
        if warnings := await app.store.read(database.connection_warnings):
            _log.warning("connections may run out", limits="; ".join(warnings))
    for defect in database.defects():
        _log.warning("the engine has a known defect", defect=defect)
    store = await _store_of(app, settings)
    introduce(settings, address=app.address, store=store)
    _log.info("serving", address=app.address, engine=database.name, **database.versions, store=store)


async def _either(*awaited: asyncio.Event | asyncio.Task[None]) -> None:
    """Wait until one of these events is set, or one of these tasks is done."""
    events = [asyncio.create_task(event.wait()) for event in awaited if isinstance(event, asyncio.Event)]
    tasks = [task for task in awaited if isinstance(task, asyncio.Task)]
    await asyncio.wait([*events, *tasks], return_when=asyncio.FIRST_COMPLETED)
    for waiting in events:
        waiting.cancel()


async def _store_of(app: Application, settings: Settings) -> str:
    """Tell which store is served, and what is in it where it can be asked at once: a start waits for no database."""
    from runtimestore_server.store.engines.naming import describe

    store = describe(settings.database_url.get_secret_value())
    with contextlib.suppress(Exception):  # whether the database answers, health tells
        store += f", {await asyncio.wait_for(app.store.read(contents), timeout=1.0)}"
    return store


def _leave_out_of_collections() -> None:
    """Let the garbage collector look at nothing any more that was made for the start: modules stay to the end.

    Each full collection would go through all of it. How often it collects stays as it is: a cycle may hold a request of
    megabytes, and the next collection is what frees it.
    """
    gc.collect()
    gc.freeze()


def _leave_at_once(code: int) -> None:
    """End the process without waiting for a thread that a database keeps. The store is safe against any crash."""
    logs.flush()
    os._exit(code)
