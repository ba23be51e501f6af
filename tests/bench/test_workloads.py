"""The whole benchmark runs, stage by stage: what it measures is asserted nowhere, a machine under test is no place."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from bench import stages, workloads
from bench.figures import Figure, figures
from bench.page import sections, write
from bench.repeats import repeats
from bench.report import Spread

ROOT = Path(__file__).resolve().parents[2]
LONGEST_SECONDS = 600
NAMES = ["W1", "W2", "W3", "W4", "W5", "W6", "W7", "W8"]


def test_the_quick_form_has_the_workloads_of_the_full_one() -> None:
    assert [workload.name for workload in workloads.full()] == NAMES
    assert [workload.name for workload in workloads.quick()] == NAMES


@pytest.mark.slow
def test_every_workload_is_answered_rightly_by_the_servers_the_plain_peers_and_the_rust_way(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    whole = list(stages.STAGES) if request.config.getoption("--torture") else ["workloads", "turns_at_once"]
    docs, stores = tmp_path / "docs", tmp_path / "stores"
    for folder in (docs, stores):
        folder.mkdir()
    (docs / "benchmarks.md").write_text("kept\n<!-- figures: begin -->\nold\n<!-- figures: end -->\nkept too\n")
    command = (sys.executable, "-m", "bench", "--quick", "--stages", *whole)
    done = subprocess.run(
        (*command, "--docs", str(docs), "--directory", str(stores)),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=LONGEST_SECONDS,
    )

    assert done.returncode == 0, done.stdout
    results = json.loads((docs / "benchmarks/latest.json").read_text(encoding="utf-8"))
    assert results["failures"] == []
    assert set(results) == {"run", "failures", *whole}
    assert list(results["workloads"]) == NAMES
    forms = {
        **{engine: {"whole", "what changed"} for engine in ("sqlite", "postgres")},
        **{peer: {"whole"} for peer in ("plain-sqlite", "plain-postgres", "rust-way")},
    }
    for workload in [*results["workloads"].values(), results["turns_at_once"]["T64"]]:
        assert {store: set(rounds) for store, rounds in workload["measured"].items()} == forms
        assert all(round_["operations"] > 0 for store in workload["measured"].values() for (round_,) in store.values())
    page = (docs / "benchmarks.md").read_text(encoding="utf-8")
    assert page.startswith("kept\n")
    assert page.endswith("kept too\n")
    assert "old" not in page
    assert str(tmp_path) not in page
    assert [line for line in page.splitlines() if len(line) > 120 and line.startswith(("* ", "  "))] == []
    drawn = [(plot.name, plot.stat().st_size) for plot in sorted((docs / "benchmarks").glob("*.png"))]
    assert [name for name, _ in drawn if f"benchmarks/{name}" not in page] == []
    assert "workloads.png" in dict(drawn)
    assert max(size_bytes for _, size_bytes in drawn) < 60_000
    assert list(stores.iterdir()) == []


def test_the_first_round_is_always_run_and_others_only_while_there_is_time() -> None:
    assert list(repeats(3, within_seconds=0)) == [1]
    assert list(repeats(3, within_seconds=None)) == [1, 2, 3]
    assert list(repeats(3, within_seconds=3600)) == [1, 2, 3]


@pytest.mark.parametrize(
    ("at_least", "rounds", "reached"), [(True, [1, 3, 9], "yes"), (False, [1, 3, 9], "**no**"), (False, [2], "yes")]
)
def test_a_figure_reaches_its_aim_by_its_median_and_shows_how_far_it_spreads(
    at_least: bool, rounds: list[float], reached: str
) -> None:
    figure = Figure("rate", "sqlite", "1", aim=2, at_least=at_least, got=Spread.of(rounds), unit=" MB")

    *_, got, told = figure.row()
    assert told == reached
    assert got == ("3.00 (1.00 to 9.00) MB" if len(rounds) > 1 else "2.00 MB")


@pytest.mark.parametrize(("ratio", "reached"), [(1.02, "yes"), (1.04, "**no**")])
def test_what_metrics_add_to_a_call_has_an_aim_and_a_row_beside_the_other_variants(ratio: float, reached: str) -> None:
    measured = {"calls_per_second": 1000.0, "p50_ms": 1.0, "p99_ms": 2.0, "server_cpu_us_per_call": 500.0}
    spread = {"median": ratio, "low": 0.9, "high": 1.1}
    variants = {
        name: {"rounds": [measured], "cpu_to_plain": None if name == "plain" else spread}
        for name in ("plain", "metrics", "tls", "tokens")
    }
    results = {"variants": {"plan": {"runtimes": 64}, "measured": variants}}

    assert [(figure.aim, figure.row()[-1]) for figure in figures(results)] == [(1.03, reached)]
    told = list(sections(results, []))
    rows = [line.split(" | ") for line in told if " | 1,000 | " in line]
    assert [row[-1].rstrip(" |") for row in rows] == ["-", *[f"{ratio} (0.90 to 1.10)"] * 3]
    assert "AtomicApply by 64 callers" in "".join(told)


def test_a_page_without_marks_is_left_as_it_is(tmp_path: Path) -> None:
    page = tmp_path / "benchmarks.md"
    page.write_text("written by a person\n", encoding="utf-8")

    with pytest.raises(ValueError, match="no marks"):
        write(tmp_path, {"run": {}, "failures": []})

    assert page.read_text(encoding="utf-8") == "written by a person\n"
