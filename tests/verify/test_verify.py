"""`verify` finds damage of each kind, planted past the server, and nothing else."""

from __future__ import annotations

import asyncio
import json
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa

from runtimestore import RuntimeState
from runtimestore_server.store import tables
from runtimestore_server.verify import Finding, Report, Severity, verify
from support.calls import RUNTIME_WRITES, Store, id_of, input_of
from support.database import change, flip_a_byte, rows
from support.documents import new_id, receipt, session
from support.engines import DURABLE, UNTYPED_COLUMNS

if TYPE_CHECKING:
    from collections.abc import Callable

    from runtimestore_server.app import Application

pytestmark = pytest.mark.needs(DURABLE)

RUNTIME = "rt:verify"


class _Silent:
    def begin(self, table: str, rows: int) -> None: ...

    def advance(self, rows: int) -> None: ...

    def found(self, finding: Finding) -> None: ...


async def _verified(app: Application) -> Report:
    return await asyncio.to_thread(verify, app.store.database, _Silent())


async def _filled(store: Store) -> None:
    for name in (RUNTIME, "rt:neighbour"):
        for write in RUNTIME_WRITES:
            await write(store, name, "a" if name == RUNTIME else "b")
        # Each runtime has a session of its own: the helpers give all of them the same.
        await store.commit_session_snapshot(name, session("text", session_id=id_of(f"session of {name}")))
    await store.persist_auth_oauth_flow_snapshot(b"flow", request_id=new_id())
    for _ in range(20):  # more often than anything was written
        await store.acquire_runtime("rt:acquired", "somebody")


async def _insert(app: Application, table: sa.Table, **values: Any) -> None:
    def write() -> None:
        with app.store.database.writers.begin() as connection:
            connection.execute(sa.insert(table).values(**values))

    await asyncio.to_thread(write)


async def _delete(app: Application, table: sa.Table, **key: Any) -> None:
    def write() -> None:
        with app.store.database.writers.begin() as connection:
            statement = sa.delete(table).where(*(table.c[name] == value for name, value in key.items()))
            assert connection.execute(statement).rowcount == 1

    await asyncio.to_thread(write)


async def _moved(app: Application, table: sa.Table, **key: Any) -> None:
    await change(app, table, {"runtime_id": "rt:nobody"}, **key)


async def _changed_document(app: Application, table: sa.Table, column: str, body: bytes, **key: Any) -> None:
    await change(app, table, {column: body, "sha256": sha256(body).digest()}, **key)


OF = {"realm": "default", "runtime_id": RUNTIME}
SESSION_OF = {"realm": "default", "session_id": id_of(f"session of {RUNTIME}")}
INPUT = {**OF, "input_id": input_of("").input_id}
OTHER_SESSION = session("text", session_id=id_of("session of nobody"))

