"""Workloads of reading: cold starts of many runtimes, and sessions that are read."""

from __future__ import annotations

import asyncio
import itertools
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from bench.long_session import CHANGED
from bench.workloads.lives import Clock, Life, WrongAnswer, ops_of
from runtimestore import AsyncRuntimeStoreClient

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from bench.workloads.lives import Store

AT_ONCE = 16
"""How many are read at a time."""


@dataclass
class ColdStarts:
    """Runtimes that recover, as after a deployment.

    Call by call as the trait has it, or, where the client sends what changed, by LoadRuntime; then the commit of the
    state with all inputs.
    """

    name: str
    runtimes: int
    inputs: int
    unit = "start"
    forgets = True
    _lives: list[Life] = field(default_factory=list)

    @property
    def title(self) -> str:
        """What it is."""
        return f"{self.runtimes} runtimes of 100 KB and {self.inputs} inputs start"

    async def prepare(self, stores: Sequence[Store]) -> None:
        """Let the runtimes have lived."""
        self._lives = [Life(session_bytes=100_000, inputs=self.inputs) for _ in range(self.runtimes)]
        for life, store in zip(self._lives, itertools.cycle(stores), strict=False):
            await life.begin(store)
            await life.take_turn(store, Clock())
            await store.persist_ops_lifecycle(life.runtime_id, ops_of(2_000))

    async def drive(self, stores: Sequence[Store], clock: Clock, form: str) -> None:
        """Start all of them."""

        async def start(life: Life, store: Store) -> None:
            with clock.timed():
                if form == CHANGED and isinstance(store, AsyncRuntimeStoreClient):
                    loaded = await store.load_runtime(life.runtime_id)
                    session, found = loaded.session_snapshot, loaded.input_states
                else:
                    await store.load_runtime_state(life.runtime_id)
                    found = await store.load_input_states(life.runtime_id)
                    for run_id in life.runs:
                        if await store.load_boundary_receipt(life.runtime_id, run_id, 0) is None:
                            raise WrongAnswer("a receipt is missing")
                    await store.load_ops_lifecycle(life.runtime_id)
                    session = await store.load_session_snapshot(life.runtime_id)
                if session != life.session() or len(found) != len(life.inputs):
                    raise WrongAnswer("what the runtime recovers from is not what it left")
                await store.commit_machine_lifecycle(life.runtime_id, "idle", found)

        await _a_few_at_once(start, self._lives, stores)


@dataclass
class Reads:
    """Sessions that are read, each once: by clients that wrote them, or that remember nothing."""

    name: str
    sessions: int
    session_bytes: int
    unit = "read"
    forgets = False
    _lives: list[Life] = field(default_factory=list)

    @property
    def title(self) -> str:
        """What it is."""
        return f"{self.sessions} sessions of {self.session_bytes // 1000} KB are read, {AT_ONCE} at a time"

    async def prepare(self, stores: Sequence[Store]) -> None:
        """Write the sessions."""
        self._lives = [Life(session_bytes=self.session_bytes) for _ in range(self.sessions)]
        await _a_few_at_once(Life.begin, self._lives, stores)

    async def drive(self, stores: Sequence[Store], clock: Clock, form: str) -> None:
        """Read all of them."""
        del form

        async def read(life: Life, store: Store) -> None:
            with clock.timed():
                session = await store.load_session_snapshot(life.runtime_id)
            if session is None or json.loads(session)["id"] != life.session_id:
                raise WrongAnswer("the session is not the one that was written")

        await _a_few_at_once(read, self._lives, stores)


async def _a_few_at_once(
    run: Callable[[Life, Store], Awaitable[None]], lives: Sequence[Life], stores: Sequence[Store]
) -> None:
    """Run for each life, always with the same store, `AT_ONCE` at a time."""
    left = iter(list(zip(lives, itertools.cycle(stores), strict=False)))

    async def go_on() -> None:
        for life, store in left:
            await run(life, store)

    await asyncio.gather(*(go_on() for _ in range(AT_ONCE)))
