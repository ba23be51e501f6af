"""What several clients were told while things broke: the history of each key, of every call, is linearisable."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

import pytest

from runtimestore import AsyncRuntimeStoreClient, RetryPolicy, StoreUnavailable
from support.checkers.history import Caller, OAuthHistory, RuntimeHistory
from support.checkers.linearisable import Call, linearisable
from support.faults.reply_proxy import ReplyProxy
from support.servers.engines import DURABLE
from support.servers.server import in_process
from support.servers.server_process import ServerProcess

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from runtimestore import Commit
    from support.checkers.history import History
    from support.checkers.torture import Trial

RUNTIMES = 4
ONCE = RetryPolicy(max_attempts=1)
IN_VAIN_SECONDS = 0.05
"""A pause after a call in vain: one for each that nobody answers would fill the history."""


@dataclass
class Histories:
    """The histories of some runtimes, and of the realm's OAuth snapshot."""

    runtimes: list[RuntimeHistory] = field(default_factory=lambda: [RuntimeHistory() for _ in range(RUNTIMES)])
    oauth: OAuthHistory = field(default_factory=OAuthHistory)

    def __iter__(self) -> Iterator[History]:
        """Each of them is judged alone."""
        yield from (*self.runtimes, self.oauth)


async def _compare_and_swap(history: RuntimeHistory, caller: Caller, stop: asyncio.Event) -> None:
    revision = await history.load(caller) or 0
    while not stop.is_set():
        told = await history.write(caller, if_revision=revision)
        if told is None:
            await asyncio.sleep(IN_VAIN_SECONDS)
            told = await history.load(caller)
        revision = revision if told is None else told


async def _again_and_again(
    call: Callable[[Caller], Awaitable[int | None]], caller: Caller, stop: asyncio.Event
) -> None:
    while not stop.is_set():
        if await call(caller) is None:
            await asyncio.sleep(IN_VAIN_SECONDS)


async def _drive(histories: Histories, callers: Iterator[tuple[Caller, Caller]], stop: asyncio.Event) -> None:
    """Two writers and a reader a key, until told; every second caller gives up after one attempt."""
    async with asyncio.TaskGroup() as group:
        for history, (patient, hasty) in zip(histories.runtimes, callers, strict=False):
            group.create_task(_compare_and_swap(history, hasty, stop))
            group.create_task(_again_and_again(history.write, patient, stop))
            group.create_task(_again_and_again(history.load, patient, stop))
        patient, hasty = next(callers)
        group.create_task(_again_and_again(histories.oauth.update, hasty, stop))
        group.create_task(_again_and_again(histories.oauth.write, patient, stop))
        group.create_task(_again_and_again(histories.oauth.load, patient, stop))


def _judge(histories: Histories, trial: Trial, **figures: int) -> None:
    for history in histories:
        assert linearisable(history.calls), history
        # With one answer that nobody wrote it is not: the checker looks at these calls.
        after = max((call.end for call in history.calls), default=0) + 1
        false = Call("load", after, after + 1, "done", {"session": b"never written"}, revision=1)
        assert not linearisable([*history.calls, false])
    trial.record(
        calls=sum(len(history.calls) for history in histories),
        writes_done=sum(call.kind == "write" and call.outcome == "done" for h in histories for call in h.calls),
        refused=sum(call.outcome == "refused" for history in histories for call in history.calls),
        outcome_unknown=sum(history.unknown for history in histories),
        **figures,
    )


def _callers(stack: AsyncExitStack, address: str | list[str]) -> Iterator[tuple[Caller, Caller]]:
    """Pairs of callers, one for each key: a patient one, and one that gives up after one attempt."""
    for _ in range(RUNTIMES + 1):
        patient = AsyncRuntimeStoreClient(address, timeout_seconds=60)
        hasty = AsyncRuntimeStoreClient(address, timeout_seconds=60, retry=ONCE)
        for store in (patient, hasty):
            stack.push_async_callback(store.close)
        yield Caller(patient, once=False), Caller(hasty, once=True)


@pytest.mark.needs(DURABLE)
async def test_histories_under_lost_replies_are_linearisable(fresh_url: str, trial: Trial) -> None:
    histories, stop = Histories(), asyncio.Event()
    async with (
        in_process(fresh_url) as app,
        ReplyProxy(app.address, loss=0.2, chance=trial.random) as proxy,
        AsyncExitStack() as stack,
    ):
        driving = asyncio.create_task(_drive(histories, _callers(stack, proxy.address), stop))
        await asyncio.sleep(trial.rounds(short=1, long=30))
        stop.set()
        await driving
    assert proxy.lost
    _judge(histories, trial, replies_lost=proxy.lost)


@pytest.mark.needs(DURABLE)
async def test_histories_under_kills_of_the_server_are_linearisable(fresh_url: str, trial: Trial) -> None:
    histories, stop = Histories(), asyncio.Event()
    kills = trial.rounds(short=2, long=20)
    with ExitStack() as servers:
        server = servers.enter_context(ServerProcess(fresh_url))
        address = server.address
        async with AsyncExitStack() as stack:
            driving = asyncio.create_task(_drive(histories, _callers(stack, address), stop))
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
    histories, stop = Histories(), asyncio.Event()
    restarts = trial.rounds(short=2, long=20)
    with ExitStack() as servers:
        running = [servers.enter_context(ServerProcess(fresh_url)) for _ in range(2)]
        async with AsyncExitStack() as stack:
            callers = _callers(stack, [server.address for server in running])
            driving = asyncio.create_task(_drive(histories, callers, stop))
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


class _GivesUp:
    """A store whose last answer is that nothing was committed, after whatever attempts."""

    async def atomic_apply(self, *_: object, **__: object) -> Commit:
        raise StoreUnavailable("nothing was committed")


@pytest.mark.parametrize(("once", "outcome"), [(True, "nothing"), (False, "unknown")])
async def test_that_nothing_was_committed_is_believed_of_one_attempt_and_not_of_several(
    once: bool, outcome: str
) -> None:
    history = RuntimeHistory()

    await history.write(Caller(cast("AsyncRuntimeStoreClient", _GivesUp()), once=once))

    assert [call.outcome for call in history.calls] == [outcome]