# What is damaged, and the kind, the table and a part of the key of the one finding.
DAMAGE: dict[str, tuple[Callable[[Application], Any], str, str, dict[str, Any]]] = {
    "a snapshot": (
        lambda app: flip_a_byte(app, tables.session_snapshots.c.body, **OF),
        "digest_mismatch",
        "session_snapshots",
        OF,
    ),
    "a digest": (lambda app: flip_a_byte(app, tables.inputs.c.sha256, **INPUT), "digest_mismatch", "inputs", INPUT),
    "a receipt": (lambda app: flip_a_byte(app, tables.receipts.c.receipt, **OF), "digest_mismatch", "receipts", OF),
    "an ops document": (
        lambda app: flip_a_byte(app, tables.ops_snapshots.c.snapshot_json, **OF),
        "digest_mismatch",
        "ops_snapshots",
        OF,
    ),
    "an oauth snapshot": (
        lambda app: flip_a_byte(app, tables.oauth_flow_snapshots.c.snapshot_json, realm="default"),
        "digest_mismatch",
        "oauth_flow_snapshots",
        {"realm": "default"},
    ),
    "no session": (
        lambda app: _changed_document(app, tables.session_snapshots, "body", b"{}", **OF),
        "document_invalid",
        "session_snapshots",
        OF,
    ),
    "no input": (
        lambda app: _changed_document(app, tables.inputs, "state_json", b"[]", **INPUT),
        "document_invalid",
        "inputs",
        INPUT,
    ),
    "no receipt": (
        lambda app: _changed_document(app, tables.receipts, "receipt", b"{}", **OF),
        "document_invalid",
        "receipts",
        OF,
    ),
    "no ops document": (
        lambda app: _changed_document(app, tables.ops_snapshots, "snapshot_json", b"\xff", **OF),
        "document_invalid",
        "ops_snapshots",
        OF,
    ),
    "a session_id": (
        lambda app: change(app, tables.session_snapshots, {"session_id": new_id()}, **OF),
        "column_mismatch",
        "session_snapshots",
        OF,
    ),
    "another session's document": (
        lambda app: _changed_document(app, tables.session_snapshots, "body", OTHER_SESSION, **OF),
        "column_mismatch",
        "session_snapshots",
        OF,
    ),
    "an epoch_id": (
        lambda app: change(app, tables.ops_snapshots, {"epoch_id": new_id()}, **OF),
        "column_mismatch",
        "ops_snapshots",
        OF,
    ),
    "a sequence": (lambda app: change(app, tables.receipts, {"sequence": 7}, **OF), "column_mismatch", "receipts", OF),
    "a runtime without a row": (
        lambda app: _insert(
            app, tables.ops_snapshots, **_ops_row("rt:nobody", b'{"epoch_id": "%s"}' % id_of("epoch").encode())
        ),
        "no_runtime",
        "ops_snapshots",
        {"runtime_id": "rt:nobody"},
    ),
    "a session without a runtime": (
        lambda app: _insert(
            app,
            tables.sessions,
            realm="default",
            session_id=id_of("x"),
            runtime_id="rt:nobody",
            created_at_ms=1,
            updated_at_ms=1,
            message_count=0,
            total_tokens=0,
        ),
        "no_runtime",
        "sessions",
        {"session_id": id_of("x")},
    ),
    "a projection": (
        lambda app: change(app, tables.sessions, {"total_tokens": 1}, **SESSION_OF),
        "projection_mismatch",
        "sessions",
        SESSION_OF,
    ),
    "a projection's runtime": (
        lambda app: change(app, tables.sessions, {"runtime_id": "rt:neighbour"}, **SESSION_OF),
        "projection_mismatch",
        "sessions",
        SESSION_OF,
    ),
    "a session that is not listed": (
        lambda app: change(app, tables.sessions, {"session_id": id_of("y")}, **SESSION_OF),
        "no_projection",
        "session_snapshots",
        OF,
    ),
    "a revision": (
        lambda app: change(app, tables.runtimes, {"revision": 0}, **OF),
        "revision_out_of_order",
        "runtimes",
        OF,
    ),
    "a version": (
        lambda app: change(app, tables.oauth_flow_snapshots, {"version": -1}, realm="default"),
        "revision_out_of_order",
        "oauth_flow_snapshots",
        {"realm": "default"},
    ),
    "a state": (
        lambda app: change(app, tables.runtimes, {"runtime_state": "bogus"}, **OF),
        "unknown_state",
        "runtimes",
        OF,
    ),
    "a remembered answer": (
        lambda app: _insert(app, tables.requests, **_request_row(revision=99)),
        "revision_out_of_order",
        "requests",
        {"request_id": id_of("request")},
    ),
    "a fingerprint": (
        lambda app: _insert(app, tables.requests, **_request_row(fingerprint=b"short")),
        "seal_mismatch",
        "requests",
        {"request_id": id_of("request")},
    ),
    "a seal": (
        lambda app: _insert(app, tables.requests, **_request_row(fingerprint=bytes(48))),
        "seal_mismatch",
        "requests",
        {"request_id": id_of("request")},
    ),
    "an input of no runtime": (
        lambda app: _moved(app, tables.inputs, **INPUT),
        "no_runtime",
        "inputs",
        {"runtime_id": "rt:nobody"},
    ),
    "a receipt of no runtime": (
        lambda app: _moved(app, tables.receipts, **OF),
        "no_runtime",
        "receipts",
        {"runtime_id": "rt:nobody"},
    ),
    "a revision that no write can raise": (
        lambda app: change(app, tables.runtimes, {"revision": 2**63 - 1}, **OF),
        "revision_out_of_order",
        "runtimes",
        OF,
    ),
    "a second identity": (
        lambda app: _insert(app, tables.store_identity, singleton=2, store_id=new_id()),
        "column_mismatch",
        "store_identity",
        {},
    ),
    "a snapshot that is gone": (
        lambda app: _delete(app, tables.session_snapshots, **OF),
        "no_snapshot",
        "sessions",
        SESSION_OF,
    ),
    "the store's id": (
        lambda app: change(app, tables.store_identity, {"store_id": "none"}),
        "column_mismatch",
        "store_identity",
        {},
    ),
    "the store's id that is gone": (
        lambda app: _delete(app, tables.store_identity),
        "column_mismatch",
        "store_identity",
        {},
    ),
    "a fence": (
        lambda app: _insert(
            app, tables.fences, realm="default", runtime_id="rt:fenced", fence=0, owner="o", acquired_at_ms=1
        ),
        "revision_out_of_order",
        "fences",
        {"runtime_id": "rt:fenced"},
    ),
}


