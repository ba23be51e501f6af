"""The frame of the tests of faults itself."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from scripts.figures import table
from support.checkers.torture import Trial, write_report

ROOT = Path(__file__).parents[2]

FAILING = """
import pytest

@pytest.fixture
def leaking():
    yield
    raise RuntimeError("left behind")

@pytest.fixture
def missing():
    raise RuntimeError("not there")

def test_good(trial):
    trial.record(rounds=1)

def test_bad_before_it_has_figures(trial):
    assert trial.long

def test_bad_as_it_is_torn_down(leaking, trial):
    trial.record(rounds=1)

def test_bad_before_it_begins(missing, trial):
    trial.record(rounds=1)
"""


def test_a_trial_repeats_its_randomness_from_its_seed() -> None:
    first, second, other = (Trial("t", long=False, seed=seed) for seed in (7, 7, 8))

    assert first.random.random() == second.random.random() != other.random.random()


def test_whatever_of_a_test_fails_is_told_in_the_report_and_in_the_table(tmp_path: Path) -> None:
    (tmp_path / "test_probe.py").write_text(FAILING)
    report = tmp_path / "report.json"
    command = (sys.executable, "-m", "pytest", "-p", "conftest", "-c", str(ROOT / "pyproject.toml"), "-q")

    done = subprocess.run(
        [*command, "--torture-report", str(report), str(tmp_path / "test_probe.py")],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join((str(ROOT / "tests"), str(ROOT), *sys.path))},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )

    assert done.returncode == 1, done.stdout + done.stderr
    written = json.loads(report.read_text())
    passed = {name.partition("::")[2]: trial["passed"] for name, trial in written["trials"].items()}
    assert passed == {
        "test_good": True,
        "test_bad_before_it_has_figures": False,
        "test_bad_as_it_is_torn_down": False,
        "test_bad_before_it_begins": False,
    }
    told = table(written)
    assert told.count("| yes |") == 1
    assert told.count("| **no** |") == 3


def test_the_report_holds_the_figures_and_the_seed_of_each_trial(tmp_path: Path) -> None:
    trial = Trial("t", long=True, seed=7)
    trial.record(rounds=trial.rounds(short=1, long=1000))

    write_report(tmp_path / "report.json", {trial.name: trial.report()})

    written = json.loads((tmp_path / "report.json").read_text())["trials"]["t"]
    assert (written["seed"], written["figures"]) == (7, {"rounds": 1000})
