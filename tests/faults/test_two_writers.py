"""Two writers drive one runtime, each believing that it is the only one."""

from __future__ import annotations

import asyncio
import itertools
from typing import TYPE_CHECKING

import pytest

from runtimestore import AsyncRuntimeStoreClient, Fenced, RetryPolicy, RevisionMismatch
from support.documents import new_id, receipt, session
from support.engines import DURABLE
from support.server import in_process

if TYPE_CHECKING:
    from support.torture import Trial

PATIENT = RetryPolicy(max_attempts=100, max_backoff_seconds=0.2)

pytestmark = pytest.mark.needs(DURABLE)


async def test_with_if_revision_exactly_one_of_two_writers_wins_each_round(fresh_url: str, trial: Trial) -> None:
    rounds = trial.rounds(short=40, long=2000)
    runtime_id = f"rt:session:{new_id()}"
    wins = [0, 0]
    async with (
        in_process(fresh_url) as here,
        in_process(fresh_url) as there,
        AsyncRuntimeStoreClient(here.address, retry=PATIENT) as one,
        AsyncRuntimeStoreClient(there.address, retry=PATIENT) as two,
    ):
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


async def test_once_an_acquisition_is_answered_no_write_of_an_older_fence_lands(fresh_url: str, trial: Trial) -> None:
    rounds = trial.rounds(short=15, long=500)
    runtime_id = f"rt:session:{new_id()}"
    landed = held_back = 0

    async def write_until_fenced(client: AsyncRuntimeStoreClient, fence: int) -> list[int]:
        revisions = []
        while True:
            try:
                body = session(f"fence {fence}")
                revisions.append((await client.atomic_apply(runtime_id, body, receipt())).revision)
            except Fenced:
                return revisions

    async with (
        in_process(fresh_url) as here,
        in_process(fresh_url) as there,
        AsyncRuntimeStoreClient(here.address, retry=PATIENT) as one,
        AsyncRuntimeStoreClient(there.address, retry=PATIENT) as two,
    ):
        holder, candidate = one, two
        fence = (await holder.acquire_runtime(runtime_id, "writer")).fence
        last = 0
        for _ in range(rounds):
            # More than one call in flight: some reach the store after the acquisition.
            writing = [asyncio.ensure_future(write_until_fenced(holder, fence)) for _ in range(3)]
            await asyncio.sleep(trial.random.uniform(0, 0.03))
            acquired = await candidate.acquire_runtime(runtime_id, "writer")
            assert acquired.fence == fence + 1
            at_acquisition = (await candidate.load_runtime_state_with_revision(runtime_id)).revision
            revisions = sorted(itertools.chain.from_iterable(await asyncio.gather(*writing)))

            # Every write of the old holder came before; each exactly once, and none after.
            assert revisions == list(range(last + 1, at_acquisition + 1))
            assert (await candidate.load_runtime_state_with_revision(runtime_id)).revision == at_acquisition
            landed += len(revisions)
            held_back += len(writing)
            fence, last = acquired.fence, at_acquisition
            holder, candidate = candidate, holder
    trial.record(acquisitions=rounds, writes_landed=landed, writers_held_back=held_back)
