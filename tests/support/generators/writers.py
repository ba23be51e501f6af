"""Runtimes that write turn after turn while something happens to the database, and what they are told of it."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import TYPE_CHECKING, Self

from runtimestore import Commit, CommitOutcomeUnknown, StoreUnavailable

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

    from sqlalchemy.engine import Connection

    from runtimestore import AsyncRuntimeStoreClient
    from support.generators.lives import Life

PATIENCE_SECONDS = 120
"""How long nobody may get on before the test gives up."""

PAUSE_SECONDS = 0.02


class Writers:
    """Each life writes its next turn as soon as one is acknowledged, and repeats it under its id until then.

    The client is to repeat nothing itself: every answer of the server is seen, and held against the next one. What
    was only ever refused as "nothing was committed" must not turn out to have been there.
    """

    def __init__(self, store: AsyncRuntimeStoreClient, lives: Sequence[Life]) -> None:
        self._store = store
        self._stopping = False
        self._tasks: list[asyncio.Task[None]] = []
        self.turns = dict.fromkeys(lives, 0)
        """How many turns of each were acknowledged."""
        self.told: Counter[str] = Counter()
        """How often each answer was given: OK, or a reason."""

    async def __aenter__(self) -> Self:
        self._tasks = [asyncio.create_task(self._write(life)) for life in self.turns]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopping = True
        if kind:
            for task in self._tasks:
                task.cancel()
            await asyncio.wait(self._tasks)
        else:
            async with asyncio.timeout(PATIENCE_SECONDS):
                await asyncio.gather(*self._tasks)

    async def go_on(self) -> None:
        """Wait until each has written two more turns: the first may have been under way before."""
        wanted = {life: turn + 2 for life, turn in self.turns.items()}
        async with asyncio.timeout(PATIENCE_SECONDS):
            while any(self.turns[life] < turn for life, turn in wanted.items()):
                ended, _ = await asyncio.wait(self._tasks, timeout=PAUSE_SECONDS)
                for task in ended:
                    task.result()

    def found(self, connection: Connection, realm: str) -> dict[str, int]:
        """How many acknowledged turns are missing in the database, how many others are there, how many are no whole."""
        findings = [life.look(connection, realm, at_least=turn, at_most=turn) for life, turn in self.turns.items()]
        return {
            "missing": sum(finding.lost for finding in findings),
            "done_twice": sum(finding.strange for finding in findings),
            "halves": sum(finding.halves for finding in findings),
        }

    def refusals(self) -> dict[str, int]:
        """How often each reason was told, for a report."""
        return {reason.lower(): count for reason, count in self.told.items() if reason != "OK"}

    async def _write(self, life: Life) -> None:
        while not self._stopping:
            turn = self.turns[life] + 1
            commit = await self._acknowledged(life, turn)
            assert commit.revision == turn, f"{life.runtime_id}: turn {turn} got revision {commit.revision}"
            self.turns[life] = turn

    async def _acknowledged(self, life: Life, turn: int) -> Commit:
        absent = True
        while True:
            try:
                commit = await life.send(self._store, turn)
            except (StoreUnavailable, CommitOutcomeUnknown) as refusal:
                self.told[refusal.reason] += 1
                absent = absent and isinstance(refusal, StoreUnavailable)
            else:
                self.told["OK"] += 1
                assert not (absent and commit.replayed), "it was there, although every answer said that it was not"
                return commit
            await asyncio.sleep(PAUSE_SECONDS)
