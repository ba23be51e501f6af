"""The stages of the whole benchmark: each measures one thing on each engine, and is told how large and how long."""

from __future__ import annotations

import contextlib
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import grpc

from bench import beside_large, cold_start, long_session, report, rounds
from bench.long_session import CHANGED, WHOLE
from bench.repeats import repeats
from bench.rounds import MeasurementFailed
from bench.rust_way import RUST_WAY, RustWay
from bench.sizes import threads
from bench.targets import FLOOR, PLAIN_PEERS, POSTGRES, SQLITE, Target
from bench.variants import METRICS, PLAIN, TLS, TOKENS, made
from bench.workloads import driving
from bench.workloads.lives import Clock, Life, WrongAnswer
from bench.workloads.reading import Reads
from runtimestore import RuntimeStoreError

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Coroutine
    from pathlib import Path

    from bench.postgres import MeasuredPostgres
    from bench.sizes import Size
    from bench.targets import RunningTarget
    from bench.workloads import Workload

T = TypeVar("T")

SAMPLED_EVERY_TURNS = 10
SMALL, LARGE = slice(2, 12), slice(-50, None)
"""The turns at about 20 KB, and at about 2 MB."""


@dataclass(frozen=True)
class Bench:
    """What the stages work with."""

    size: Size
    engines: list[str]
    folder: Path
    postgres: MeasuredPostgres | None
    runner: asyncio.Runner
    tell: Callable[[str], None]
    failures: list[str]
    """What could not be measured, and why; the rest goes on."""
    beside: Path | None = None
    """The interpreter of another checkout, whose server is measured too where calls are."""

    def run(self, what: str, measure: Coroutine[Any, Any, T]) -> T | None:
        """What was measured; `None` where that failed, which is written down."""
        self.tell(what)
        try:
            return self.runner.run(measure)
        except (RuntimeStoreError, WrongAnswer, MeasurementFailed, grpc.RpcError, OSError, ValueError) as error:
            self.failures.append(f"{what}: {type(error).__name__}: {error}")
            return None

    def target(self, engine: str, *, plain: bool = False) -> Target:
        """How to start a server, or the plain peer, on this engine."""
        name = PLAIN_PEERS[engine] if plain else engine
        return Target(name, self.folder, threads(), self.postgres if engine == POSTGRES else None)

    def url(self, engine: str) -> str | None:
        """Where Postgres can be asked how much it has written."""
        return self.postgres.url if self.postgres and engine == POSTGRES else None


def calls(bench: Bench, found: dict[str, Any]) -> None:
    """AtomicApply by many, few, one and a crowd, of the floor, the servers and the plain peers."""
    targets = [Target(FLOOR, bench.folder, threads())]
    for engine in bench.engines:
        targets.append(bench.target(engine))
        if bench.beside:
            database = bench.postgres if engine == POSTGRES else None
            targets.append(Target(f"{engine}-beside", bench.folder, threads(), database, str(bench.beside)))
        targets.append(bench.target(engine, plain=True))
    results = rounds.run(bench.size.calls, targets, bench.tell)
    found |= report.summary(bench.size.calls, results, {})


def with_variants(bench: Bench, found: dict[str, Any]) -> None:
    """AtomicApply by many, of servers with metrics that are scraped, with TLS, with tokens, and with none of them.

    On SQLite: what they add has nothing to do with the engine.
    """
    if SQLITE not in bench.engines:
        return
    plan, targets = bench.size.variants, []
    for name in (PLAIN, METRICS, TLS, TOKENS):
        beside = None if name == PLAIN else SQLITE
        variant = made(name, bench.folder)
        targets.append(Target(f"{SQLITE}{variant.suffix}", bench.folder, threads(), variant=variant, beside=beside))
    results = rounds.run(plan, targets, bench.tell)
    found |= {"plan": asdict(plan), "measured": {}}
    for target in targets:
        ratio = report.cpu_to_beside(results, target.name, "many")
        found["measured"][target.variant.name] = {
            "rounds": results.measurements[target.name]["many"],
            "cpu_to_plain": None if ratio is None else ratio._asdict(),
        }


def turns(bench: Bench, found: dict[str, Any]) -> None:
    """T400: one runtime's turns, sent whole and as what changed, and the Rust store's way."""
    count = bench.size.turns
    for number in repeats(bench.size.turn_rounds, bench.size.turn_seconds):
        for engine in bench.engines:
            for form, known_bytes in ((WHOLE, 0), (CHANGED, None)):
                with bench.target(engine).running() as running:
                    drive = long_session.drive(running, bench.url(engine), count, known_bytes=known_bytes)
                    took = bench.run(f"{count} turns, round {number}: {engine}, {form}", drive)
                if took:
                    found.setdefault(engine, {}).setdefault(form, []).append(_told(took))
        in_process = _turns_in_process(bench.folder / f"turns-{number}.db", count)
        if took := bench.run(f"{count} turns, round {number}: the Rust store's way", in_process):
            found.setdefault(RUST_WAY, {}).setdefault(WHOLE, []).append(_told(took))


