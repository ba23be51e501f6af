"""How much the stages measure: all of it in minutes, or so little that it tells whether they work."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bench import cold_start, rounds, workloads
from bench.workloads.turns import Turns
from runtimestore_server.settings import Settings

if TYPE_CHECKING:
    from bench.workloads import Workload


@dataclass(frozen=True)
class Size:
    """How much is measured."""

    calls: rounds.Plan
    variants: rounds.Plan
    turns: int
    turn_rounds: int
    turn_seconds: float
    workloads: list[Workload]
    at_once: Workload
    """T64: many runtimes that grow, which takes about as long as all of the workloads."""
    workload_rounds: int
    workload_seconds: float
    cold_starts: int
    cold_inputs: int
    cold_session_bytes: int
    large_commits: int
    large_megabytes: float
    alone_seconds: float
    held_runtimes: int


CALLS: dict[str, Any] = {"few": 4, "with_inputs": False}
"""What is measured of calls beside many runtimes and one."""


def full() -> Size:
    """What takes ten minutes on two quiet cores."""
    return Size(
        calls=_plan(rounds_=3, seconds=2.0, runtimes=64, within_seconds=150, crowd=256, **CALLS),
        variants=_plan(rounds_=6, seconds=1.2, runtimes=64, within_seconds=45, pairs=True),
        turns=400,
        turn_rounds=3,
        turn_seconds=140,
        workloads=workloads.full(),
        at_once=Turns("T64", runtimes=64, turns=40),
        workload_rounds=3,
        workload_seconds=75,
        cold_starts=8,
        cold_inputs=cold_start.INPUTS,
        cold_session_bytes=cold_start.SESSION_BYTES,
        large_commits=5,
        large_megabytes=60.0,
        alone_seconds=1.0,
        held_runtimes=1000,
    )


def quick() -> Size:
    """What tells whether everything works, and nothing else."""
    return Size(
        calls=_plan(rounds_=1, seconds=0.5, runtimes=4, within_seconds=None, crowd=8, **CALLS),
        variants=_plan(rounds_=2, seconds=0.3, runtimes=4, within_seconds=None, pairs=True),
        turns=12,
        turn_rounds=1,
        turn_seconds=0,
        workloads=workloads.quick(),
        at_once=Turns("T64", runtimes=3, turns=2),
        workload_rounds=1,
        workload_seconds=0,
        cold_starts=2,
        cold_inputs=5,
        cold_session_bytes=50_000,
        large_commits=1,
        large_megabytes=1.0,
        alone_seconds=0.3,
        held_runtimes=5,
    )


def _plan(*, rounds_: int, seconds: float, runtimes: int, within_seconds: float | None, **loads: Any) -> rounds.Plan:
    return rounds.Plan(
        rounds=rounds_,
        seconds=seconds,
        warm_up_seconds=seconds / 4,
        runtimes=runtimes,
        channels=4,
        snapshot_bytes=20_000,
        large_bytes=0,
        committer_threads=threads(),
        within_seconds=within_seconds,
        **loads,
    )


def threads() -> int:
    """How many transactions the servers that are measured commit at a time: what they do by default."""
    return int(Settings.model_fields["committer_threads"].default)
