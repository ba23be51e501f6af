"""The walk through a whole store: one consistent snapshot, rows in key order, a bounded number of them in memory."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING, Protocol

import sqlalchemy as sa

from runtimestore_server.store import reads, schema, tables
from runtimestore_server.store.engines import Fault
from runtimestore_server.verify import relations, rows
from runtimestore_server.verify.findings import Finding, Report
from runtimestore_server.verify.versions import Chains

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sqlalchemy.engine import Connection

    from runtimestore_server.store.engines import Database
    from runtimestore_server.verify.rows import Row

ROWS_AT_ONCE = {
    tables.session_versions: 1,  # each may be as large as a message
    tables.inputs: 16,
    tables.ops_snapshots: 16,
    tables.receipts: 4,  # each may name a hundred thousand inputs
    tables.oauth_flow_snapshots: 16,
}
"""How many rows of a table are held in memory; 500 of those that are small."""

ENGINE_ERRORS = (sa.exc.DBAPIError, UnicodeDecodeError)
"""What a read of damage may raise; the second where the driver cannot even decode what SQLite says of it."""


class Progress(Protocol):
    """Who wants to see how far it is."""

    def begin(self, table: str, rows: int) -> None:
        """Begin a table."""

    def advance(self, rows: int) -> None:
        """Take note that so many more rows of it are done."""

    def found(self, finding: Finding) -> None:
        """Tell of something that is wrong."""


def verify(database: Database, progress: Progress) -> Report:
    """Look at every row of a database whose schema is current. Writes nothing; servers may go on meanwhile.

    `progress` is told each finding as it is made; the report has their number only, so that memory stays bounded.
    Interrupted (Ctrl-C), or where damage keeps it from going on, the report is not complete.

    Raises:
        SchemaNotCurrent: it cannot be verified by this version; the message says what to do.
    """
    started = time.monotonic()
    report = Report(database.name)

    def note(finding: Finding) -> None:
        progress.found(finding)
        report.count(finding)

    try:
        report.schema_revision = schema.check(database).revision or ""
        with database.snapshot() as tx:
            _walk(database, tx, report, note, progress)
    except KeyboardInterrupt:
        report.complete = False
        report.interrupted = True
    except ENGINE_ERRORS as error:
        if not _is_damage(database, error):
            raise
        # So much is damaged that it cannot even be asked for the rest.
        note(_unreadable("", error))
        report.complete = False
    report.seconds = time.monotonic() - started
    return report


def _walk(
    database: Database, tx: Connection, report: Report, note: Callable[[Finding], None], progress: Progress
) -> None:
    with _tolerating(database, tx, note, ""):
        for problem in database.integrity_problems(tx):
            note(Finding("engine_damage", "", {}, problem))
    checks: dict[sa.Table, rows.Check] = {tables.session_versions: Chains(), **rows.CHECKS}
    for table, check in checks.items():
        report.rows[table.name] = 0
        with _tolerating(database, tx, note, table.name):
            counted = tx.execute(sa.select(sa.func.count()).select_from(table)).scalar_one()
            progress.begin(table.name, counted)
            for some in _batches(tx, table):
                for found in _of_batch(database, tx, table, some, check):
                    note(found)
                report.rows[table.name] += len(some)
                progress.advance(len(some))
            if (seen := report.rows[table.name]) != counted:
                # A damaged index leads past rows without an error.
                told = f"the engine counts {counted} rows here, and hands out {seen}"
                note(Finding("engine_damage", table.name, {}, told))
    for relation in relations.OF_ALL:
        with _tolerating(database, tx, note, ""):
            for found in relation(tx):
                note(found)


@contextlib.contextmanager
def _tolerating(database: Database, tx: Connection, note: Callable[[Finding], None], table: str) -> Iterator[None]:
    """Make a finding of what the engine cannot read; the rest is looked at all the same."""
    savepoint = tx.begin_nested()  # an error would else be the end of the whole transaction on Postgres
    try:
        yield
    except ENGINE_ERRORS as error:
        savepoint.rollback()
        # What has the schema of this version, and not its tables, is no store that was left alone.
        if not _is_damage(database, error) and not database.lacks_table(error):
            raise
        note(_unreadable(table, error))
    else:
        savepoint.commit()


def _is_damage(database: Database, error: sa.exc.DBAPIError | UnicodeDecodeError) -> bool:
    return isinstance(error, UnicodeDecodeError) or database.classify(error) is Fault.CORRUPT


def _unreadable(table: str, error: sa.exc.DBAPIError | UnicodeDecodeError) -> Finding:
    text = error.object.decode(errors="replace") if isinstance(error, UnicodeDecodeError) else str(error.orig)
    said = " ".join(text.split())
    return Finding(
        "engine_damage", table, {}, f"the engine cannot read all of what it keeps here ({said}): restore a backup"
    )


def _batches(tx: Connection, table: sa.Table) -> Iterator[list[Row]]:
    at_once = ROWS_AT_ONCE.get(table, 500)
    statement = sa.select(*relations.raw(table)).order_by(*table.primary_key)
    with tx.execute(statement.execution_options(yield_per=at_once)) as found:
        for some in found.mappings().partitions(at_once):
            yield [dict(row) for row in some]


def _of_batch(
    database: Database, tx: Connection, table: sa.Table, some: list[Row], check: rows.Check
) -> Iterator[Finding]:
    sound = []
    for row in some:
        damaged = list(check(row))
        yield from damaged
        if not damaged and _can_be_asked_for(table, row):
            sound.append(row)
    if isinstance(check, Chains):
        for row in sound:
            yield from relations.projection(tx, row, check.document)
    if table is tables.receipts:
        yield from relations.lost_inputs(database, tx, sound)


def _can_be_asked_for(table: sa.Table, row: Row) -> bool:
    """Tell whether the key can be sent to the engine; a damaged one belongs to no runtime, which is told anyway."""
    return all(
        isinstance(row[column.name], int) if isinstance(column.type, sa.Integer) else reads.is_text(row[column.name])
        for column in table.primary_key
    )
