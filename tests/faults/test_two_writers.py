"""Two writers drive one runtime, each believing that it is the only one."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from typing import TYPE_CHECKING, Any

import pytest

from runtimestore import AsyncRuntimeStoreClient, Fenced, RetryPolicy, RevisionMismatch
from support.generators.documents import new_id, receipt, session
from support.servers.engines import DURABLE
from support.servers.server import in_process

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from support.checkers.torture import Trial

PATIENT = RetryPolicy(max_attempts=100, max_backoff_seconds=0.2)
UNTIL_TOLD = RetryPolicy(max_backoff_seconds=0.2)
"""Repeats whatever it takes for passing: a refusal that it repeats never comes to light."""

PATIENCE_SECONDS = 60
"""How long a writer may go without being told that it is fenced before the test gives up."""

pytestmark = pytest.mark.needs(DURABLE)


@contextlib.asynccontextmanager
async def _two_servers(
    url: str, **settings: Any
) -> AsyncIterator[tuple[AsyncRuntimeStoreClient, AsyncRuntimeStoreClient]]:
    """A client of each of two servers on one database; `settings` are the clients'."""
    settings = {"retry": PATIENT, **settings}
    async with (
        in_process(url) as here,
        in_process(url) as there,
        AsyncRuntimeStoreClient(here.address, **settings) as one,
        AsyncRuntimeStoreClient(there.address, **settings) as two,
    ):
        yield one, two


async def test_with_if_revision_exactly_one_of_two_writers_wins_each_round(fresh_url: str, trial: Trial) -> None:
    rounds = trial.rounds(short=40, long=2000)
    runtime_id = f"rt:session:{new_id()}"
    wins = [0, 0]
    async with _two_servers(fresh_url) as (one, two):
        for number in range(rounds):
            body = [session(f"{writer} {number}") for writer in range(2)]
            answers = await asyncio.gather(
                *(
                    client.atomic_apply(runtime_id, body[writer], receipt(), if_revision=number)
                    for writer, client in enumerate((one, two))
                ),
                return_exceptions=True,
            )
            winners = [writer for writer, answer in enumerate(answers) if not isinstance(answer, BaseException)]
            assert len(winners) == 1, answers
            (loser,) = (answer for answer in answers if isinstance(answer, BaseException))
            assert isinstance(loser, RevisionMismatch)
            assert loser.current_revision == number + 1
            loaded = await one.load_session_snapshot_with_revision(runtime_id)
            assert loaded == (body[winners[0]], number + 1)
            wins[winners[0]] += 1
    trial.record(rounds=rounds, won_by_the_first=wins[0], won_by_the_second=wins[1])


async def test_every_fence_that_two_servers_answer_for_a_runtime_is_answered_once(fresh_url: str, trial: Trial) -> None:
    rounds = trial.rounds(short=60, long=2000)
    first: list[list[int]] = []
    known: list[int] = []

    async def both_acquire(runtime_id: str) -> list[int]:
        acquired = await asyncio.gather(one.acquire_runtime(runtime_id, "one"), two.acquire_runtime(runtime_id, "two"))
        return [acquisition.fence for acquisition in acquired]

    async with _two_servers(fresh_url) as (one, two):
        for number in range(rounds):
            # One runtime at a time: in a batch the wait for one row would put the acquisitions of another in order.
            first.append(sorted(await both_acquire(f"rt:new/{number}")))
            known += await both_acquire("rt:known")
    fences = [*first, sorted(known)]
    trial.record(acquisitions=4 * rounds, fences_answered_twice=sum(len(found) - len(set(found)) for found in fences))
    assert fences == [*([1, 2] for _ in range(rounds)), list(range(1, 2 * rounds + 1))]


async def test_once_an_acquisition_is_answered_no_write_of_an_older_fence_lands(fresh_url: str, trial: Trial) -> None:
    rounds = trial.rounds(short=15, long=500)
    runtime_id = f"rt:session:{new_id()}"
    landed = held_back = 0

    async def write_until_fenced(
        client: AsyncRuntimeStoreClient, fence: int, acquired_by_another: asyncio.Event
    ) -> list[int]:
        revisions: list[int] = []
        while True:
            too_late = acquired_by_another.is_set()
            try:
                body = session(f"fence {fence}")
                revision = (await client.atomic_apply(runtime_id, body, receipt())).revision
            except Fenced:
                return revisions
            assert not too_late, f"a write of fence {fence} landed as {revision}, begun after the next was answered"
            revisions.append(revision)

    settings = {"retry": UNTIL_TOLD, "timeout_seconds": 10 * PATIENCE_SECONDS}
    async with _two_servers(fresh_url, **settings) as (one, two):
        holder, candidate = one, two
        fence = (await holder.acquire_runtime(runtime_id, "writer")).fence
        last = 0
        for _ in range(rounds):
            # More than one call in flight: some reach the store after the acquisition.
            answered = asyncio.Event()
            writing = [asyncio.ensure_future(write_until_fenced(holder, fence, answered)) for _ in range(3)]
            await asyncio.sleep(trial.random.uniform(0, 0.03))
            acquired = await candidate.acquire_runtime(runtime_id, "writer")
            answered.set()
            assert acquired.fence == fence + 1
            at_acquisition = (await candidate.load_runtime_state_with_revision(runtime_id)).revision
            ended, going_on = await asyncio.wait(writing, timeout=PATIENCE_SECONDS)
            for writer in going_on:
                writer.cancel()
            assert not going_on, f"{len(going_on)} writers of fence {fence} are not told that they are fenced"
            revisions = sorted(itertools.chain.from_iterable(writer.result() for writer in ended))

            # Every write of the old holder came before; each exactly once, and none after.
            assert revisions == list(range(last + 1, at_acquisition + 1))
            assert (await candidate.load_runtime_state_with_revision(runtime_id)).revision == at_acquisition
            landed += len(revisions)
            held_back += len(writing)
            fence, last = acquired.fence, at_acquisition
            holder, candidate = candidate, holder
    trial.record(acquisitions=rounds, writes_landed=landed, writers_held_back=held_back)