async def _turns_in_process(path: Path, count: int) -> long_session.Turns:
    store, life, took = RustWay(path), Life(), long_session.Turns()
    for _ in range(count):
        clock, before = Clock(), driving.own_written_bytes()
        await life.take_turn(store, clock)
        took.seconds += clock.seconds
        took.written_bytes.append(driving.own_written_bytes() - before)
    return took


def _told(took: long_session.Turns) -> dict[str, Any]:
    """The sums, what the late turns took over the early ones, and a sample of how it grew."""

    def grown(values: list[int]) -> list[int]:
        return [sum(values[:turn]) for turn in range(0, len(values) + 1, SAMPLED_EVERY_TURNS)]

    cpu = took.server_cpu_seconds
    return {
        "seconds": sum(took.seconds),
        "sent_bytes": sum(took.sent_bytes),
        "received_bytes": sum(took.received_bytes),
        "written_bytes": sum(took.written_bytes),
        "late_to_early_sent": long_session.ratio(took.sent_bytes),
        "late_to_early_log": long_session.grown(took),
        "cpu_ms_small": 1000 * sum(cpu[SMALL]) / len(cpu[SMALL]) if cpu else None,
        "cpu_ms_large": 1000 * sum(cpu[LARGE]) / len(cpu[LARGE]) if cpu else None,
        "sent_until_turn": grown(took.sent_bytes),
        "written_until_turn": grown(took.written_bytes),
    }


def all_workloads(bench: Bench, found: dict[str, Any]) -> None:
    """W1 to W8, of the servers, the plain peers and the Rust store's way, in turn."""
    size = bench.size
    _workloads(bench, found, size.workloads, size.workload_rounds, size.workload_seconds)


def turns_at_once(bench: Bench, found: dict[str, Any]) -> None:
    """T64, once, likewise."""
    _workloads(bench, found, [bench.size.at_once], 1, None)


def _workloads(
    bench: Bench, found: dict[str, Any], measured_ones: list[Workload], most: int, within: float | None
) -> None:
    found |= {each.name: {"title": each.title, "unit": each.unit} for each in measured_ones}
    with contextlib.ExitStack() as stack:
        running: list[tuple[str, RunningTarget]] = []
        for engine in bench.engines:
            for plain in (False, True):
                target = stack.enter_context(bench.target(engine, plain=plain).running())
                running.append((engine, target))
        for number in repeats(most, within):
            for workload in measured_ones:
                measured = found[workload.name].setdefault("measured", {})
                for engine, target in running:
                    for form in (WHOLE, CHANGED) if target.has_counters else (WHOLE,):
                        served = driving.served(workload, form, target, bench.url(engine))
                        took = bench.run(f"{workload.name}, round {number}: {target.name}, {form}", served)
                        measured.setdefault(target.name, {}).setdefault(form, []).append(took)
                in_process = driving.in_process(workload, bench.folder)
                took = bench.run(f"{workload.name}, round {number}: the Rust store's way", in_process)
                measured.setdefault(RUST_WAY, {}).setdefault(WHOLE, []).append(took)


def cold_starts(bench: Bench, found: dict[str, Any]) -> None:
    """LoadRuntime of a server that was started anew, beside the floor."""
    size = bench.size
    options = (f"--inputs={size.cold_inputs}", f"--session-bytes={size.cold_session_bytes}")
    bench.tell("cold starts")
    found |= cold_start.milliseconds(
        bench.runner,
        Target(FLOOR, bench.folder, threads(), options=options),
        [bench.target(engine) for engine in bench.engines],
        runtimes=size.cold_starts,
        inputs=size.cold_inputs,
        session_bytes=size.cold_session_bytes,
    )


def large_beside_small(bench: Bench, found: dict[str, Any]) -> None:
    """PersistInputState alone, and beside large commits in flight: of the floor, which only receives them, as well."""
    size = bench.size
    for target in (Target(FLOOR, bench.folder, threads()), *map(bench.target, bench.engines)):
        with target.running() as running:
            measure = beside_large.milliseconds(
                running,
                commits=size.large_commits,
                megabytes=size.large_megabytes,
                alone_seconds=size.alone_seconds,
            )
            if measured := bench.run(f"large commits beside small writes: {target.name}", measure):
                found[target.name] = measured


def memory(bench: Bench, found: dict[str, Any]) -> None:
    """The resident memory of a server: idle, after many runtimes of 100 KB were written, and after they were read."""
    for engine in bench.engines:
        for plain in (False, True):
            target = bench.target(engine, plain=plain)
            with target.running() as running:
                time.sleep(rounds.SETTLING_SECONDS)
                held = {"idle_bytes": running.resident_bytes()}
                reads = Reads("held", sessions=bench.size.held_runtimes, session_bytes=100_000)
                what = f"memory of {bench.size.held_runtimes} runtimes: {target.name}"
                if written := bench.run(what, driving.held(reads, running)):
                    found[target.name] = held | written | {"after_reads_bytes": running.resident_bytes()}


STAGES: dict[str, Callable[[Bench, dict[str, Any]], None]] = {
    "calls": calls,
    "variants": with_variants,
    "turns": turns,
    "workloads": all_workloads,
    "turns_at_once": turns_at_once,
    "cold_starts": cold_starts,
    "large_beside_small": large_beside_small,
    "memory": memory,
}
"""All stages by name, in the order of the run."""
