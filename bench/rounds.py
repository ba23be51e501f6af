"""The run: targets in turn, round after round, so that what disturbs the machine disturbs all of them."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from bench.repeats import repeats
from bench.targets import ROOT

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from bench.targets import RunningTarget, Target

SETTLING_SECONDS = 1.0


@dataclass(frozen=True)
class Load:
    """One kind of load."""

    name: str
    method: str
    runtimes: int
    of_servers_alone: bool = False
    """Whether neither the floor nor the plain peer is measured with it."""


@dataclass(frozen=True)
class Plan:
    """How long, how often, how large."""

    rounds: int
    seconds: float
    warm_up_seconds: float
    runtimes: int
    channels: int
    snapshot_bytes: int
    large_bytes: int
    committer_threads: int
    few: int = 0
    """Measured as well, with so many runtimes; 0: not."""
    crowd: int = 0
    """The same, for the servers alone."""
    with_inputs: bool = True
    pairs: bool = False
    """Whether targets are compared that hardly differ: many runtimes alone are measured, and every other round goes the
    other way round, so that none always comes after another."""
    within_seconds: float | None = None
    """When to begin no further round; the first is always whole."""

    @property
    def loads(self) -> tuple[Load, ...]:
        """Many runtimes, one runtime, and others as the plan has it."""
        many = Load("many", "AtomicApply", self.runtimes)
        if self.pairs:
            return (many,)
        loads = [many, Load("one", "AtomicApply", 1)]
        if self.few:
            loads.append(Load("few", "AtomicApply", self.few))
        if self.crowd:
            loads.append(Load("crowd", "AtomicApply", self.crowd, of_servers_alone=True))
        if self.with_inputs:
            loads.append(Load("inputs", "PersistInputState", 1))
        return tuple(loads)


@dataclass
class Results:
    """Everything that was measured: by target and load one measurement a round, by target the memory.

    `beside` names, for a target, the one that it differs from by its variant alone.
    """

    measurements: dict[str, dict[str, list[dict[str, Any]]]] = field(default_factory=dict)
    memory: dict[str, dict[str, Any]] = field(default_factory=dict)
    beside: dict[str, str] = field(default_factory=dict)


def run(plan: Plan, targets: Sequence[Target], tell: Callable[[str], None]) -> Results:
    """Measure all targets."""
    results = Results(beside={target.name: target.beside for target in targets if target.beside is not None})
    with contextlib.ExitStack() as stack:
        running = [stack.enter_context(target.running()) for target in targets]
        time.sleep(SETTLING_SECONDS)
        for target in running:
            results.memory[target.name] = {"idle_bytes": target.resident_bytes()}
            results.measurements[target.name] = {load.name: [] for load in plan.loads}
        for target in running:  # not counted: the first calls of a process cost more than all that follow
            tell(f"warming up, {target.name}")
            _measure(plan, plan.loads[0], target)
        for number in repeats(plan.rounds, plan.within_seconds):
            for load in plan.loads:
                for target in reversed(running) if plan.pairs and number % 2 == 0 else running:
                    if load.of_servers_alone and not target.has_counters:
                        continue
                    tell(f"round {number} of {plan.rounds}: {load.method}, {load.runtimes} at once, {target.name}")
                    results.measurements[target.name][load.name].append(_measure(plan, load, target))
        for target in running:
            results.memory[target.name]["after_load_bytes"] = target.resident_bytes()
    if plan.large_bytes:
        for start in targets:
            tell(f"one commit of {plan.large_bytes / 1e6:g} MB, {start.name}")
            results.memory[start.name]["large_commit"] = _large_commit(plan, start)
    return results


def _measure(plan: Plan, load: Load, target: RunningTarget) -> dict[str, Any]:
    options: dict[str, object] = {
        "--postgres-pid": target.postgres_pid or 0,
        "--method": load.method,
        "--runtimes": load.runtimes,
        "--channels": plan.channels,
        "--snapshot-bytes": plan.snapshot_bytes,
        "--warm-up-seconds": plan.warm_up_seconds,
        "--seconds": plan.seconds,
    }
    return _measured_by("bench.load", target, options, flags=("--counters",) if target.has_counters else ())


def _large_commit(plan: Plan, target: Target) -> dict[str, Any]:
    """On a fresh server: one that has worked holds memory that the commit would not have to ask for."""
    with target.running() as running:
        time.sleep(SETTLING_SECONDS)
        measured = _measured_by("bench.large", running, {"--snapshot-bytes": plan.large_bytes})
    over_idle = (measured["peak_bytes"] - measured["idle_bytes"]) / measured["snapshot_bytes"]
    return {**measured, "peak_over_idle": over_idle}


def _measured_by(
    module: str, target: RunningTarget, options: dict[str, object], *, flags: Sequence[str] = ()
) -> dict[str, Any]:
    """Run a module that measures in a process of its own; what it wrote."""
    options = {"--address": target.address, "--server-pid": target.pid, **target.variant.flags, **options}
    command = [sys.executable, "-m", module, *(f"{name}={value}" for name, value in options.items()), *flags]
    with target.watched():
        done = subprocess.run(  # noqa: S603 - arguments of our own
            command, cwd=ROOT, env=target.variant.environment, capture_output=True, text=True, check=False
        )
    if done.returncode != 0:
        raise MeasurementFailed(f"{module} failed against {target.name}:\n{done.stderr}")
    measured: dict[str, Any] = json.loads(done.stdout)
    return measured


class MeasurementFailed(Exception):
    """A load generator ended badly."""