def _ops_row(runtime_id: str, body: bytes) -> dict[str, Any]:
    return {
        "realm": "default",
        "runtime_id": runtime_id,
        "epoch_id": id_of("epoch"),
        "sha256": sha256(body).digest(),
        "snapshot_json": body,
    }


def _request_row(*, revision: int = 1, fingerprint: bytes = bytes(32)) -> dict[str, Any]:
    return {
        "realm": "default",
        "request_id": id_of("request"),
        "fingerprint": fingerprint,
        "revision": revision,
        "recorded_at_ms": 1,
    }


@pytest.mark.parametrize("damage", DAMAGE)
async def test_damage_is_found_in_its_row_and_nowhere_else(serve: Any, damage: str) -> None:
    plant, kind, table, key = DAMAGE[damage]
    async with serve() as app, Store(app.address) as store:
        await _filled(store)
        assert (await _verified(app)).findings == []

        await plant(app)

        report = await _verified(app)
        (found,) = report.findings
        assert (found.kind, found.table, found.severity) == (kind, table, Severity.ERROR)
        assert {name: found.key[name] for name in key} == key
        assert report.rows["inputs"] == len(await rows(app, tables.inputs))


@pytest.mark.needs(UNTYPED_COLUMNS)
async def test_bad_text_in_a_column_is_a_finding_and_the_rest_is_looked_at(serve: Any) -> None:
    bad = sa.cast(sa.literal(b"\xffA", sa.LargeBinary), sa.Text)
    async with serve() as app, Store(app.address) as store:
        await _filled(store)
        await change(app, tables.sessions, {"runtime_id": bad}, **SESSION_OF)
        await change(app, tables.fences, {"owner": bad}, realm="default", runtime_id="rt:acquired")
        await flip_a_byte(app, tables.oauth_flow_snapshots.c.snapshot_json, realm="default")

        report = await _verified(app)

    assert {(found.kind, found.table) for found in report.findings} == {
        ("projection_mismatch", "sessions"),
        ("no_runtime", "sessions"),
        ("column_mismatch", "fences"),
        ("digest_mismatch", "oauth_flow_snapshots"),
    }
    assert json.dumps(report.as_json())


async def test_a_receipt_whose_inputs_were_never_stored_is_a_warning(serve: Any) -> None:
    async with serve() as app, Store(app.address) as store:
        lost, there = new_id(), input_of("a")
        await store.atomic_apply(RUNTIME, receipt=receipt(contributing=(there.input_id, lost)), input_updates=[there])

        (found,) = (await _verified(app)).findings

        assert (found.kind, found.table, found.severity) == ("input_missing", "receipts", Severity.WARNING)
        assert lost in found.description
        assert there.input_id not in found.description


