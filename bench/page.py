"""Writes what a run measured: JSON, plots and the generated part of docs/benchmarks.md."""

from __future__ import annotations

import json
import textwrap
from typing import TYPE_CHECKING, Any

from bench.figures import FIGURES_HEAD, NONE, TITLES, Results, all_workloads, figures, median_of
from bench.long_session import CHANGED, WHOLE
from bench.rust_way import RUST_WAY
from bench.targets import FLOOR, PLAIN_PEERS
from bench.variants import METRICS, PLAIN, TLS, TOKENS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

BEGIN, END = "<!-- figures: begin -->\n", "<!-- figures: end -->\n"
PAGE, FOLDER, JSON = "benchmarks.md", "benchmarks", "latest.json"
COLUMNS = 120  # as wide as every page is
VARIANTS = {PLAIN: "plain", METRICS: "metrics, scraped each second", TLS: "TLS", TOKENS: "tokens"}
LOADS = {"many": "64", "few": "4", "one": "1", "crowd": "256"}


def write_json(docs: Path, results: Results) -> None:
    """Write what is measured until now: called after each stage, so that an interrupted run leaves what it has."""
    folder = docs / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    (folder / JSON).write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


def write(docs: Path, results: Results) -> None:
    """Write all of it; the page keeps what stands outside of its marks."""
    from bench import plots  # which take a second to load what they draw with

    write_json(docs, results)
    drawn = plots.draw(docs / FOLDER, results)
    page = docs / PAGE
    text = page.read_text(encoding="utf-8") if page.exists() else f"# Benchmarks\n\n{BEGIN}{END}"
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{page.name} has no marks for figures")
    about = (textwrap.fill(line, COLUMNS, subsequent_indent="  ", break_long_words=False) for line in _about(results))
    made = "\n".join([*about, *sections(results, drawn)])
    page.write_text(f"{before}{BEGIN}\n{made}\n{END}{after}", encoding="utf-8")


def _about(results: Results) -> Iterator[str]:
    """What was measured where, a line each."""
    run = results["run"]
    yield f"* `{run['command']}`, {run['began_at']}, {run['seconds'] / 60:.1f} minutes"
    yield f"* {run['cpus']} cores, {run['memory_gb']:.0f} GB, {run['system']}"
    yield "* " + ", ".join(f"{name} {version}" for name, version in run["versions"].items())
    yield "* Postgres: " + ", ".join(f"`{name}` {setting}" for name, setting in run["postgres"].items())
    sync = run["fsync_ms"]
    yield f"* one fsync of 4 KB: {sync['median']:.2f} ms ({sync['least']:.2f} to {sync['most']:.2f})"
    load = " → ".join(" ".join(f"{each:.1f}" for each in run[when]) for when in ("load_at_start", "load_at_end"))
    yield f"* load (1, 5, 15 minutes), start → end: {load}; clients, servers and Postgres share the cores"
    for failure in results["failures"]:
        yield f"* **not measured**: {failure.splitlines()[0][:300]}"
    yield ""


def sections(results: Results, drawn: Sequence[str]) -> Iterator[str]:
    """The lines of the page that say what was measured, with the plots that were drawn."""
    if found := figures(results):
        yield from ("### Figures that have an aim", "")
        yield from _table(FIGURES_HEAD, (figure.row() for figure in found))
    if "calls" in drawn:
        yield from ("### A call", "", "![commits a second by target and callers](benchmarks/calls.png)", "")
    if targets := results.get("calls", {}).get("targets"):
        plan = results["calls"]["plan"]
        yield f"AtomicApply of {plan['snapshot_bytes'] / 1000:g} KB; medians. CPU is of the server, and of Postgres."
        yield ""
        yield from _table(
            ("callers", "target", "calls/s", "p50 ms", "p99 ms", "CPU µs", "÷ floor", "Postgres µs", "batch"),
            _call_rows(targets),
        )
    yield from _variants(results.get("variants", {}))
    if "turns" in drawn:
        yield from ("### T400: one runtime's turns", "", "![sent and written by turn](benchmarks/turns.png)", "")
    if turns := results.get("turns"):
        head = ("store", "sent", "seconds", "sent MB", "received MB", "written MB", "CPU ms a turn, small → large")
        yield from _table(head, _turn_rows(turns))
    if "workloads" in drawn:
        alt = "rates of the workloads over the plain peer's"
        yield from ("### Workloads", "", f"![{alt}](benchmarks/workloads.png)", "")
    if workloads := all_workloads(results):
        for name, workload in workloads.items():
            yield f"* **{name}**: {workload['title']}"
        yield ""
        columns = (
            "",
            "store",
            "sent",
            "a second",
            "p50 ms",
            "p99 ms",
            "CPU ms each",
            "written KB each",
            "÷ plain peer",
        )
        yield from _table(columns, (row for name, each in workloads.items() for row in _workload_rows(name, each)))
    yield from _large_beside_small(results.get("large_beside_small", {}))
    if memory := results.get("memory"):
        yield from ("### Memory", "", "MB resident: idle, after 1,000 runtimes of 100 KB, after reading them.", "")
        rows = ((TITLES[name], *(f"{size / 1e6:.1f}" for size in held.values())) for name, held in memory.items())
        yield from _table(("server", "idle", "written", "read"), rows)


