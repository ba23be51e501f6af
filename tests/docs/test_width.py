"""Pages are wrapped: a diff shows the sentence that changed, and a terminal the whole of it."""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
]
COLUMNS = 120


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_no_line_of_prose_is_wider_than_120_columns(page: Path) -> None:
    too_wide = []
    in_block = False
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
        if line.lstrip().startswith("```"):
            in_block = not in_block
        # A row of a table has to be one line, and a word cannot be wrapped.
        if len(line) > COLUMNS and not in_block and not line.startswith("|") and " " in line.strip():
            too_wide.append(number)

    assert too_wide == []
