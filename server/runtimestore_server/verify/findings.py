"""What a verification finds, and its report."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import Any


class Severity(enum.Enum):
    """How sure it is that a finding is damage."""

    ERROR = "error"
    """The store never writes this: something was damaged or changed past it."""
    WARNING = "warning"
    """A client may have written it so, but no runtime does."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong: what kind, in which row, in one sentence. It quotes keys, never a document."""

    kind: str
    table: str
    key: dict[str, str]
    description: str
    severity: Severity = Severity.ERROR

    def as_json(self) -> dict[str, Any]:
        """The finding as the report shows it."""
        return {
            "severity": self.severity.value,
            "kind": self.kind,
            "table": self.table,
            "key": self.key,
            "description": self.description,
        }

    def line(self) -> str:
        """The finding in one line for people."""
        key = ", ".join(f"{name} {value}" for name, value in self.key.items())
        where = (self.table or "the database") + (f" ({key})" if key else "")
        return f"{self.severity.value}: {where}: {self.description} [{self.kind}]"


@dataclass(slots=True)
class Report:
    """The outcome of a whole verification."""

    engine: str
    schema_revision: str
    rows: dict[str, int] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    seconds: float = 0.0
    complete: bool = True
    """False if it was interrupted: then it tells what was found until then."""

    def count(self, severity: Severity) -> int:
        """How many findings there are of a severity."""
        return sum(finding.severity is severity for finding in self.findings)

    def as_json(self) -> dict[str, Any]:
        """The report as `--json` prints it."""
        return {
            "engine": self.engine,
            "schema_revision": self.schema_revision,
            "complete": self.complete,
            "seconds": round(self.seconds, 3),
            "rows": self.rows,
            "errors": self.count(Severity.ERROR),
            "warnings": self.count(Severity.WARNING),
            "findings": [finding.as_json() for finding in self.findings],
        }

    def summary(self) -> str:
        """The report in one line for people."""
        errors, warnings = self.count(Severity.ERROR), self.count(Severity.WARNING)
        verdict = f"{errors} errors, {warnings} warnings" if self.findings else "nothing wrong"
        until = "" if self.complete else "interrupted after "
        return f"{until}{sum(self.rows.values())} rows in {len(self.rows)} tables: {verdict} ({self.seconds:.1f} s)"
