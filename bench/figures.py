"""The figures that have an aim: what each was before, what it is to be, and what this run got."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bench.long_session import CHANGED, WHOLE
from bench.report import METRICS_AIM, Spread
from bench.rust_way import RUST_WAY
from bench.targets import FLOOR, PLAIN_PEERS, POSTGRES, SQLITE
from bench.variants import METRICS
from runtimestore_server.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

Results = dict[str, Any]

FIGURES_HEAD = ("figure", "engine", "before", "aim", "got: median (least to most)", "reached")
NONE = "-"
NAMES = {SQLITE: "SQLite", POSTGRES: "Postgres"}
TITLES = {
    FLOOR: "the floor",
    RUST_WAY: "the Rust store's way",
    **NAMES,
    **{PLAIN_PEERS[engine]: f"plain peer, {name}" for engine, name in NAMES.items()},
    **{f"{engine}-beside": f"{name}, --beside" for engine, name in NAMES.items()},
}
CPU_AT = {
    "many": ("64 callers", {SQLITE: "3.1", POSTGRES: "2.7"}, {SQLITE: 2.2, POSTGRES: 1.7}),
    "few": ("4 callers", {SQLITE: "6.4", POSTGRES: "9.8"}, {SQLITE: 3.2, POSTGRES: 3.0}),
    "one": ("1 caller", {SQLITE: "4.3", POSTGRES: "8.5"}, {SQLITE: 2.8, POSTGRES: 2.5}),
}
"""CPU of AtomicApply over the floor's: by load what it is called, what it was, and what it is to be."""


@dataclass(frozen=True)
class Figure:
    """One of them, on one engine."""

    name: str
    engine: str
    before: str
    aim: float
    at_least: bool
    got: Spread
    unit: str = ""

    @property
    def reached(self) -> bool:
        """Whether the median is what it is to be."""
        return self.got.median >= self.aim if self.at_least else self.got.median <= self.aim

    def row(self) -> tuple[str, str, str, str, str, str]:
        """As people read it."""
        got = _shown(self.got.median)
        if self.got.low != self.got.high:
            got += f" ({_shown(self.got.low)} to {_shown(self.got.high)})"
        sign = "≥" if self.at_least else "≤"
        aim = f"{sign} {_shown(self.aim)}{self.unit}"
        return self.name, NAMES[self.engine], self.before, aim, f"{got}{self.unit}", "yes" if self.reached else "**no**"


