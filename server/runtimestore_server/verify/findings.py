"""Collects what a verification finds into its report."""

from __future__ import annotations

import enum
import json
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
        """Return the finding as the report shows it."""
        return {
            "severity": self.severity.value,
            "kind": self.kind,
            "table": self.table,
            "key": self.key,
            "description": self.description,
        }

    def line(self) -> str:
        """Return the finding in one line for people."""
        key = ", ".join(f"{name} {_quoted(value)}" for name, value in self.key.items())
        where = (self.table or "the database") + (f" ({key})" if key else "")
        return f"{self.severity.value}: {where}: {printable(self.description)} [{self.kind}]"


def printable(text: str) -> str:
    """Escape, as in JSON, all in a text that moves a terminal's cursor, turns its text around or is not seen.

    Ids are any text: a newline or an escape sequence in one must not pass for a line of the store's own.
    """
    return "".join(character if character.isprintable() else json.dumps(character)[1:-1] for character in text)


def _quoted(value: str) -> str:
    """Return a value as it is, if it is plain; else as a JSON string that no terminal takes for more than text."""
    if value.isascii() and all(character.isalnum() or character in "-_.:/@+" for character in value) and value:
        return value
    return printable(json.dumps(value, ensure_ascii=False))


@dataclass(slots=True)
class Report:
    """The outcome of a whole verification, but for the findings: there may be more of them than memory holds."""

    engine: str
    schema_revision: str = ""
    rows: dict[str, int] = field(default_factory=dict)
    errors: int = 0
    warnings: int = 0
    seconds: float = 0.0
    complete: bool = True
    """False if it was interrupted, or damage kept it from going on: then it tells what was found until then."""
    interrupted: bool = False
    """Whether somebody interrupted it."""
    store: str = ""
    """Which store it is of, as operators name it: by its file, or its host and database."""

    def count(self, finding: Finding) -> None:
        """Count one more finding."""
        if finding.severity is Severity.ERROR:
            self.errors += 1
        else:
            self.warnings += 1

    def as_json(self) -> dict[str, Any]:
        """Return the report as `--json` prints it; its findings come last."""
        return {
            "store": self.store,
            "engine": self.engine,
            "schema_revision": self.schema_revision,
            "complete": self.complete,
            "seconds": round(self.seconds, 3),
            "rows": self.rows,
            "errors": self.errors,
            "warnings": self.warnings,
        }

    def summary(self) -> str:
        """Return the report in one line for people."""
        verdict = f"{self.errors} errors, {self.warnings} warnings" if self.errors or self.warnings else "nothing wrong"
        until = "" if self.complete else "interrupted after " if self.interrupted else "stopped after "
        of = f"{printable(self.store)}: " if self.store else ""
        return f"{of}{until}{sum(self.rows.values())} rows in {len(self.rows)} tables: {verdict} ({self.seconds:.1f} s)"
