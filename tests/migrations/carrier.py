"""Upgrades a database in forked processes, each of which kills itself at another statement.

    python carrier.py URL

Each carries a session a slice. Prints, after each process, where the sessions are: a JSON object a line.
"""

from __future__ import annotations

import json
import os
import signal
import sys

import sqlalchemy as sa
from alembic import command as _command  # noqa: F401  (loaded once, before processes are forked)
from sqlalchemy import event

from runtimestore_migrations import carrying
from runtimestore_server.store.engines import open_database
from runtimestore_server.store.schema import inspect, upgrade_database

STEPS = (2, 7, 11, 14, *range(7, 60, 2))
"""Before which statement each dies; first in the step that makes the tables, then in slices."""


def upgrade(url: str, step: int) -> None:
    """Upgrade, but die before the statement with this number."""
    carrying.SLICE_BYTES = 1
    database = open_database(url, committer_threads=1, reader_threads=1)
    steps = 0

    def die(*_: object) -> None:
        nonlocal steps
        steps += 1
        if steps == step:
            os.kill(os.getpid(), signal.SIGKILL)

    event.listen(database.writers, "before_cursor_execute", die)
    event.listen(database.writers, "commit", die)
    upgrade_database(database)
    database.dispose()


def found(url: str) -> dict[str, object]:
    """The revision, and which runtimes' sessions are in which table."""
    database = open_database(url, committer_threads=1, reader_threads=1)
    with database.readers.connect() as connection:
        names = sa.inspect(connection).get_table_names()
        told: dict[str, object] = {"revision": inspect(connection).revision}
        for name in ("session_snapshots", carrying.FORMER, "session_versions"):
            if name in names:
                told[name] = sorted(
                    connection.execute(sa.select(sa.column("runtime_id")).select_from(sa.table(name))).scalars()
                )
    database.dispose()
    return told


def main(url: str) -> None:
    """Kill one process after the other, until one comes through."""
    for step in STEPS:
        child = os.fork()
        if child == 0:
            upgrade(url, step)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        killed = os.WIFSIGNALED(status)
        if not killed and os.waitstatus_to_exitcode(status) != 0:
            raise SystemExit("a process failed")
        reader, writer = os.pipe()
        child = os.fork()  # SQLite must not be opened here: a fork would inherit it
        if child == 0:
            os.write(writer, json.dumps(found(url)).encode())
            os._exit(0)
        os.close(writer)
        with os.fdopen(reader) as answer:
            print(answer.read(), flush=True)  # noqa: T201  (the answer)
        os.waitpid(child, 0)
        if not killed:
            return


if __name__ == "__main__":
    main(*sys.argv[1:])
