"""What came out: as a table for people and as JSON for machines."""

from __future__ import annotations

import os
import platform
import statistics
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, NamedTuple

from rich import box
from rich.table import Table

from bench.targets import FLOOR, PLAIN_PEERS
from bench.variants import METRICS

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from rich.console import Console

    from bench.rounds import Load, Plan, Results

CPU_AIM, SCALING_AIM, IDLE_AIM_BYTES, LARGE_AIM, METRICS_AIM = 2.2, 3.0, 90_000_000, 6.0, 1.03


NONE = "-"

LOOK: dict[str, Any] = {"box": box.SIMPLE, "title_justify": "left", "title_style": "bold"}


class Spread(NamedTuple):
    """A ratio over the rounds."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """The spread of these values."""
        return cls(statistics.median(values), min(values), max(values))

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.low:.2f} to {self.high:.2f})"


def summary(plan: Plan, results: Results, facts: dict[str, Any]) -> dict[str, Any]:
    """Everything, for JSON."""
    return {
        "plan": asdict(plan),
        "machine": {"cpus": os.cpu_count(), "system": platform.platform(), "python": platform.python_version()},
        "facts": facts,
        "targets": {
            name: {
                "measurements": loads,
                "memory": results.memory[name],
                "cpu_to_floor": {
                    load: spread._asdict() for load in loads if (spread := cpu_to_floor(results, name, load))
                },
                "cpu_to_variant_beside": {
                    load: spread._asdict() for load in loads if (spread := cpu_to_beside(results, name, load))
                },
                "many_to_one_rate": many_to_one(results, name)._asdict(),
            }
            for name, loads in results.measurements.items()
        },
    }


def cpu_to_floor(results: Results, target: str, load: str) -> Spread | None:
    """Server CPU per call over the floor's in the same round; None where the clock saw no CPU time in the floor."""
    return _cpu_to(results, target, FLOOR, load)


def cpu_to_beside(results: Results, target: str, load: str) -> Spread | None:
    """Server CPU per call over that of the variant beside this one in the same round; None if there is none."""
    beside = results.beside.get(target)
    return None if beside is None else _cpu_to(results, target, beside, load)


def _cpu_to(results: Results, target: str, beside: str, load: str) -> Spread | None:
    field = "server_cpu_us_per_call"
    here_alone, there_too = results.measurements[target][load], results.measurements[beside][load]
    pairs = zip(here_alone, there_too, strict=bool(there_too))  # some loads are of the servers alone
    ratios = [here[field] / there[field] for here, there in pairs if there[field]]
    return Spread.of(ratios) if ratios else None


def many_to_one(results: Results, target: str) -> Spread:
    """The rate of many runtimes over the rate of one in the same round."""
    loads = results.measurements[target]
    return Spread.of(
        [
            many["calls_per_second"] / one["calls_per_second"]
            for many, one in zip(loads["many"], loads["one"], strict=True)
        ]
    )


def print_tables(console: Console, plan: Plan, results: Results) -> None:
    """Print the tables: rates and CPU by load, then memory, then the aims."""
    console.print(
        f"Medians over {plan.rounds} rounds of {plan.seconds:g} s; snapshots of {plan.snapshot_bytes} bytes. "
        "CPU is per call: of the server, of all Postgres processes, of the load generator. The ratio to the floor is "
        "that of the server's CPU in the same round: median (least to most). A batch: writes per transaction.\n"
    )
    for load in plan.loads:
        console.print(_rates(results, load))
    if results.beside:
        console.print(_variants(plan, results))
    console.print(_memory(results))
    console.print(_aims(plan, results))


