"""Looks up what the lock files have in known vulnerabilities: `make audit`, with a network or without.

Without one in a folder, `make audit ADVISORIES=…`, which holds advisories in OSV's format, as YAML or JSON: a clone of
github.com/pypa/advisory-database, or what osv.dev exports of PyPI. With one by a command, pip-audit, that asks the
index of packages.
"""
# ruff: noqa: INP001 - a script beside the packages

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import yaml
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

LOCKS = Path(__file__).resolve().parents[1] / "locks"

_PINNED = re.compile(r"(?m)^([\w.-]+)(?:\[[\w,-]+\])?==([^\s;\\]+)")

CLEAN, FOUND, CANNOT = 0, 1, 2
"""The exit codes."""

NOT_LOOKED_UP = """\
audit: nothing was looked up. The index of packages could not be reached, or is a mirror that says nothing of
vulnerabilities, whatever the line above says. Run `make audit` where pypi.org itself answers pip, or bring the
advisories along: `make audit ADVISORIES=FOLDER`. docs/operations.md, "What is in it", says what FOLDER may be.
"""


class Finding(NamedTuple):
    """A locked version that an advisory is about."""

    name: str
    version: str
    advisory: str
    summary: str


def locked(folder: Path = LOCKS) -> dict[str, set[str]]:
    """The versions of each project in the lock files."""
    found: dict[str, set[str]] = {}
    for file in sorted(folder.glob("*.txt")):
        for name, version in _PINNED.findall(file.read_text(encoding="utf-8")):
            found.setdefault(canonicalize_name(name), set()).add(version)
    return found


def findings(versions: Mapping[str, set[str]], files: Sequence[Path]) -> Iterator[Finding]:
    """What the advisories in these files say of these versions."""
    named = re.compile("|".join(sorted(re.escape(name).replace(r"\-", "[-_.]") for name in versions)), re.IGNORECASE)
    for file in files:
        text = file.read_text(encoding="utf-8")
        if not named.search(text):  # most are of others, and reading YAML takes long
            continue
        advisory = json.loads(text) if file.suffix == ".json" else yaml.safe_load(text)
        if advisory.get("withdrawn"):
            continue
        told = " ".join(str(advisory.get("summary") or advisory.get("details") or "").split())[:100]
        for affected in advisory.get("affected", []):
            package = affected.get("package", {})
            name = canonicalize_name(package.get("name", ""))
            if package.get("ecosystem") == "PyPI":
                for version in sorted(versions.get(name, ())):
                    if is_affected(version, affected):
                        yield Finding(name, version, advisory["id"], told)


def is_affected(version: str, affected: Mapping[str, Any]) -> bool:
    """Whether a version is one that an advisory names, or lies in one of its ranges."""
    if version in affected.get("versions", ()):
        return True
    return any(
        _in_range(Version(version), found["events"])
        for found in affected.get("ranges", ())
        if found.get("type") == "ECOSYSTEM"
    )


def _in_range(version: Version, events: Sequence[Mapping[str, str]]) -> bool:
    inside = False
    for event in sorted(events, key=lambda event: _version(next(iter(event.values())))):
        (what, at), *_ = event.items()
        if what == "introduced" and version >= _version(at):
            inside = True
        elif (what == "fixed" and version >= _version(at)) or (what == "last_affected" and version > _version(at)):
            inside = False
    return inside


def _version(text: str) -> Version:
    try:
        return Version(text)
    except InvalidVersion:  # of before there was a form for them
        return Version("0")


def by_index(command: Sequence[str]) -> int:
    """Have a command look, which prints what it finds and nothing else to standard output; the exit code."""
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)  # noqa: S603  (of the Makefile)
    sys.stdout.write(done.stdout)
    if not done.returncode:
        return CLEAN
    if done.stdout.strip():
        return FOUND
    sys.stderr.write(NOT_LOOKED_UP)
    return CANNOT


def main(arguments: Sequence[str]) -> int:
    """Look, and tell; the exit code."""
    if arguments[:1] == ["--index"] and len(arguments) > 1:
        return by_index(arguments[1:])
    if len(arguments) != 1:
        sys.stderr.write("audit: name the folder of advisories: make audit ADVISORIES=FOLDER\n")
        return CANNOT
    files = [file for file in sorted(Path(arguments[0]).rglob("*")) if file.suffix in (".yaml", ".yml", ".json")]
    versions = locked()
    if not files or not versions:
        sys.stderr.write(f"audit: {arguments[0]}: no advisories there; see docs/operations.md\n")
        return CANNOT
    found = list(dict.fromkeys(findings(versions, files)))
    for one in found:
        sys.stdout.write(f"{one.name} {one.version}  {one.advisory}  {one.summary}\n")
    sys.stdout.write(f"{len(versions)} projects, {len(files)} advisories, {len(found)} findings\n")
    return FOUND if found else CLEAN


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