def _call_rows(targets: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    for load, callers in LOADS.items():
        for name, target in targets.items():
            if rounds := target["measurements"].get(load):
                ratio = target["cpu_to_floor"].get(load)
                values = (
                    ("calls_per_second", 0),
                    ("p50_ms", 2),
                    ("p99_ms", 2),
                    ("server_cpu_us_per_call", 0),
                )
                shown = [_shown(median_of(rounds, field), digits) for field, digits in values]
                floor = (
                    NONE if ratio is None or name == FLOOR else _spread(ratio["median"], ratio["low"], ratio["high"])
                )
                rest = [("postgres_cpu_us_per_call", 0), ("writes_per_transaction", 1)]
                more = [_shown(median_of(rounds, field), digits) for field, digits in rest]
                yield callers, TITLES.get(name, name), *shown, floor, *more


def _variants(found: dict[str, Any]) -> Iterator[str]:
    if variants := found.get("measured"):
        callers = found["plan"]["runtimes"]
        yield from ("### What metrics, TLS and tokens add", "")
        yield f"AtomicApply by {callers} callers on SQLite; medians. The server's CPU, over the plain one's in turn."
        yield ""
        yield from _table(("server", "calls/s", "p50 ms", "p99 ms", "CPU µs", "÷ plain"), _variant_rows(variants))


def _variant_rows(variants: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    for name, measured in variants.items():
        values = (("calls_per_second", 0), ("p50_ms", 2), ("p99_ms", 2), ("server_cpu_us_per_call", 0))
        shown = [_shown(median_of(measured["rounds"], field), digits) for field, digits in values]
        ratio = measured["cpu_to_plain"]
        yield VARIANTS[name], *shown, NONE if ratio is None else _spread(ratio["median"], ratio["low"], ratio["high"])


def _turn_rows(turns: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    for store, forms in turns.items():
        for form, rounds in forms.items():
            sizes = [_shown(_mega(median_of(rounds, f"{what}_bytes")), 1) for what in ("sent", "received", "written")]
            small, large = (_shown(median_of(rounds, f"cpu_ms_{which}"), 1) for which in ("small", "large"))
            seconds = [each["seconds"] for each in rounds]
            took = _spread(sorted(seconds)[len(seconds) // 2], min(seconds), max(seconds))
            cpu = NONE if small == NONE else f"{small} → {large}"
            if store == RUST_WAY:
                sizes[:2] = [NONE, NONE]
            yield TITLES[store], form, took, *sizes, cpu


def _workload_rows(name: str, workload: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    measured = workload.get("measured", {})
    for store, forms in measured.items():
        for form, rounds in forms.items():
            written = median_of(rounds, "written_bytes")
            operations = median_of(rounds, "operations")
            each = None if written is None or not operations else written / operations / 1000
            ratios = over_plain(measured, store, form)
            yield (
                name,
                TITLES[store],
                form,
                *(_shown(median_of(rounds, field), digits) for field, digits in WORKLOAD_FIELDS),
                _shown(each, 1),
                _spread(sorted(ratios)[len(ratios) // 2], min(ratios), max(ratios)) if ratios else NONE,
            )


def _large_beside_small(found: dict[str, Any]) -> Iterator[str]:
    if found:
        yield from ("### Large beside small", "")
        yield "PersistInputState by 4 callers, alone and while 60 MB are committed, in ms; a commit in seconds."
        yield ""
        columns = ("target", "p50", "p99", "most", "beside: p50", "p99", "most", "p99 ÷ alone", "a commit")
        yield from _table(columns, (_beside_row(name, measured) for name, measured in found.items()))


def _beside_row(name: str, measured: dict[str, Any]) -> tuple[str, ...]:
    alone, beside = measured["alone"], measured["beside"]
    values = (each[field] for each in (alone, beside) for field in ("p50_ms", "p99_ms", "most_ms"))
    seconds = sorted(measured["commit_seconds"])
    commit = _spread(seconds[len(seconds) // 2], seconds[0], seconds[-1])
    return TITLES[name], *(_shown(value, 1) for value in values), _shown(beside["p99_ms"] / alone["p99_ms"], 1), commit


WORKLOAD_FIELDS = (("per_second", 0), ("p50_ms", 1), ("p99_ms", 1), ("server_cpu_ms", 2))


def over_plain(measured: dict[str, Any], store: str, form: str) -> list[float]:
    """The rate over that of the plain peer on the same engine, round by round."""
    plain = measured.get(PLAIN_PEERS.get(store, ""), {}).get(WHOLE, [])
    pairs = zip(measured[store][form], plain, strict=False)
    return [one["per_second"] / other["per_second"] for one, other in pairs if one and other]


def _mega(value: float | None) -> float | None:
    return None if value is None else value / 1e6


def _shown(value: float | None, digits: int) -> str:
    return NONE if value is None else f"{value:,.{digits}f}"


def _spread(median: float, low: float, high: float) -> str:
    return f"{median:.2f}" if low == high else f"{median:.2f} ({low:.2f} to {high:.2f})"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(head)} |"
    yield f"|{'---|' * len(head)}"
    for row in rows:
        yield f"| {' | '.join(row)} |"
    yield ""


__all__ = ["CHANGED", "over_plain", "write", "write_json"]
