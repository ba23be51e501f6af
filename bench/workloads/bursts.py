"""Workloads of bursts: registries of operations that are written at once, and writers that contend for one snapshot."""

from __future__ import annotations

import asyncio
import functools
import itertools
import json
import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from bench.workloads.lives import WrongAnswer, ops_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bench.workloads.lives import Clock, Store


@dataclass
class OpsBurst:
    """Runtimes that write their registry of background operations at the same moment."""

    name: str
    runtimes: int
    writes: int
    ops_bytes: int
    unit = "write"
    forgets = False
    _ops: list[str] = field(default_factory=list)

    @property
    def title(self) -> str:
        """What it is."""
        return f"{self.runtimes} runtimes write {self.ops_bytes // 1000} KB of ops at once, {self.writes} times"

    async def prepare(self, stores: Sequence[Store]) -> None:
        """Make what is written."""
        del stores
        self._ops = [ops_of(self.ops_bytes) for _ in range(self.runtimes * self.writes)]

    async def drive(self, stores: Sequence[Store], clock: Clock, form: str) -> None:
        """Write it, burst after burst."""
        del form
        runtimes = [f"rt:ops:{uuid.uuid4()}" for _ in range(self.runtimes)]
        left = iter(self._ops)

        async def write(runtime_id: str, store: Store) -> None:
            ops = next(left)
            with clock.timed():
                await store.persist_ops_lifecycle(runtime_id, ops)

        for _ in range(self.writes):
            await asyncio.gather(*map(write, runtimes, itertools.cycle(stores)))


@dataclass
class Contention:
    """Writers that add their flows to the one OAuth snapshot of a realm at once; none may be lost."""

    name: str
    writers: int
    flows: int
    unit = "update"
    forgets = False

    @property
    def title(self) -> str:
        """What it is."""
        return f"{self.writers} writers add {self.flows} OAuth flows each to one snapshot"

    async def prepare(self, stores: Sequence[Store]) -> None:
        """Begin with no flows."""
        await stores[0].update_auth_oauth_flow_snapshot(lambda _: b"[]")

    async def drive(self, stores: Sequence[Store], clock: Clock, form: str) -> None:
        """Add all flows."""
        del form

        async def add(store: Store, writer: int) -> None:
            for number in range(self.flows):
                flow = {"writer": writer, "number": number, "verifier": "v" * 200}
                with clock.timed():
                    await store.update_auth_oauth_flow_snapshot(functools.partial(_with, flow))

        writers = range(self.writers)
        await asyncio.gather(*map(add, itertools.islice(itertools.cycle(stores), self.writers), writers))
        flows: list[dict[str, Any]] = []

        def read(held: bytes | None) -> bytes:
            flows[:] = json.loads(held or b"[]")
            return held or b"[]"

        await stores[0].update_auth_oauth_flow_snapshot(read)
        if len({(flow["writer"], flow["number"]) for flow in flows}) != self.writers * self.flows:
            raise WrongAnswer("a flow was lost")


def _with(flow: dict[str, Any], held: bytes | None) -> bytes:
    return json.dumps([*json.loads(held or b"[]"), flow]).encode()
