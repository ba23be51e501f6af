"""Commits a large document and small ones behind it, and dies at another step of the checkpoint beside them each time.

    python checkpointer.py URL FOLDER

Prints, after each process, what is there: a JSON object a line.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from runtimestore_server.store import tables
from runtimestore_server.store.engines import Database, checkpoints, open_database
from runtimestore_server.store.engines.sqlite import SqliteDatabase
from runtimestore_server.store.values import Outcome, RuntimeKey
from runtimestore_server.store.writes import Write
from support.faults.killed_processes import kill_one_after_the_other
from support.generators.store_writes import commit, document, rows

LARGE_BYTES = checkpoints.LARGE_COMMIT_BYTES
LARGE, LARGE_ID = RuntimeKey("large", "rt:large"), "019e4f8e-8200-7daf-ae78-9e6aa1b965f4"
"""The one input that is written anew by each process: the file need not grow."""
BEFORE, BROUGHT, SYNCED, ENDED = range(4)
"""What the process dies at: it has not begun, SQLite has done its part, the file is synced, it has come to its end."""
DIES_AT_COMMIT = 6
"""The last processes die at one of these commits, wherever the checkpoint is then; the very last one does not."""
WAIT_SECONDS = 60


def _die(*_: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _small(number: int) -> Write:
    return Write(RuntimeKey("small", f"rt:{number}"), runtime_state="idle")


def work(url: str, acknowledged: Path, step: int) -> None:
    """Commit, and write down what was acknowledged; die at a step."""
    database = open_database(url, committer_threads=1, reader_threads=1)
    assert isinstance(database, SqliteDatabase)
    bring, sync = SqliteDatabase._bring_log, database._identity.sync

    def brought(self: SqliteDatabase) -> None:
        if step == BEFORE:
            _die()
        bring(self)
        if step == SYNCED:
            _die()

    database._checkpoints._beside._bring = lambda: brought(database)  # type: ignore[union-attr]
    database._identity.sync = _die if step == BROUGHT else sync  # type: ignore[method-assign]
    large = document(input_id=LARGE_ID)._replace(state_json=bytes([step]) * LARGE_BYTES, sha256=bytes([step]) * 32)
    with acknowledged.open("a", buffering=1) as told:
        (outcome,) = commit(database, Write(LARGE, inputs=(large,)))
        assert isinstance(outcome, Outcome)
        told.write("large\n")
        for number in range(DIES_AT_COMMIT):
            if step == ENDED + 1 + number:
                _die()
            assert commit(database, _small(100 * step + number)) == [Outcome(1)]
            told.write("small\n")
        database._checkpoints.wait(WAIT_SECONDS)
        if step == ENDED:
            _die()
        assert commit(database, _small(100 * step + DIES_AT_COMMIT)) == [Outcome(1)]
        told.write("small\n")
    database.dispose()


def found(database: Database, acknowledged: Path) -> dict[str, object]:
    """How much was acknowledged, how much is there, and what SQLite says of its file."""
    words = acknowledged.read_text().split()
    runtimes = rows(database, tables.runtimes)
    (large,) = [row["revision"] for row in runtimes if row["realm"] == LARGE.realm]
    (document_of_it,) = [row["state_json"] for row in rows(database, tables.inputs)]
    with database.readers.connect() as connection:
        checked = connection.exec_driver_sql("PRAGMA integrity_check").scalars().all()
    return {
        "lost": [max(0, words.count("large") - large), max(0, 1 + words.count("small") - len(runtimes))],
        "whole": document_of_it == document_of_it[:1] * LARGE_BYTES,
        "checked": checked,
    }


def look(url: str, acknowledged: Path) -> dict[str, object]:
    """The same, of a database that is opened anew."""
    database = open_database(url, committer_threads=1, reader_threads=1)
    try:
        return found(database, acknowledged)
    finally:
        database.dispose()


def main(url: str, folder: str) -> None:
    """Die at every step, one process after the other."""
    acknowledged = Path(folder) / "acknowledged"
    steps = range(ENDED + 1 + DIES_AT_COMMIT + 1)
    kill_one_after_the_other(steps, lambda step: work(url, acknowledged, step), lambda: look(url, acknowledged))


if __name__ == "__main__":
    main(*sys.argv[1:])
