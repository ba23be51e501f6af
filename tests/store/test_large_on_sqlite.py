"""A large document is written to SQLite's log once, within its transaction, and leaves the connection as it was."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from runtimestore_server.store.commit_gate import CommitStop
from runtimestore_server.store.tables import inputs
from runtimestore_server.store.transaction import commit_batch
from runtimestore_server.store.values import Outcome
from runtimestore_server.store.writes import Write
from support.generators.store_writes import document, runtime

if TYPE_CHECKING:
    from runtimestore_server.store.engines import Database

LARGE_BYTES = 40_000_000
"""More than SQLite's cache has room for."""
IO = Path("/proc/self/io")


def _large() -> Write:
    return Write(runtime(), inputs=(document()._replace(state_json=bytes(LARGE_BYTES)),))


def _written_bytes() -> int:
    return int(dict(line.split(": ") for line in IO.read_text().splitlines())["wchar"])


@pytest.mark.skipif(not IO.exists(), reason="only Linux tells what a process wrote")
def test_a_large_document_goes_into_the_log_once(sqlite_database: Database) -> None:
    committed: list[int] = []
    before = _written_bytes()

    decisions, _ = commit_batch(
        sqlite_database,
        [_large()],
        CommitStop().gate(),
        committed=lambda _: committed.append(_written_bytes()),
    )

    assert decisions == [Outcome(1)]
    (after,) = committed
    assert LARGE_BYTES < after - before < 1.2 * LARGE_BYTES


def test_the_next_transaction_of_its_connection_keeps_no_more_in_memory_than_any_other(
    sqlite_database: Database,
) -> None:
    def kept_pages() -> int:
        with sqlite_database.writers.connect() as connection:
            found: int = connection.exec_driver_sql("PRAGMA cache_spill").scalar_one()
        return found

    before = kept_pages()
    for ends in ("commit", "rollback"):
        with sqlite_database.writers.connect() as connection:  # as a fold, after which it is used again
            transaction = connection.begin()
            row = (*runtime(), document().input_id, bytes(32), bytes(LARGE_BYTES))
            sqlite_database.upsert(connection, inputs, [row])
            within = connection.exec_driver_sql("PRAGMA cache_spill").scalar_one()
            getattr(transaction, ends)()

        assert within > before + LARGE_BYTES // 4096
        assert kept_pages() == before