def _shown(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"  # noqa: PLR2004  (three digits)


def figures(results: Results) -> list[Figure]:
    """All that this run has measured."""
    return [figure for engine in NAMES for made in MADE for figure in made(results, engine)]


def _turns(results: Results, engine: str) -> Iterator[Figure]:
    forms = results.get("turns", {}).get(engine, {})
    changed, whole = forms.get(CHANGED, []), forms.get(WHOLE, [])

    def of(name: str, before: str, aim: float, values: Sequence[float | None], unit: str = "") -> Iterator[Figure]:
        if known := [value for value in values if value is not None]:
            yield Figure(f"T400: {name}", engine, before, aim, at_least=False, got=Spread.of(known), unit=unit)

    wrote = "1,118 MB" if engine == SQLITE else NONE
    yield from of("sent", "510 MB", 5, [each["sent_bytes"] / 1e6 for each in changed], " MB")
    yield from of("written", wrote, 60, [each["written_bytes"] / 1e6 for each in changed], " MB")
    late = "turns 351 to 400 ÷ 31 to 80"
    yield from of(f"sent, {late}", "6.5", 1.2, [each["late_to_early_sent"] for each in changed])
    late = "log a turn, turns 201 to 400 ÷ 51 to 100"
    yield from of(late, NONE, 1.2, [each["late_to_early_log"] for each in changed])
    pairs = zip(changed, whole, strict=False)
    yield from of("seconds ÷ whole documents'", "1", 0.35, [one["seconds"] / all_["seconds"] for one, all_ in pairs])
    if any(each["late_to_early_sent"] is None for each in changed):
        return  # too few turns to tell small from large
    small, large = ([each[name] for each in changed] for name in ("cpu_ms_small", "cpu_ms_large"))
    times = [b / a for a, b in zip(small, large, strict=True) if a]
    yield from of("CPU of a turn, 2 MB ÷ 20 KB", NONE, 3, times)
    more = [(b - a) / 2 for a, b in zip(small, large, strict=True)]
    yield from of("CPU of a turn for each MB of session", NONE, 1.2, more, " ms")


def _calls(results: Results, engine: str) -> Iterator[Figure]:
    targets = results.get("calls", {}).get("targets", {})
    if engine not in targets or FLOOR not in targets:
        return
    own, floor = targets[engine]["measurements"], targets[FLOOR]["measurements"]
    for load, (callers, before, aim) in CPU_AT.items():
        if ratio := targets[engine]["cpu_to_floor"].get(load):
            name = f"{callers}: server CPU ÷ floor"
            yield Figure(name, engine, before[engine], aim[engine], at_least=False, got=Spread(**ratio))
    over = _pairs(own["one"], floor["one"], lambda a, b: a["p50_ms"] - b["p50_ms"])
    was, most = {SQLITE: ("1.4 ms", 0.8), POSTGRES: ("4 ms", 1.1)}[engine]
    yield Figure("1 caller: p50 over the floor's", engine, was, most, at_least=False, got=over, unit=" ms")
    if beside := targets.get(f"{engine}-beside"):
        rate = _pairs(own["many"], beside["measurements"]["many"], _rates)
        least = {SQLITE: 1.6, POSTGRES: 1.9}[engine]
        yield Figure("64 callers: commits ÷ those of --beside", engine, "1", least, at_least=True, got=rate)
        p99 = _pairs(own["many"], beside["measurements"]["many"], lambda a, b: a["p99_ms"] / b["p99_ms"])
        yield Figure("64 callers: p99 ÷ that of --beside", engine, "1", 0.5, at_least=False, got=p99)
    rates = Spread.of([each["calls_per_second"] for each in own["many"]])
    was, least = {SQLITE: ("1,644", 2630), POSTGRES: ("1,280", 2432)}[engine]
    yield Figure("64 callers: commits a second", engine, was, least, at_least=True, got=rates)
    slowest = Spread.of([each["p99_ms"] for each in own["many"]])
    was, most = {SQLITE: ("73 ms", 36.5), POSTGRES: ("83 ms", 41.5)}[engine]
    yield Figure("64 callers: p99", engine, was, most, at_least=False, got=slowest, unit=" ms")
    if plain := targets.get(PLAIN_PEERS[engine]):
        rate = _pairs(own["many"], plain["measurements"]["many"], _rates)
        least = {SQLITE: 3.0, POSTGRES: 2.5}[engine]
        yield Figure("64 callers: commits ÷ the plain peer's", engine, NONE, least, at_least=True, got=rate)
    if own.get("crowd"):
        rate = _pairs(own["crowd"], own["one"], _rates)
        least = {SQLITE: 5.0, POSTGRES: 10.0}[engine]
        yield Figure("256 runtimes: commits ÷ those of one", engine, NONE, least, at_least=True, got=rate)


def _pairs(ours: list[dict[str, Any]], others: list[dict[str, Any]], compared: Callable[[Any, Any], float]) -> Spread:
    """What both took in the same round, compared."""
    return Spread.of([compared(one, other) for one, other in zip(ours, others, strict=True)])


def _rates(one: dict[str, Any], other: dict[str, Any]) -> float:
    return float(one["calls_per_second"] / other["calls_per_second"])


def _variants(results: Results, engine: str) -> Iterator[Figure]:
    metrics = results.get("variants", {}).get("measured", {}).get(METRICS, {})
    if engine == SQLITE and (ratio := metrics.get("cpu_to_plain")):
        name = "64 callers: server CPU, scraped each second ÷ without metrics"
        yield Figure(name, engine, NONE, METRICS_AIM, at_least=False, got=Spread(**ratio))


def _cold_starts(results: Results, engine: str) -> Iterator[Figure]:
    if loads := results.get("cold_starts", {}).get(engine):
        got = Spread.of([load["ms"] / load["floor_ms"] for load in loads])
        yield Figure("cold start of 400 inputs, 2 MB ÷ floor", engine, "5 + k calls", 2, at_least=False, got=got)


def _large_beside_small(results: Results, engine: str) -> Iterator[Figure]:
    if measured := results.get("large_beside_small", {}).get(engine):
        ratio = measured["beside"]["p99_ms"] / measured["alone"]["p99_ms"]
        name = "p99 of PersistInputState, beside 60 MB ÷ alone"
        yield Figure(name, engine, NONE, 2, at_least=False, got=Spread.of([ratio]))


def _memory(results: Results, engine: str) -> Iterator[Figure]:
    if held := results.get("memory", {}).get(engine):
        idle = Spread.of([held["idle_bytes"] / 1e6])
        yield Figure("idle memory", engine, "88 MB", 90, at_least=False, got=idle, unit=" MB")
        more = max(held["after_writes_bytes"], held["after_reads_bytes"]) - held["idle_bytes"]
        name = "memory over idle after 1,000 runtimes of 100 KB"
        yield Figure(name, engine, NONE, CACHES_MB, at_least=False, got=Spread.of([more / 1e6]), unit=" MB")


CACHES_MB = 1.5 * Settings.model_fields["session_cache_bytes"].default / 1e6
"""What may be held over idle: sessions up to the setting of the cache, and half as much that the allocator keeps."""

MADE: tuple[Callable[[Results, str], Iterator[Figure]], ...] = (
    _turns,
    _calls,
    _variants,
    _cold_starts,
    _large_beside_small,
    _memory,
)


def all_workloads(results: Results) -> dict[str, Any]:
    """W1 to W8 and T64, as far as they are measured."""
    return {**results.get("workloads", {}), **results.get("turns_at_once", {})}


def median_of(rounds: Sequence[dict[str, Any] | None], name: str) -> float | None:
    """The median of one value over the rounds; `None` where none was measured."""
    values = [each[name] for each in rounds if each is not None and each[name] is not None]
    return statistics.median(values) if values else None