async def test_an_input_counts_for_the_receipts_of_its_own_runtime_and_each_one_named_is_looked_for(serve: Any) -> None:
    async with serve() as app, Store(app.address) as store, Store(app.address, realm="another") as elsewhere:
        first, second, there = input_of("a", "first"), input_of("a", "second"), input_of("a", "there")
        for other, runtime_id in ((store, "rt:neighbour"), (elsewhere, RUNTIME)):
            for state in (first, second):
                await other.persist_input_state(runtime_id, state)
        named = (first.input_id, there.input_id, second.input_id)
        await store.atomic_apply(RUNTIME, receipt=receipt(contributing=named), input_updates=[there])

        (found,) = (await _verified(app)).findings

        assert found.kind == "input_missing"
        assert first.input_id in found.description
        assert second.input_id in found.description
        assert there.input_id not in found.description


@pytest.mark.parametrize("runtime_id", ["rt:\u200d", "rt:\u00a0", "rt:\n", "rt:\U0001f469\u200d\U0001f680"])
async def test_a_runtime_with_characters_that_nobody_sees_is_looked_at_like_any_other(
    serve: Any, runtime_id: str
) -> None:
    async with serve() as app, Store(app.address) as store:
        state, body = input_of("a"), session("text", session_id=id_of("seen"))
        proof = receipt(contributing=(state.input_id,))
        await store.atomic_apply(runtime_id, body, proof, [state])
        assert (await _verified(app)).findings == []

        await change(app, tables.sessions, {"total_tokens": 1}, realm="default", session_id=id_of("seen"))
        await _delete(app, tables.inputs, realm="default", runtime_id=runtime_id)

        assert {found.kind for found in (await _verified(app)).findings} == {"projection_mismatch", "input_missing"}


async def test_a_session_that_moved_on_to_another_runtime_is_no_damage(serve: Any) -> None:
    async with serve() as app, Store(app.address) as store:
        body = session("text", session_id=id_of("moving"))
        await store.commit_session_snapshot("rt:first", body)
        await store.commit_session_snapshot("rt:second", body)
        await store.commit_session_snapshot("rt:second", session("another"))
        await store.commit_session_snapshot("rt:third", body)

        assert (await _verified(app)).findings == []


async def test_it_sees_one_moment_while_a_server_writes(serve: Any) -> None:
    async with serve() as app, Store(app.address) as store:
        stop = asyncio.Event()

        async def write(name: str) -> None:
            number = 0
            while not stop.is_set():
                number += 1
                state = input_of(f"{number}", f"input {number}")
                proof = receipt(contributing=(state.input_id,))
                messages = [{"role": "user"}] * (number % 7)
                body = session(session_id=id_of(f"session of {name}"), messages=messages)
                await store.atomic_apply(name, body, proof, [state])

        writing = [asyncio.create_task(write(f"rt:{number}")) for number in range(16)]
        try:
            for _ in range(10):
                assert (await _verified(app)).findings == []
        finally:
            stop.set()
            await asyncio.gather(*writing)


class _Impatient(_Silent):
    def begin(self, table: str, rows: int) -> None:
        del rows
        if table == "inputs":
            raise KeyboardInterrupt


async def test_interrupted_it_tells_what_it_has_found_until_then(serve: Any) -> None:
    async with serve() as app, Store(app.address) as store:
        await _filled(store)
        await flip_a_byte(app, tables.session_snapshots.c.body, **OF)

        report = await asyncio.to_thread(verify, app.store.database, _Impatient())

    assert not report.complete
    assert [found.table for found in report.findings] == ["session_snapshots"]
    assert report.as_json()["complete"] is False
    assert report.summary().startswith("interrupted after ")


async def test_the_report_says_all_of_it_and_quotes_no_document(serve: Any) -> None:
    async with serve() as app, Store(app.address) as store:
        await _filled(store)
        await store.commit_machine_lifecycle(RUNTIME, RuntimeState.IDLE)
        await store.persist_auth_oauth_flow_snapshot(b"pkce-verifier")
        await flip_a_byte(app, tables.oauth_flow_snapshots.c.snapshot_json, realm="default")

        report = await _verified(app)

        written = json.loads(json.dumps(report.as_json()))
        assert (written["complete"], written["errors"], written["warnings"]) == (True, 1, 0)
        assert written["findings"][0]["key"] == {"realm": "default"}
        assert written["rows"]["runtimes"] == 2
        told = json.dumps(written) + report.findings[0].line() + report.summary()
        assert "verifier" not in told
