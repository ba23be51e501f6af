"""What several clients were told while things broke: each runtime's history is linearisable."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, ExitStack
from typing import TYPE_CHECKING

import pytest

from runtimestore import AsyncRuntimeStoreClient, RetryPolicy
from support.documents import new_id
from support.engines import DURABLE
from support.history import History
from support.linearisable import Call, linearisable
from support.reply_proxy import ReplyProxy
from support.server import in_process
from support.server_process import ServerProcess

if TYPE_CHECKING:
    from collections.abc import Sequence

    from support.torture import Trial

RUNTIMES = 4
ONCE = RetryPolicy(max_attempts=1)
IN_VAIN_SECONDS = 0.05
"""A pause after a call in vain: one for each that nobody answers would fill the history."""


async def _compare_and_swap(history: History, store: AsyncRuntimeStoreClient, stop: asyncio.Event) -> None:
    revision = await history.load(store) or 0
    while not stop.is_set():
        told = await history.write(store, if_revision=revision)
        if told is None:
            await asyncio.sleep(IN_VAIN_SECONDS)
            told = await history.load(store)
        revision = revision if told is None else told


async def _write(history: History, store: AsyncRuntimeStoreClient, stop: asyncio.Event) -> None:
    while not stop.is_set():
        if await history.write(store) is None:
            await asyncio.sleep(IN_VAIN_SECONDS)


async def _read(history: History, store: AsyncRuntimeStoreClient, stop: asyncio.Event) -> None:
    number = 0
    while not stop.is_set():
        if await history.load(store) is None:
            await asyncio.sleep(IN_VAIN_SECONDS)
        await history.load_receipt(store, number)
        number += 1


async def _drive(histories: Sequence[History], stores: Sequence[AsyncRuntimeStoreClient], stop: asyncio.Event) -> None:
    """Two writers and a reader a runtime, until told; every second store gives up after one attempt."""
    async with asyncio.TaskGroup() as group:
        for position, history in enumerate(histories):
            patient, hasty = stores[2 * position], stores[2 * position + 1]
            group.create_task(_compare_and_swap(history, hasty, stop))
            group.create_task(_write(history, patient, stop))
            group.create_task(_read(history, patient, stop))


def _judge(histories: Sequence[History], trial: Trial, **figures: int) -> None:
    for history in histories:
        assert linearisable(history.calls), history
        # With one answer that nobody wrote it is not: the checker looks at these calls.
        after = max((call.end for call in history.calls), default=0) + 1
        false = Call("load", after, after + 1, "done", body=b"never written", revision=1)
        assert not linearisable([*history.calls, false])
    trial.record(
        calls=sum(len(history.calls) for history in histories),
        writes_done=sum(call.kind == "write" and call.outcome == "done" for h in histories for call in h.calls),
        refused=sum(call.outcome == "refused" for history in histories for call in history.calls),
        outcome_unknown=sum(history.unknown for history in histories),
        **figures,
    )


def _histories() -> list[History]:
    return [History(f"rt:{new_id()}") for _ in range(RUNTIMES)]


def _stores(stack: AsyncExitStack, address: str | list[str]) -> list[AsyncRuntimeStoreClient]:
    stores = [
        AsyncRuntimeStoreClient(address, timeout_seconds=60, **({"retry": ONCE} if hasty else {}))  # type: ignore[arg-type]  # one option
        for _ in range(RUNTIMES)
        for hasty in (False, True)
    ]
    for store in stores:
        stack.push_async_callback(store.close)
    return stores


@pytest.mark.needs(DURABLE)
async def test_histories_under_lost_replies_are_linearisable(fresh_url: str, trial: Trial) -> None:
    histories, stop = _histories(), asyncio.Event()
    async with (
        in_process(fresh_url) as app,
        ReplyProxy(app.address, loss=0.2, chance=trial.random) as proxy,
        AsyncExitStack() as stack,
    ):
        driving = asyncio.create_task(_drive(histories, _stores(stack, proxy.address), stop))
        await asyncio.sleep(trial.rounds(short=2, long=30))
        stop.set()
        await driving
    assert proxy.lost
    _judge(histories, trial, replies_lost=proxy.lost)


@pytest.mark.needs(DURABLE)
async def test_histories_under_kills_of_the_server_are_linearisable(fresh_url: str, trial: Trial) -> None:
    histories, stop = _histories(), asyncio.Event()
    kills = trial.rounds(short=2, long=20)
    with ExitStack() as servers:
        server = servers.enter_context(ServerProcess(fresh_url))
        address = server.address
        async with AsyncExitStack() as stack:
            driving = asyncio.create_task(_drive(histories, _stores(stack, address), stop))
            for _ in range(kills):
                await asyncio.sleep(trial.random.uniform(0.2, 0.8))
                await asyncio.to_thread(server.kill)
                server = await asyncio.to_thread(servers.enter_context, ServerProcess(fresh_url, listen=address))
            await asyncio.sleep(0.5)
            stop.set()
            await driving
    _judge(histories, trial, kills=kills)


@pytest.mark.needs(DURABLE)
async def test_histories_under_restarts_of_the_server_are_linearisable(fresh_url: str, trial: Trial) -> None:
    histories, stop = _histories(), asyncio.Event()
    restarts = trial.rounds(short=2, long=20)
    with ExitStack() as servers:
        running = [servers.enter_context(ServerProcess(fresh_url)) for _ in range(2)]
        async with AsyncExitStack() as stack:
            stores = _stores(stack, [server.address for server in running])
            driving = asyncio.create_task(_drive(histories, stores, stop))
            for number in range(restarts):
                await asyncio.sleep(trial.random.uniform(0.1, 0.4))
                old = running[number % 2]
                old.terminate()
                assert await asyncio.to_thread(old.wait) == 0
                running[number % 2] = await asyncio.to_thread(
                    servers.enter_context, ServerProcess(fresh_url, listen=old.address)
                )
            await asyncio.sleep(0.3)
            stop.set()
            await driving
    _judge(histories, trial, restarts=restarts)
