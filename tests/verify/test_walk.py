"""How `verify` goes through a store: one moment while others write, every table, and a report of all that it saw."""

from __future__ import annotations

import asyncio
import itertools
import json
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa

from runtimestore import RuntimeState
from runtimestore_server.store import tables
from support.checkers.verified import OF, RUNTIME, SESSION_OF, Told, fill, verified
from support.generators.calls import Store, id_of, input_of
from support.generators.documents import receipt, session
from support.servers.database import change, execute, flip_a_byte, rows
from support.servers.engines import DURABLE, UNTYPED_COLUMNS

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

pytestmark = pytest.mark.needs(DURABLE)

EVERY_ROWS = 32
WRITE_SECONDS = 60


class _AmidWrites(Told):
    """Goes on from table to table, and within one, only when more has been written."""

    def __init__(self, write: Callable[[], Awaitable[None]]) -> None:
        super().__init__()
        self._write = write
        self._loop = asyncio.get_running_loop()

    def begin(self, table: str, rows: int) -> None:
        super().begin(table, rows)
        self._let_them_write()

    def advance(self, rows: int) -> None:
        super().advance(rows)
        if not self.advanced[self._table] % EVERY_ROWS:
            self._let_them_write()

    def _let_them_write(self) -> None:
        async def write() -> None:
            await self._write()

        asyncio.run_coroutine_threadsafe(write(), self._loop).result(WRITE_SECONDS)


async def test_it_sees_one_moment_while_a_server_writes(serve: Any) -> None:
    async with serve() as app, Store(app.address) as store:
        numbers = itertools.count()

        async def write(name: str) -> None:
            number = next(numbers)
            state = input_of(f"{number}", f"input {number}")
            proof = receipt(contributing=(state.input_id,))
            messages = [{"role": "user"}] * (number % 7)
            body = session(session_id=id_of(f"session of {name}"), messages=messages)
            await store.atomic_apply(name, body, proof, [state])

        async def write_to_all() -> None:
            await asyncio.gather(*(write(f"rt:{number}") for number in range(16)))

        await write_to_all()
        for _ in range(2):  # the second sees what was written during the first
            told = await verified(app, _AmidWrites(write_to_all))
            assert told.findings == []
            assert len({told.rows[table] for table in ("inputs", "receipts", "requests")}) == 1  # each write adds one


class _Impatient(Told):
    def begin(self, table: str, rows: int) -> None:
        super().begin(table, rows)
        if table == "inputs":
            raise KeyboardInterrupt


async def test_interrupted_it_tells_what_it_has_found_until_then(serve: Any) -> None:
    async with serve() as app, Store(app.address) as store:
        await fill(store)
        await flip_a_byte(app, tables.session_versions.c.body, **OF)

        told = await verified(app, _Impatient())

    report = told.report
    assert report is not None
    assert not report.complete
    assert [found.table for found in told.findings] == ["session_versions"]
    assert (report.as_json()["complete"], report.errors) == (False, 1)
    assert report.summary().startswith("interrupted after ")


async def test_it_counts_the_rows_of_every_table_and_tells_how_far_it_is(serve: Any) -> None:
    async with serve() as app, Store(app.address) as store:
        await fill(store)
        for number in range(600):  # more than are held at once
            await store.acquire_runtime(f"rt:{number}", "somebody")

        told = await verified(app)

        stored = {
            table.name: len(await rows(app, table))
            for table in tables.metadata.sorted_tables
            if table is not tables.store_identity
        }
    assert told.rows == told.begun == told.advanced == stored
    assert min(stored.values()) > 0


async def test_the_report_says_all_of_it_and_quotes_no_document(serve: Any) -> None:
    async with serve() as app, Store(app.address) as store:
        await fill(store)
        await store.persist_auth_oauth_flow_snapshot(b"pkce-verifier")
        await flip_a_byte(app, tables.oauth_flow_snapshots.c.snapshot_json, realm="default")

        told = await verified(app)

    assert told.report is not None
    (found,) = told.findings
    assert found.as_json()["key"] == {"realm": "default"}
    written = json.loads(json.dumps(told.report.as_json()))
    assert (written["complete"], written["errors"], written["warnings"]) == (True, 1, 0)
    assert written["rows"]["runtimes"] == 2
    assert "verifier" not in json.dumps([written, found.as_json()]) + found.line() + told.report.summary()


async def test_every_damaged_row_of_a_table_is_told(serve: Any) -> None:
    async with serve() as app, Store(app.address) as store:
        states = [input_of("a", f"input {number}") for number in range(40)]  # more than are held at once
        await store.commit_machine_lifecycle(RUNTIME, RuntimeState.IDLE, states)
        for state in states[::3]:
            await flip_a_byte(app, tables.inputs.c.state_json, **OF, input_id=state.input_id)

        told = await verified(app)

    assert sorted(found.key["input_id"] for found in told.findings) == sorted(state.input_id for state in states[::3])
    assert {found.kind for found in told.findings} == {"digest_mismatch"}


async def test_a_table_that_is_gone_is_a_finding_and_the_rest_is_looked_at(serve: Any) -> None:
    async with serve() as app, Store(app.address) as store:
        await fill(store)
        await execute(app, "ALTER TABLE fences RENAME TO others")
        await flip_a_byte(app, tables.receipts.c.receipt, **OF)

        told = await verified(app)

    assert {(found.kind, found.table) for found in told.findings} == {
        ("engine_damage", "fences"),
        ("engine_damage", ""),  # what is asked of requests and fences together
        ("digest_mismatch", "receipts"),
    }
    assert told.report is not None
    assert told.report.complete


@pytest.mark.needs(UNTYPED_COLUMNS)
async def test_bad_text_in_a_column_is_a_finding_and_the_rest_is_looked_at(serve: Any) -> None:
    bad = sa.cast(sa.literal(b"\xffA", sa.LargeBinary), sa.Text)
    async with serve() as app, Store(app.address) as store:
        await fill(store)
        await change(app, tables.sessions, {"runtime_id": bad}, **SESSION_OF)
        numbers: dict[str, Any] = {
            "total_tokens": sa.literal_column("'many'"),
            "created_at_ms": sa.literal_column("1.5"),
        }
        await change(app, tables.sessions, numbers, realm="default", session_id=id_of("session of rt:neighbour"))
        await change(app, tables.fences, {"owner": bad}, realm="default", runtime_id="rt:acquired")
        await store.acquire_runtime("rt:later", "somebody")
        never: dict[str, Any] = {"acquired_at_ms": sa.literal_column("'soon'")}
        await change(app, tables.fences, never, realm="default", runtime_id="rt:later")
        await flip_a_byte(app, tables.oauth_flow_snapshots.c.snapshot_json, realm="default")

        told = await verified(app)

    assert sorted((found.kind, found.table) for found in told.findings) == [
        ("column_mismatch", "fences"),
        ("column_mismatch", "fences"),
        ("column_mismatch", "sessions"),
        ("digest_mismatch", "oauth_flow_snapshots"),
        ("no_runtime", "sessions"),
        ("projection_mismatch", "sessions"),
    ]
    for found in told.findings:
        json.dumps(found.as_json()).encode("ascii")
        found.line().encode()
