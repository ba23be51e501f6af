"""What is locked is looked up in known vulnerabilities, without a network too; nothing passes for looked up."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from scripts import audit

if TYPE_CHECKING:
    from pathlib import Path

RANGE = {"ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "8.0"}, {"fixed": "8.3"}, {"introduced": "9.0"}]}]}


@pytest.mark.parametrize(
    ("version", "affected", "is_affected"),
    [
        ("7.9", RANGE, False),
        ("8.0", RANGE, True),
        ("8.2.9", RANGE, True),
        ("8.3", RANGE, False),
        ("9.1", RANGE, True),
        ("8.10", {"ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"last_affected": "8.9"}]}]}, False),
        ("8.9", {"ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"last_affected": "8.9"}]}]}, True),
        ("8.1", {"ranges": [{"type": "GIT", "events": [{"introduced": "0"}]}]}, False),
        ("8.1", {"versions": ["8.0", "8.1"]}, True),
        ("8.2", {"versions": ["8.0", "8.1"]}, False),
    ],
)
def test_a_version_is_affected_if_it_is_named_or_lies_in_a_range(
    version: str, affected: dict[str, Any], is_affected: bool
) -> None:
    assert audit.is_affected(version, affected) is is_affected


def test_a_locked_version_with_an_advisory_is_found_in_either_form(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    versions = audit.locked()
    of_grpc, of_rich = {"introduced": "0"}, {"versions": sorted(versions["rich"])}
    every = {"ranges": [{"type": "ECOSYSTEM", "events": [of_grpc]}]}
    _write(tmp_path / "a.yaml", "T-1", "GRPCIO", every)
    _write(tmp_path / "below" / "b.json", "T-2", "rich", of_rich)
    _write(tmp_path / "c.yaml", "T-3", "grpcio", every, withdrawn="2026-01-01T00:00:00Z")
    _write(tmp_path / "d.yaml", "T-4", "grpcio", every, ecosystem="npm")
    _write(tmp_path / "e.yaml", "T-5", "structlog-of-somebody-else", every)

    assert audit.main([str(tmp_path)]) == audit.FOUND

    told = capsys.readouterr().out
    assert {line.split("  ")[1] for line in told.splitlines()[:-1]} == {"T-1", "T-2"}
    assert "5 advisories" in told


def test_a_folder_without_advisories_is_not_taken_for_a_clean_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert audit.main([str(tmp_path)]) == audit.CANNOT
    assert audit.main([]) == audit.CANNOT
    assert "no advisories there" in capsys.readouterr().err
    _write(tmp_path / "a.yaml", "T-1", "nothing-that-is-locked", {"versions": ["1"]})
    assert audit.main([str(tmp_path)]) == audit.CLEAN


@pytest.mark.parametrize(
    ("does", "code", "told"),
    [
        ("print('Found nothing', file=sys.stderr)", audit.CLEAN, ""),
        ("print('grpcio 1.0 T-1'); sys.exit(1)", audit.FOUND, ""),
        ("sys.exit('ERROR: alembic could not be audited')", audit.CANNOT, "nothing was looked up"),
        ("raise OSError('no network')", audit.CANNOT, "make audit ADVISORIES=FOLDER"),
    ],
)
def test_an_index_that_says_nothing_of_vulnerabilities_is_told_plainly_and_what_to_do(
    capsys: pytest.CaptureFixture[str], does: str, code: int, told: str
) -> None:
    assert audit.main(["--index", sys.executable, "-c", f"import sys; {does}"]) == code
    found = capsys.readouterr()
    assert told in found.err
    assert ("T-1" in found.out) is (code == audit.FOUND)
    assert (audit.NOT_LOOKED_UP in found.err) is (code == audit.CANNOT)


def _write(file: Path, name: str, package: str, affected: dict[str, Any], **also: str) -> None:
    ecosystem = also.pop("ecosystem", "PyPI")
    found = {
        "id": name,
        "summary": "x",
        "affected": [{"package": {"name": package, "ecosystem": ecosystem}} | affected],
    }
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(found | also) if file.suffix == ".json" else yaml.safe_dump(found | also))
