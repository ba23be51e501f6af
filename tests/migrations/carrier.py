"""Upgrades a database in forked processes, each of which kills itself at another statement.

    python carrier.py URL

Each carries a session a slice. Prints, after each process, where the sessions are: a JSON object a line.
"""

from __future__ import annotations

import sys

import sqlalchemy as sa

from runtimestore_migrations import carrying
from runtimestore_server.store.engines import open_database
from runtimestore_server.store.schema import inspect, upgrade_database
from support.faults.killed_processes import die_before, kill_one_after_the_other

STEPS = (2, 7, 11, 14, *range(7, 60, 2))
"""Before which statement each dies; first in the step that makes the tables, then in slices."""


def upgrade(url: str, step: int) -> None:
    """Upgrade, but die before the statement with this number."""
    carrying.SLICE_BYTES = 1
    database = open_database(url, committer_threads=1, reader_threads=1)
    die_before(database.writers, step)
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
    kill_one_after_the_other(STEPS, lambda step: upgrade(url, step), lambda: found(url))


if __name__ == "__main__":
    main(*sys.argv[1:])
