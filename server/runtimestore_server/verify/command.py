"""The command `runtimestore verify`: its arguments, its progress, its report and its exit code."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from runtimestore_server.arguments import Parser
from runtimestore_server.verify.findings import printable
from runtimestore_server.verify.output import CannotTell, Output

if TYPE_CHECKING:
    from runtimestore_server.verify.findings import Report

CLEAN, FOUND, CANNOT, INTERRUPTED = 0, 1, 2, 130

RECURSION_LIMIT = 5000

MANUAL = """\
Look at every row of a store and tell what is not as it was written.

It reads one consistent snapshot, writes nothing into the database, and may run while servers use it; memory stays
bounded however large that is and however much is found (--json and --report keep findings in a temporary file until
the end). On SQLite the log (-wal) cannot be shortened while it runs, so it grows with what is written meanwhile; on
Postgres it is one long read-only transaction. In a line, whatever is unprintable in an id is escaped as in JSON.

what it finds (error, unless it says warning):
  digest_mismatch        a document or receipt does not match the SHA-256 beside it; loads answer STORED_VALUE_CORRUPT
  document_invalid       its SHA-256 is right, but it is no document that the store would have taken
  column_mismatch        a column (session_id, input_id, epoch_id, run_id, ...) is not what the document says, a number
                         is none that the store writes, or the store's own id is none
  no_runtime             a row belongs to a runtime that has no row itself
  no_projection          a snapshot without its row in the list of sessions
  no_snapshot            a row in the list of sessions whose runtime has no snapshot
  projection_mismatch    a row in the list of sessions that is not what the snapshot says; warning: it names a runtime
                         whose snapshot is of another session, and which may once have had this one
  revision_out_of_order  a revision below 1 or below the number of its receipts, or a remembered answer that its realm
                         has not reached
  seal_mismatch          a remembered request whose row does not match its seal; a repeat of it answers
                         STORED_VALUE_CORRUPT
  unknown_state          a runtime state that is none of the seven
  engine_damage          the engine says that its own file is damaged (SQLite: PRAGMA integrity_check), cannot read it,
                         or hands out fewer rows than it counts: restore a backup
  input_missing          warning: a receipt names inputs that are not stored; a runtime sends them with it, but
                         another client need not. Where only runtimes write, use --strict: an input was lost

exit code:
  0  nothing is wrong, or only warnings without --strict
  1  something is wrong; if so much is damaged that the rest could not be looked at, the report is not "complete"
  2  it could not look, or not tell: no such database, another schema, a bad setting, an output that takes no more
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

    from runtimestore_server import logs
    from runtimestore_server.settings import from_command_line
    from runtimestore_server.store.engines import ChangedMeanwhile, missing_file, open_to_read
    from runtimestore_server.store.schema import SchemaNotCurrent
    from runtimestore_server.verify.walk import verify

    given = [(flag, getattr(parsed, flag)) for flag in ("database_url", "config")]
    flags = [part for flag, value in given if value for part in (f"--{flag.replace('_', '-')}", value)]
    settings = from_command_line(flags, command="verify", description=MANUAL)
    logs.configure(level=settings.log_level, style=settings.log_format)
    url = settings.database_url.get_secret_value()
    if url == "memory:":
        return _cannot("memory: is gone with its server; there is nothing to verify")
    if missing := missing_file(url):
        return _cannot(f"there is no file {missing}; see --database-url")
    if sys.stdout is None:
        return _cannot("standard output is closed")
    if parsed.report is not None and (problem := _unwritable(parsed.report)):
        return _cannot(problem)  # now, and not after hours
    database = open_to_read(url)
    # What a server could read, however deep it nests, is read here too.
    sys.setrecursionlimit(max(sys.getrecursionlimit(), RECURSION_LIMIT))
    with Output(as_json=parsed.json, file=parsed.report) as output:
        try:
            report = verify(database, output)
        except (SchemaNotCurrent, ChangedMeanwhile, CannotTell) as error:
            return _cannot(str(error))
        finally:
            database.dispose()
        return _told(report, output, strict=parsed.strict)


def _told(report: Report, output: Output, *, strict: bool) -> int:
    try:
        output.finish(report)
    except CannotTell as error:
        return _cannot(str(error))
    if report.interrupted:
        return INTERRUPTED
    return FOUND if report.errors or (strict and report.warnings) else CLEAN


def _unwritable(file: Path) -> str | None:
    from runtimestore_server.store.engines import belongs_to_a_database

    if belongs_to_a_database(file):
        return f"--report {file}: would overwrite an SQLite database, or a part of it; name another file"
    try:
        existed = file.exists()
        file.open("a", encoding="utf-8").close()
        if not existed:
            file.unlink()  # until there is something to report
    except OSError as error:
        return f"--report {file}: {error.strerror}"
    return None


def _cannot(sentence: str) -> int:
    sys.stderr.write(f"runtimestore: {printable(sentence)}\n")
    return CANNOT