def _rates(results: Results, load: Load) -> Table:
    table = Table("target", title=f"{load.method}, {load.runtimes} at once", **LOOK)
    for heading in ("calls/s", "p50 ms", "p99 ms", "CPU µs", "to floor", "Postgres µs", "batch", "generator µs"):
        table.add_column(heading, justify="right", no_wrap=True)
    for target, loads in results.measurements.items():
        rounds = loads[load.name]
        table.add_row(
            target,
            _median(rounds, "calls_per_second", 0),
            _median(rounds, "p50_ms", 2),
            _median(rounds, "p99_ms", 2),
            _median(rounds, "server_cpu_us_per_call", 0),
            NONE if target == FLOOR else str(cpu_to_floor(results, target, load.name) or NONE),
            _median(rounds, "postgres_cpu_us_per_call", 0),
            _median(rounds, "writes_per_transaction", 1),
            _median(rounds, "generator_cpu_us_per_call", 0),
        )
    return table


def _median(rounds: Iterable[dict[str, Any]], field: str, digits: int) -> str:
    values = [measured[field] for measured in rounds if measured[field] is not None]
    return f"{statistics.median(values):.{digits}f}" if values else NONE


def _variants(plan: Plan, results: Results) -> Table:
    """What each variant costs: its CPU over that of the variant beside it, by load."""
    table = Table("target", "beside", title="CPU of the server, in the same round as the variant beside it", **LOOK)
    for load in plan.loads:
        table.add_column(f"{load.method}, {load.runtimes} at once", justify="right", no_wrap=True)
    for target, beside in results.beside.items():
        spreads = [cpu_to_beside(results, target, load.name) for load in plan.loads]
        table.add_row(target, beside, *(NONE if spread is None else str(spread) for spread in spreads))
    return table


def _memory(results: Results) -> Table:
    table = Table("target", title="Memory of the server in MB; the large commit is on a fresh one", **LOOK)
    for heading in ("idle", "after load", "large commit", "peak over idle", "÷ size", "seconds"):
        table.add_column(heading, justify="right")
    for target, memory in results.memory.items():
        large = memory.get("large_commit")
        columns = (NONE, NONE, NONE, NONE)
        if large:
            columns = (
                _mb(large["snapshot_bytes"]),
                _mb(large["peak_bytes"] - large["idle_bytes"]),
                f"{large['peak_over_idle']:.2f}",
                f"{large['seconds']:.2f}",
            )
        table.add_row(target, _mb(memory["idle_bytes"]), _mb(memory["after_load_bytes"]), *columns)
    return table


def _mb(size_bytes: int) -> str:
    return f"{size_bytes / 1e6:.1f}"


def _aims(plan: Plan, results: Results) -> Table:
    table = Table("aim", "target", title="Aims", **LOOK)
    table.add_column("measured", justify="right")
    table.add_column("reached")
    for target, memory in results.memory.items():
        if target == FLOOR or target in PLAIN_PEERS.values():
            continue
        if spread := cpu_to_floor(results, target, "many"):
            _add_aim(
                table,
                f"AtomicApply's CPU at most {CPU_AIM} times the floor's",
                target,
                spread,
                spread.median <= CPU_AIM,
            )
        if target.endswith(f"+{METRICS}") and (cost := cpu_to_beside(results, target, "many")):
            aim = f"scraped metrics cost at most {METRICS_AIM - 1:.0%} of AtomicApply's CPU"
            _add_aim(table, aim, target, cost, cost.median <= METRICS_AIM)
        rates = many_to_one(results, target)
        reached = rates.median >= SCALING_AIM
        _add_aim(
            table, f"{plan.runtimes} runtimes at least {SCALING_AIM:g} times the rate of one", target, rates, reached
        )
        idle_bytes = memory["idle_bytes"]
        _add_aim(table, f"idle at most {_mb(IDLE_AIM_BYTES)} MB", target, _mb(idle_bytes), idle_bytes <= IDLE_AIM_BYTES)
        if large := memory.get("large_commit"):
            times = large["peak_over_idle"]
            _add_aim(
                table,
                f"a large commit's peak at most {LARGE_AIM:g} times its size",
                target,
                f"{times:.2f}",
                times <= LARGE_AIM,
            )
    return table


def _add_aim(table: Table, aim: str, target: str, measured: object, reached: bool) -> None:
    table.add_row(aim, target, str(measured), "[green]yes[/]" if reached else "[red]no[/]")
