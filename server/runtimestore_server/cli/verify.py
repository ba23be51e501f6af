"""`runtimestore verify`: look at every row of a store and tell what is not as it was written."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from runtimestore_server.cli.flags import SOURCES, takes_settings
from runtimestore_server.cli.introduction import warn_of_near_misses
from runtimestore_server.cli.refusals import CANNOT, INTERRUPTED, Refused, refusing

if TYPE_CHECKING:
    from runtimestore_server.settings import Settings

CLEAN, FOUND = 0, 1

MANUAL = """\
Look at every row of a store and tell what is not as it was written.

It reads one consistent snapshot, writes nothing into the database, and may run while servers use it; memory stays
bounded however large that is and however much is found (--json and --report keep findings in a temporary file until
the end). On SQLite the log (-wal) cannot be shortened while it runs, so it grows with what is written meanwhile; on
Postgres it is one long read-only transaction. In a line, whatever is unprintable in an id is escaped as in JSON.

\b
what it finds (error, unless it says warning):
  digest_mismatch        a document or receipt does not match the SHA-256 beside it, or the revision or version in its
                         row the seal behind that; loads answer STORED_VALUE_CORRUPT
  document_invalid       its SHA-256 is right, but it is no document that the store would have taken
  column_mismatch        a column (session_id, input_id, epoch_id, run_id, ...) is not what the document says, a number
                         is none that the store writes, or the store's own id is none
  no_runtime             a row belongs to a runtime that has no row itself
  no_projection          a snapshot without its row in the list of sessions
  version_missing        a version of a session, or the newest one, is not the one that another row names
  no_snapshot            a row in the list of sessions whose runtime has no snapshot
  projection_mismatch    a row in the list of sessions that is not what the snapshot says; warning: it names a runtime
                         whose snapshot is of another session, and which may once have had this one
  revision_out_of_order  a revision below 1, below the number of its receipts or below that of its session, or a
                         remembered answer that its realm has not reached
  seal_mismatch          a remembered request whose row does not match its seal; a repeat of it answers
                         STORED_VALUE_CORRUPT
  unknown_state          a runtime state that is none of the seven
  engine_damage          the engine says that its own file is damaged (SQLite: PRAGMA integrity_check), cannot read it,
                         or hands out fewer rows than it counts: restore a backup
  input_missing          warning: a receipt names inputs that are not stored; a runtime sends them with it, but
                         another client need not. Where only runtimes write, use --strict: an input was lost

\b
exit code:
  0  nothing is wrong, or only warnings without --strict
  1  something is wrong; if so much is damaged that the rest could not be looked at, the report is not "complete"
  2  it could not look, or not tell: no such database, another schema, a bad setting, an output that takes no more
  130  it was interrupted (Ctrl-C); the report tells what was found until then, and is not "complete"
"""
EXAMPLES = """\
\b
examples:
  runtimestore verify --database-url sqlite:///runtimestore.db
  RUNTIMESTORE_DATABASE_URL=postgresql://... runtimestore verify --json > report.json
"""


@click.command(help=MANUAL, epilog=EXAMPLES + "\n" + SOURCES)
@takes_settings("database_url", "config")
@click.option("--json", "as_json", is_flag=True, help="Print the report as one JSON document, and nothing else.")
@click.option(
    "--report",
    type=click.Path(path_type=Path, readable=False),
    metavar="FILE",
    help="Write the report as JSON into FILE, too.",
)
@click.option("--strict", is_flag=True, help="Exit with 1 for warnings as well.")
def command(settings: Settings, *, as_json: bool, report: Path | None, strict: bool) -> int:
    """Verify the store that the settings name; the exit code."""
    from runtimestore_server.cli.verify_output import CannotTell, Output
    from runtimestore_server.store.engines import ChangedMeanwhile, open_to_read, problem_of_file
    from runtimestore_server.store.engines.naming import describe
    from runtimestore_server.store.schema import SchemaNotCurrent
    from runtimestore_server.verify.findings import printable
    from runtimestore_server.verify.walk import verify

    url = settings.database_url.get_secret_value()
    if url == "memory:":
        raise _cannot("memory: is gone with its server; there is nothing to verify")
    if problem := problem_of_file(url):
        raise _cannot(problem)
    if sys.stdout is None:
        raise _cannot("standard output is closed")
    if report is not None and (problem := _unwritable(report)):
        raise _cannot(problem)  # now, and not after hours
    warn_of_near_misses(settings)
    if sys.stderr is not None and sys.stderr.isatty():  # a script reads one line, of what is wrong
        sys.stderr.write(f"runtimestore: verifying {printable(describe(url))}\n")
    # What a server could read, however deep it nests, is read here too.
    sys.setrecursionlimit(max(sys.getrecursionlimit(), 5000))
    with refusing(ValueError, code=CANNOT):
        database = open_to_read(url)
    with refusing(code=CANNOT), Output(as_json=as_json, file=report) as output:
        try:
            found = verify(database, output)
            found.store = describe(url)
        except (SchemaNotCurrent, ChangedMeanwhile, CannotTell) as error:
            raise _cannot(str(error)) from None
        finally:
            database.dispose()
        try:
            output.finish(found)
        except CannotTell as error:
            raise _cannot(str(error)) from None
    if found.interrupted:
        return INTERRUPTED
    return FOUND if found.errors or (strict and found.warnings) else CLEAN


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


def _cannot(sentence: str) -> Refused:
    from runtimestore_server.verify.findings import printable

    return Refused(printable(sentence), code=CANNOT)
