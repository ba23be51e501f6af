"""The figures in docs/trials.md: they are those of a run, and the tests that the pages name exist."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from scripts.figures import BEGIN, END, PAGE, table, written_into

ROOT = Path(__file__).parents[2]

REPORT = {
    "machine": {"python": "3.11"},
    "trials": {
        "tests/faults/test_x.py::test_y[sqlite]": {
            "seed": 7,
            "seconds": 12.3,
            "passed": True,
            "figures": {"writes_landed": 10000, "lost": 0},
        },
        "tests/faults/test_x.py::test_z": {"seed": 8, "seconds": 1.0, "passed": False, "figures": {"rounds": 1}},
        "tests/faults/test_x.py::test_without_figures": {"seed": 9, "seconds": 1.0, "passed": True, "figures": {}},
    },
}


def test_each_trial_with_figures_is_a_line_that_says_whether_it_passed() -> None:
    lines = table(REPORT).splitlines()

    assert "| `faults/test_x.py::test_y[sqlite]` | yes | writes landed 10,000, lost 0 | 12 | 7 |" in lines
    assert "| `faults/test_x.py::test_z` | **no** | rounds 1 | 1 | 8 |" in lines
    assert not any("without_figures" in line for line in lines)


def test_figures_replace_those_of_the_run_before_and_nothing_else() -> None:
    page = f"before\n{BEGIN}old\n{END}after\n"

    assert written_into(written_into(page, "first\n"), "second\n") == f"before\n{BEGIN}\nsecond\n\n{END}after\n"
    with pytest.raises(ValueError, match="no marks"):
        written_into("a page", "figures")


def _tests_named(page: Path) -> list[tuple[str, str]]:
    """The tests that a page names in the manner of the report: file and function, the function empty for all."""
    return re.findall(r"`([a-z]+/test_[a-z_]+\.py)(?:::(\w+)(?:\[[^`\]]*\])?)?`", page.read_text(encoding="utf-8"))


@pytest.mark.parametrize("page", sorted((ROOT / "docs").glob("**/*.md")), ids=lambda page: page.name)
def test_every_test_that_a_page_names_exists(page: Path) -> None:
    for path, function in _tests_named(page):
        source = ROOT / "tests" / path
        assert source.is_file(), path
        defined = {
            node.name
            for node in ast.walk(ast.parse(source.read_text(encoding="utf-8")))
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        }
        assert not function or function in defined, f"{path}::{function}"


def test_the_page_of_trials_names_a_test_for_each_of_them() -> None:
    assert len(_tests_named(PAGE)) > 20
