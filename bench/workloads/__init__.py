"""The workloads W1 to W8: what runtimes do, in their proportions, at full size and in a quick form."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from bench.workloads.bursts import Contention, OpsBurst
from bench.workloads.reading import ColdStarts, Reads
from bench.workloads.turns import Steering, Turns

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bench.workloads.lives import Clock, Store


class Workload(Protocol):
    """What is prepared, not counted, and then driven and measured."""

    name: str

    @property
    def title(self) -> str:
        """What it is, for people."""

    @property
    def unit(self) -> str:
        """What is counted and timed."""

    @property
    def forgets(self) -> bool:
        """Whether new clients drive it, which know nothing of what was prepared."""

    async def prepare(self, stores: Sequence[Store]) -> None:
        """Bring the store to where it begins."""

    async def drive(self, stores: Sequence[Store], clock: Clock, form: str) -> None:
        """Do it, by clients that send whole documents or what changed.

        Raises:
            WrongAnswer: the store answered something else than what was written.
        """


def full() -> list[Workload]:
    """All of them, at full size."""
    return [
        Turns("W1", runtimes=16, turns=10, turn_bytes=3_300),
        Turns("W2", runtimes=4, turns=6, session_bytes=400_000, inputs=100),
        Turns("W3", runtimes=2, turns=5, session_bytes=2_000_000, inputs=400),
        ColdStarts("W4", runtimes=50, inputs=100),
        Steering("W5", runtimes=4, steers=10),
        OpsBurst("W6", runtimes=20, writes=5, ops_bytes=50_000),
        Reads("W7", sessions=200, session_bytes=100_000),
        Contention("W8", writers=16, flows=5),
    ]


def quick() -> list[Workload]:
    """All of them, so small that they tell whether they work and nothing else."""
    return [
        Turns("W1", runtimes=2, turns=2, turn_bytes=3_300),
        Turns("W2", runtimes=1, turns=1, session_bytes=40_000, inputs=10),
        Turns("W3", runtimes=1, turns=1, session_bytes=200_000, inputs=40),
        ColdStarts("W4", runtimes=2, inputs=5),
        Steering("W5", runtimes=2, steers=2),
        OpsBurst("W6", runtimes=3, writes=1, ops_bytes=50_000),
        Reads("W7", sessions=3, session_bytes=100_000),
        Contention("W8", writers=3, flows=2),
    ]
