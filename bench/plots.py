"""Draws what a run measured, as small PNG files."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
from matplotlib import pyplot as plt

from bench.figures import NAMES, TITLES, all_workloads
from bench.long_session import CHANGED, WHOLE
from bench.rust_way import RUST_WAY
from bench.targets import FLOOR, PLAIN_PEERS, POSTGRES, SQLITE

if TYPE_CHECKING:
    from pathlib import Path

    from matplotlib.figure import Figure

    from bench.figures import Results

INCHES, DOTS_AN_INCH = (8.0, 3.6), 85
LOADS = {"one": "1 caller", "few": "4 callers", "many": "64 callers"}
TURNS_SAMPLED = 10
STYLES = {SQLITE: "-", POSTGRES: "--"}


def draw(folder: Path, results: Results) -> list[str]:
    """Draw each plot that there are figures for, into a folder; their names."""
    mpl.use("Agg")  # draws without a display
    folder.mkdir(parents=True, exist_ok=True)
    drawn = []
    for name, plot in (("calls", _calls), ("turns", _turns), ("workloads", _workloads)):
        measured = all_workloads(results) if name == "workloads" else results.get(name)
        if not measured:
            continue
        figure = plot(measured)
        if figure is None:
            continue
        # Software's name and version would be another file for the same figures.
        figure.savefig(folder / f"{name}.png", dpi=DOTS_AN_INCH, metadata={"Software": None})
        plt.close(figure)
        drawn.append(name)
    return drawn


def _calls(calls: dict[str, Any]) -> Figure:
    """Bars: calls a second of each target, by callers."""
    figure, axes = plt.subplots(figsize=INCHES, layout="constrained")
    targets = calls["targets"]
    width = 0.8 / len(targets)
    for number, (name, target) in enumerate(targets.items()):
        rates = [statistics.median(each["calls_per_second"] for each in target["measurements"][load]) for load in LOADS]
        places = [place + number * width for place in range(len(LOADS))]
        axes.bar(places, rates, width, label=TITLES.get(name, name), color="lightgrey" if name == FLOOR else None)
    axes.set_xticks([place + 0.4 - width / 2 for place in range(len(LOADS))], list(LOADS.values()))
    axes.set_yscale("log")
    axes.set_ylabel("AtomicApply a second")
    figure.legend(loc="outside upper center", fontsize="small", ncols=len(targets))
    return figure


def _turns(turns: dict[str, Any]) -> Figure | None:
    """Lines: megabytes sent, and written on SQLite, until each turn."""
    figure, axes = plt.subplots(1, 2, figsize=INCHES, layout="constrained")
    for store, forms in turns.items():
        for form, rounds in forms.items():
            label, style = f"{TITLES[store]}, {form}", STYLES.get(store, ":")
            colour = "black" if store == RUST_WAY else "tab:blue" if form == CHANGED else "tab:red"
            for which, what in enumerate(("sent", "written")):
                megabytes = [size_bytes / 1e6 for size_bytes in rounds[0][f"{what}_until_turn"]]
                if len(megabytes) > 1:
                    at = [TURNS_SAMPLED * number for number in range(len(megabytes))]
                    axes[which].plot(at, megabytes, style, color=colour, label=label if which else None)
    for which, what in enumerate(("sent", "written (Postgres: its log)")):
        axes[which].set(xlabel="turn", ylabel=f"MB {what}")
        axes[which].set_yscale("symlog", linthresh=1)
    figure.legend(loc="outside upper center", fontsize="small", ncols=3)
    return figure


def _workloads(workloads: dict[str, Any]) -> Figure | None:
    """Bars: the rate of each workload over that of the plain peer on the same engine."""
    figure, axes = plt.subplots(figsize=INCHES, layout="constrained")
    bars = [(engine, form) for engine in NAMES for form in (WHOLE, CHANGED)]
    width = 0.8 / len(bars)
    for number, (engine, form) in enumerate(bars):
        places, heights = [], []
        for place, workload in enumerate(workloads.values()):
            measured = workload.get("measured", {})
            plain = measured.get(PLAIN_PEERS[engine], {}).get(WHOLE, [])
            own = measured.get(engine, {}).get(form, [])
            ratios = [
                one["per_second"] / other["per_second"] for one, other in zip(own, plain, strict=False) if one and other
            ]
            if ratios:
                places.append(place + number * width)
                heights.append(statistics.median(ratios) - 1)  # drawn from 1 on, up or down
        colour = {SQLITE: "tab:blue"}.get(engine, "tab:orange")
        shade = 1 if form == CHANGED else 0.5
        axes.bar(places, heights, width, 1, label=f"{NAMES[engine]}, {form}", color=colour, alpha=shade)
    axes.set_xticks([place + 0.4 - width / 2 for place in range(len(workloads))], list(workloads))
    axes.axhline(1, color="black", linewidth=0.8)
    axes.set_yscale("log")
    axes.set_ylabel("rate ÷ the plain peer's")
    figure.legend(loc="outside upper center", fontsize="small", ncols=4)
    return figure
