"""The command `runtimestore verify`: its arguments, its progress, its report and its exit code."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Self

from runtimestore_server.arguments import Parser
from runtimestore_server.verify.findings import Severity

if TYPE_CHECKING:
    from rich.progress import TaskID

    from runtimestore_server.verify.findings import Finding, Report

CLEAN, FOUND, CANNOT, INTERRUPTED = 0, 1, 2, 130

RECURSION_LIMIT = 5000

MANUAL = """\
Look at every row of a store and tell what is not as it was written.

It reads one consistent snapshot, writes nothing, and may run while servers use the same database; memory stays
bounded however large that is. On SQLite the log (-wal) cannot be shortened while it runs, so it grows with what is
written meanwhile; on Postgres it is one long read-only transaction.

what it finds (error, unless it says warning):
  digest_mismatch        a document or receipt does not match the SHA-256 beside it; loads answer STORED_VALUE_CORRUPT
  document_invalid       its SHA-256 is right, but it is no document that the store would have taken
  column_mismatch        a column (session_id, input_id, epoch_id, run_id, ...) is not what the document says, or the
                         store's own id is none
  no_runtime             a row belongs to a runtime that has no row itself
  no_projection          a snapshot without its row in the list of sessions
  no_snapshot            a row in the list of sessions whose runtime has no snapshot
  projection_mismatch    a row in the list of sessions that is not what the snapshot says
  revision_out_of_order  a revision below 1, or a remembered answer that its realm has not reached
  seal_mismatch          a remembered request whose row does not match its seal; a repeat of it answers
                         STORED_VALUE_CORRUPT
  unknown_state          a runtime state that is none of the seven
  engine_damage          the engine says that its own file is damaged (SQLite: PRAGMA integrity_check)
  input_missing          warning: a receipt names inputs that are not stored; a runtime sends them with it, but
                         another client need not

exit code:
  0  nothing is wrong, or only warnings without --strict
  1  something is wrong
  2  it could not look: no such database, another schema, a bad setting
  130  it was interrupted (Ctrl-C); the report tells what was found until then, and is not "complete"
"""
EXAMPLES = """\
examples:
  runtimestore verify --database-url sqlite:///runtimestore.db
  RUNTIMESTORE_DATABASE_URL=postgresql://... runtimestore verify --json > report.json
"""


def main(arguments: list[str]) -> int:
    """Verify the store that the arguments, the environment and the file they name give; the exit code."""
    parser = Parser(
        prog="runtimestore verify",
        description=MANUAL,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--database-url", metavar="URL", help="the store, as for `runtimestore serve` (or RUNTIMESTORE_DATABASE_URL)"
    )
    parser.add_argument("--config", metavar="FILE", help="a TOML file of settings (or RUNTIMESTORE_CONFIG)")
    parser.add_argument("--json", action="store_true", help="print the report as one JSON document, and nothing else")
    parser.add_argument("--report", type=Path, metavar="FILE", help="write the report as JSON into FILE, too")
    parser.add_argument("--strict", action="store_true", help="exit with 1 for warnings as well")
    parsed = parser.parse_args(arguments)

    from runtimestore_server import log
    from runtimestore_server.settings import from_command_line
    from runtimestore_server.store.engines import missing_file, open_database
    from runtimestore_server.store.schema import SchemaNotCurrent
    from runtimestore_server.verify.walk import verify

    given = [(flag, getattr(parsed, flag)) for flag in ("database_url", "config")]
    flags = [part for flag, value in given if value for part in (f"--{flag.replace('_', '-')}", value)]
    settings = from_command_line(flags, command="verify", description=MANUAL)
    log.configure(level=settings.log_level, style=settings.log_format)
    url = settings.database_url.get_secret_value()
    if url == "memory:":
        return _cannot("memory: is gone with its server; there is nothing to verify")
    if missing := missing_file(url):
        return _cannot(f"there is no file {missing}; see --database-url")
    if parsed.report is not None and (problem := _unwritable(parsed.report)):
        return _cannot(problem)  # now, and not after hours
    database = open_database(url, committer_threads=1, reader_threads=1)
    # What a server could read, however deep it nests, is read here too.
    sys.setrecursionlimit(max(sys.getrecursionlimit(), RECURSION_LIMIT))
    try:
        with _Shown(findings=not parsed.json) as shown:
            report = verify(database, shown)
    except SchemaNotCurrent as error:
        return _cannot(str(error))
    finally:
        database.dispose()
    return _told(report, as_json=parsed.json, file=parsed.report, strict=parsed.strict)


def _told(report: Report, *, as_json: bool, file: Path | None, strict: bool) -> int:
    document = json.dumps(report.as_json(), indent=2) + "\n"
    sys.stdout.write(document if as_json else report.summary() + "\n")
    if file is not None:
        try:
            file.write_text(document, encoding="utf-8")
        except OSError as error:
            return _cannot(f"--report {file}: {error.strerror}")
    if not report.complete:
        return INTERRUPTED
    wrong = report.findings if strict else [f for f in report.findings if f.severity is Severity.ERROR]
    return FOUND if wrong else CLEAN


def _unwritable(file: Path) -> str | None:
    try:
        file.open("a", encoding="utf-8").close()
    except OSError as error:
        return f"--report {file}: {error.strerror}"
    return None


def _cannot(sentence: str) -> int:
    sys.stderr.write(f"runtimestore: {sentence}\n")
    return CANNOT


class _Shown:
    """A bar on standard error, if that is a terminal, and a line on standard output for each finding."""

    def __init__(self, *, findings: bool) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        console = Console(stderr=True)
        self._findings = findings
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=console,
            disable=not console.is_terminal,
            redirect_stdout=False,
        )
        self._task: TaskID | None = None

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def begin(self, table: str, rows: int) -> None:
        """A table is begun."""
        self._task = self._progress.add_task(table, total=rows)

    def advance(self, rows: int) -> None:
        """So many more rows of it are done."""
        if self._task is not None:
            self._progress.advance(self._task, rows)

    def found(self, finding: Finding) -> None:
        """Something is wrong."""
        if self._findings:
            sys.stdout.write(finding.line() + "\n")
