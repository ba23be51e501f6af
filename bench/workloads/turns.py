"""Workloads of turns: chats of three lengths, bursts of steering, and many runtimes that grow at once."""

from __future__ import annotations

import asyncio
import itertools
import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from bench.workloads.lives import Clock, Life

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bench.workloads.lives import Store


@dataclass
class Turns:
    """Runtimes that take turns at once, each one after the other."""

    name: str
    runtimes: int
    turns: int
    session_bytes: int = 0
    inputs: int = 0
    turn_bytes: int = 5_000
    unit = "turn"
    forgets = False
    _lives: list[Life] = field(default_factory=list)

    @property
    def title(self) -> str:
        """What it is."""
        start = f" from {self.session_bytes // 1000} KB and {self.inputs} inputs on" if self.session_bytes else ""
        return f"{self.runtimes} runtimes, {self.turns} turns each{start}"

    async def prepare(self, stores: Sequence[Store]) -> None:
        """Let the runtimes be what they are at the start."""
        self._lives = [
            Life(session_bytes=self.session_bytes, inputs=self.inputs, turn_bytes=self.turn_bytes)
            for _ in range(self.runtimes)
        ]
        if self.session_bytes:
            for life, store in zip(self._lives, itertools.cycle(stores), strict=False):
                await life.begin(store)

    async def drive(self, stores: Sequence[Store], clock: Clock, form: str) -> None:
        """Take all turns."""
        del form

        async def live(life: Life, store: Store) -> None:
            for _ in range(self.turns):
                await life.take_turn(store, clock)

        await asyncio.gather(*map(live, self._lives, itertools.cycle(stores)))


@dataclass
class Steering:
    """Runtimes that are steered in the middle of a run, again and again."""

    name: str
    runtimes: int
    steers: int
    unit = "steer"
    forgets = False
    _lives: list[Life] = field(default_factory=list)

    @property
    def title(self) -> str:
        """What it is."""
        return f"{self.runtimes} runtimes of 33 KB, steered {self.steers} times each in one run"

    async def prepare(self, stores: Sequence[Store]) -> None:
        """Let the runtimes be there."""
        self._lives = [Life(session_bytes=33_000, inputs=10) for _ in range(self.runtimes)]
        for life, store in zip(self._lives, itertools.cycle(stores), strict=False):
            await life.begin(store)

    async def drive(self, stores: Sequence[Store], clock: Clock, form: str) -> None:
        """Steer all of them."""
        del form

        async def steered(life: Life, store: Store) -> None:
            run_id = str(uuid.uuid4())
            for sequence in range(1, self.steers + 1):
                await life.steer(store, run_id, sequence, clock)

        await asyncio.gather(*map(steered, self._lives, itertools.cycle(stores)))
