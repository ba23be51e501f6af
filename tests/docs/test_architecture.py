"""The pages for whoever changes the code name nothing that is not there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from support.checkers.markdown import blocks

ROOT = Path(__file__).resolve().parents[2]
ARCHITECTURE = ROOT / "docs/architecture.md"
CONTRIBUTING = ROOT / "CONTRIBUTING.md"

FOLDERS = {
    ARCHITECTURE: (ROOT, ROOT / "server/runtimestore_server", ROOT / "client/python/runtimestore"),
    CONTRIBUTING: (ROOT,),
    ROOT / "tests/README.md": (ROOT, ROOT / "tests"),
}
"""Where the paths of each page begin."""

PATH = re.compile(r"[a-z_.][\w./-]*(?:/|\.(?:py|md|proto|toml|rs))|\.ci/run")
"""What ends in a slash is a folder; a file is told by its ending."""


def _paths(page: Path) -> set[str]:
    """The paths that a page names: in code spans, which may hold more than a path, and in drawings."""
    text = page.read_text(encoding="utf-8")
    named = [word for span in re.findall(r"`([^`\n]+)`", text) for word in span.split()]
    for block in blocks(page):
        named += re.split(r"[\s:,]+", block.text)
    return {word for word in named if PATH.fullmatch(word)}


@pytest.mark.parametrize("page", FOLDERS, ids=lambda page: page.name)
def test_every_path_that_a_page_names_exists(page: Path) -> None:
    named = _paths(page)

    def exists(path: str) -> bool:
        places = [folder / path for folder in FOLDERS[page]]
        return any(place.is_dir() if path.endswith("/") else place.is_file() for place in places)

    assert len(named) > 20
    assert sorted(path for path in named if not exists(path)) == []


def test_every_room_of_the_server_is_on_the_page_of_the_architecture() -> None:
    server = ROOT / "server/runtimestore_server"
    rooms = {f"{found.parent.relative_to(server)}/" for found in server.rglob("__init__.py") if found.parent != server}

    assert sorted(rooms - _paths(ARCHITECTURE)) == []
