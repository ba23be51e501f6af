"""What the documentation shows is run as it stands; only the address and the place of .venv are put in."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from itertools import zip_longest
from pathlib import Path

import pytest

from support.checkers.grpcurl import answers, command_path
from support.checkers.markdown import Block, blocks

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTED_ADDRESS = "127.0.0.1:50051"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def _run(block: Block, address: str, commands: Path) -> str:
    assert DOCUMENTED_ADDRESS in block.text, "a block that is run speaks to the server"
    text = block.text.replace(DOCUMENTED_ADDRESS, address).replace(".venv/bin/", f"{commands}/")
    argv = {"sh": ["bash", "-euo", "pipefail", "-c", text], "python": [sys.executable, "-c", text]}[block.language]
    path = os.pathsep.join([str(commands), command_path()])
    done = subprocess.run(
        argv, cwd=ROOT, env={**os.environ, "PATH": path}, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, f"line {block.line}:\n{done.stdout}{done.stderr}"
    return done.stdout


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_block_marked_for_running_runs_and_prints_what_the_page_shows(
    page: Path, address: str, commands: Path
) -> None:
    found = blocks(page)
    for block, following in zip_longest(found, found[1:]):
        if not block.is_run:
            continue
        output = _run(block, address, commands)
        if following and following.language == "json":
            assert answers(output) == answers(following.text), f"after line {block.line}"


def test_the_readme_shows_a_line_for_every_kind_of_call() -> None:
    shown = "".join(block.text for block in blocks(ROOT / "README.md") if block.is_run)

    for kind in (
        f"{DOCUMENTED_ADDRESS} list",
        f"{DOCUMENTED_ADDRESS} describe",
        "RuntimeStore/AtomicApply",
        "RuntimeStore/LoadBoundaryReceipt",
        "RuntimeStore/LoadSessionSnapshot",
        "RuntimeStoreAdmin/GetServerInfo",
        "RuntimeStoreAdmin/AcquireRuntime",
        "Health/Check",
        "AsyncRuntimeStoreClient",
    ):
        assert kind in shown


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_make_target_that_a_page_names_exists(page: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    lines = [line for block in blocks(page) for line in block.text.splitlines()]
    named = {found[1] for line in lines if (found := re.match(r"make ([a-z-]+)", line))}
    named |= set(re.findall(r"`make ([a-z-]+)", page.read_text(encoding="utf-8")))

    assert named <= targets


@pytest.mark.parametrize("page", [*PAGES, *sorted((ROOT / "docs/decisions").glob("*.md"))], ids=lambda page: page.name)
def test_every_relative_link_of_a_page_leads_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text(encoding="utf-8"))

    assert [link for link in links if "://" not in link and not (page.parent / link).exists()] == []
