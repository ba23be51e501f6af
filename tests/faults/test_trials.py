"""The frame of the tests of faults itself."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from support.torture import Trial, write_report

if TYPE_CHECKING:
    from pathlib import Path


def test_a_trial_repeats_its_randomness_from_its_seed() -> None:
    first, second, other = (Trial("t", long=False, seed=seed) for seed in (7, 7, 8))

    assert first.random.random() == second.random.random() != other.random.random()


def test_the_report_holds_the_figures_and_the_seed_of_each_trial(tmp_path: Path) -> None:
    trial = Trial("t", long=True, seed=7)
    trial.record(rounds=trial.rounds(short=1, long=1000))

    write_report(tmp_path / "report.json", {trial.name: trial.report()})

    written = json.loads((tmp_path / "report.json").read_text())["trials"]["t"]
    assert (written["seed"], written["figures"]) == (7, {"rounds": 1000})
