"""Each column, damaged into what a write might have left: `verify` or a load tells, or it is known why not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa

from runtimestore import RetryPolicy, StoredValueCorrupt, StoreUnavailable
from runtimestore_server.store import tables
from support.checkers.damaged_files import loads
from support.checkers.verified import RUNTIME, fill, verified
from support.generators.calls import Store
from support.generators.documents import new_id
from support.servers.database import change, rows
from support.servers.engines import DURABLE

if TYPE_CHECKING:
    from runtimestore_server.app import Application

pytestmark = pytest.mark.needs(DURABLE)

# "What damage is not noticed" in docs/operations.md says so to operators; decision 0107 says why.
UNNOTICED = {
    tables.runtimes.c.revision: "a count, which every write would have to seal anew",
    tables.runtimes.c.runtime_state: "one of seven words, and no other is believed",
    tables.fences.c.realm: "a fence needs no runtime, and has no seal",
    tables.fences.c.runtime_id: "the same",
    tables.fences.c.fence: "a count",
    tables.fences.c.owner: "any text",
    tables.fences.c.acquired_at_ms: "any time",
    tables.oauth_flow_snapshots.c.realm: "it needs no runtime either",
    tables.store_identity.c.singleton: "nobody asks for it",
    tables.store_identity.c.store_id: "any UUID, of which there is nothing else",
}
COLUMNS = [column for table in tables.metadata.sorted_tables for column in table.columns]
WORDS = {"idle": "running", "base": "edits", "edits": "base", "default": "another"}


def _another(value: Any, column: sa.Column[Any]) -> Any:
    """What else might have been written there."""
    match value:
        case None:
            return 1 if isinstance(column.type, (sa.Integer, tables.UInt64)) else new_id()
        case int():
            return value + 100
        case bytes():
            return value[:-1] + bytes([value[-1] ^ 1])
        case _:
            return WORDS.get(value, value[:-1] + ("0" if value[-1] != "0" else "1"))


async def _is_told(app: Application, store: Store) -> bool:
    if (await verified(app)).findings:
        return True
    for load in loads(store, RUNTIME).values():
        try:
            await load()
        except (StoredValueCorrupt, StoreUnavailable):  # the latter where the file is not the one that was opened
            return True
    return False


async def test_each_column_is_looked_at_by_verify_or_by_a_load_but_for_those_that_are_known(serve: Any) -> None:
    unnoticed = set()
    async with serve() as app, Store(app.address, retry=RetryPolicy(max_attempts=1), known_bytes=0) as store:
        await fill(store)
        assert not await _is_told(app, store)
        for column in COLUMNS:
            table = column.table
            found = await rows(app, table)
            row = next((row for row in found if row.get("runtime_id") == RUNTIME), found[0])
            key = {name: row[name] for name in row if name in table.primary_key.columns}
            damaged = {column.name: _another(row[column.name], column)}
            await change(app, table, damaged, **key)

            if not await _is_told(app, store):
                unnoticed.add(column)
            at = key | damaged if column.primary_key else key
            await change(app, table, {column.name: row[column.name]}, **at)
        assert not await _is_told(app, store)

    assert unnoticed <= set(UNNOTICED)
