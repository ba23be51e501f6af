"""The lock files name by hash everything that the project asks for, and nothing of where it was got."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
FILES = ("server.txt", "dev.txt")


def _locked(file: str) -> dict[str, list[str]]:
    """The versions of each project; several where platforms differ."""
    text = (ROOT / "locks" / file).read_text(encoding="utf-8")
    found: dict[str, list[str]] = {}
    for name, version in re.findall(r"(?m)^([\w.-]+)(?:\[[\w,-]+\])?==([^\s;\\]+)", text):
        found.setdefault(canonicalize_name(name), []).append(version)
    return found


def _asked(file: str) -> list[str]:
    project: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    extras = project["project"]["optional-dependencies"]
    asked = [*project["project"]["dependencies"], *extras["server"], *extras["otel"]]
    if file == "dev.txt":
        groups = project["dependency-groups"]
        asked += [line for part in groups["dev"] for line in groups[part["include-group"]]]
    return asked


@pytest.mark.parametrize("file", FILES)
def test_what_the_project_asks_for_is_locked_in_a_version_that_will_do(file: str) -> None:
    locked = _locked(file)

    for requirement in map(Requirement, _asked(file)):
        versions = locked.get(canonicalize_name(requirement.name), [])
        assert versions, f"{requirement}: run `make lock`"
        assert all(requirement.specifier.contains(version, prereleases=True) for version in versions), requirement


@pytest.mark.parametrize("file", FILES)
def test_everything_has_a_hash_and_no_line_names_a_host_or_a_path(file: str) -> None:
    text = (ROOT / "locks" / file).read_text(encoding="utf-8")
    entries = re.split(r"(?m)^(?=[\w])", re.sub(r"(?m)^#.*\n", "", text))[1:]

    assert len(entries) == sum(map(len, _locked(file).values()))
    assert all("--hash=sha256:" in entry for entry in entries)
    assert "://" not in text
    assert not re.search(r"(?m)^\s*(-|/|\.)(?!-hash)|file:|find-links|index-url", text)


def test_the_image_is_made_of_what_is_locked_and_of_nothing_else() -> None:
    dockerfile = (ROOT / "Dockerfile").read_text(encoding="utf-8")

    installs = [line for line in dockerfile.splitlines() if "pip install" in line]
    assert installs
    assert all("--require-hashes" in line or "--no-deps" in line for line in installs)
    assert "opentelemetry-sdk" in _locked("server.txt")  # the image can trace, if a variable names a collector
