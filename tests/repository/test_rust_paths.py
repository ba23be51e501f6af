"""No program of the Rust workspace keeps the path of the checkout in which it was built."""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = sorted(
    path.relative_to(ROOT).as_posix()
    for folder in ("client/rust", "examples/rust")
    for path in (ROOT / folder).rglob("*.rs")
    if "target" not in path.parts
)


@pytest.mark.parametrize("source", SOURCES)
def test_no_path_of_a_checkout_is_compiled_in(source: str) -> None:
    # The builds of all checkouts lie in one folder: what one has built, another one runs, on the files of the first.
    assert 'env!("CARGO_MANIFEST_DIR")' not in (ROOT / source).read_text(encoding="utf-8")
