"""Write the figures of a run of `make torture` into docs/trials.md: `python -m scripts.figures FILE`."""
# ruff: noqa: INP001 - a script beside the packages

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

PAGE = Path(__file__).parents[1] / "docs" / "trials.md"
BEGIN, END = "<!-- figures: begin -->\n", "<!-- figures: end -->\n"


def table(report: dict[str, Any]) -> str:
    """The report as Markdown: a line a trial, in the order of the run, and one for all that failed."""
    machine = ", ".join(f"{name} {value}" for name, value in report["machine"].items())
    lines = [
        f"One run of `make torture` ({machine}). `--seed` repeats a trial's randomness.",
        "",
        "| test | passed | figures | seconds | seed |",
        "|---|---|---|---|---|",
    ]
    for name, trial in report["trials"].items():
        if trial["passed"] and not trial["figures"]:
            continue
        figures = ", ".join(f"{key.replace('_', ' ')} {_shown(value)}" for key, value in trial["figures"].items())
        passed = "yes" if trial["passed"] else "**no**"
        lines.append(f"| `{_short(name)}` | {passed} | {figures} | {trial['seconds']:.0f} | {trial['seed'] or ''} |")
    return "\n".join(lines) + "\n"


def _short(name: str) -> str:
    return name.removeprefix("tests/")


def _shown(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def written_into(page: str, figures: str) -> str:
    """The page with these figures between its marks.

    Raises:
        ValueError: it has no marks.
    """
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{PAGE.name} has no marks for figures")
    return f"{before}{BEGIN}\n{figures}\n{END}{after}"


if __name__ == "__main__":
    found = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    PAGE.write_text(written_into(PAGE.read_text(encoding="utf-8"), table(found)), encoding="utf-8")
