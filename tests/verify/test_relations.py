"""What `verify` can know of rows together, and what not: sessions that move between runtimes, inputs of receipts."""

from __future__ import annotations

from typing import Any

import pytest
import sqlalchemy as sa

from runtimestore_server.store import tables
from runtimestore_server.store.engines import Fault, open_to_read
from runtimestore_server.verify import Severity
from runtimestore_server.verify.relations import KEYS_AT_ONCE
from support.checkers.verified import RUNTIME, verified
from support.generators.calls import Store, id_of, input_of
from support.generators.documents import new_id, receipt, session
from support.servers.database import change, delete
from support.servers.engines import DURABLE
from support.servers.server import in_process

pytestmark = pytest.mark.needs(DURABLE)


async def test_a_session_that_moved_on_to_another_runtime_is_no_damage(serve: Any) -> None:
    async with serve() as app, Store(app.address) as store:
        body = session("text", session_id=id_of("moving"))
        await store.commit_session_snapshot("rt:first", body)
        await store.commit_session_snapshot("rt:second", body)
        await store.commit_session_snapshot("rt:second", session("another"))
        await store.commit_session_snapshot("rt:third", body)

        assert (await verified(app)).findings == []


async def test_a_store_that_nobody_damaged_has_no_error_wherever_its_sessions_moved(serve: Any) -> None:
    async with serve() as app, Store(app.address) as store:
        first = session("text", session_id=id_of("X"))
        await store.commit_session_snapshot("rt:A", first)
        await store.commit_session_snapshot("rt:B", first)
        await store.commit_session_snapshot("rt:B", session("text", session_id=id_of("Y")))

        (found,) = (await verified(app)).findings

    # The list names rt:B for session X, which no snapshot confirms: a changed row would look the same.
    assert (found.kind, found.table, found.severity) == ("projection_mismatch", "sessions", Severity.WARNING)
    assert found.key == {"realm": "default", "session_id": id_of("X")}


@pytest.mark.parametrize(
    ("runtime_id", "kind", "severity"),
    [
        ("rt:neighbour", "projection_mismatch", Severity.WARNING),  # it may have had the session before its own
        ("rt:without a session", "no_snapshot", Severity.ERROR),
        ("rt:nobody", "no_runtime", Severity.ERROR),
    ],
)
async def test_a_session_that_is_listed_under_another_runtime_is_told_as_surely_as_it_can_be_known(
    serve: Any, runtime_id: str, kind: str, severity: Severity
) -> None:
    async with serve() as app, Store(app.address) as store:
        await store.commit_session_snapshot(RUNTIME, session("text", session_id=id_of("listed")))
        await store.commit_session_snapshot("rt:neighbour", session("text"))
        await store.persist_input_state("rt:without a session", input_of("a"))
        await change(app, tables.sessions, {"runtime_id": runtime_id}, realm="default", session_id=id_of("listed"))

        (found,) = (await verified(app)).findings

    assert (found.kind, found.table, found.severity) == (kind, "sessions", severity)
    assert found.key["session_id"] == id_of("listed")


async def test_a_receipt_whose_inputs_were_never_stored_is_a_warning(serve: Any) -> None:
    async with serve() as app, Store(app.address) as store:
        lost, there = new_id(), input_of("a")
        await store.atomic_apply(RUNTIME, receipt=receipt(contributing=(there.input_id, lost)), input_updates=[there])

        (found,) = (await verified(app)).findings

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

        (found,) = (await verified(app)).findings

        assert found.kind == "input_missing"
        assert first.input_id in found.description
        assert second.input_id in found.description
        assert there.input_id not in found.description


async def test_the_inputs_of_every_receipt_are_looked_for(serve: Any) -> None:
    async with serve() as app, Store(app.address) as store:
        lost = {}
        for sequence in range(5):
            there = input_of("a", f"there {sequence}")
            await store.persist_input_state(RUNTIME, there)
            proof = receipt(sequence=sequence, contributing=(there.input_id, new_id()))
            await store.atomic_apply(RUNTIME, receipt=proof)
            lost[proof.run_id] = proof.contributing_input_ids[1]
        await store.atomic_apply(RUNTIME, receipt=receipt(contributing=(there.input_id,)))

        findings = (await verified(app)).findings

    assert {found.kind for found in findings} == {"input_missing"}
    told = {run_id: f"names inputs that are not stored: {input_id}" for run_id, input_id in lost.items()}
    assert {found.key["run_id"]: found.description for found in findings} == told


async def test_each_of_very_many_inputs_of_one_receipt_is_looked_for(serve: Any) -> None:
    states = sorted((input_of("a", str(number)) for number in range(3 * KEYS_AT_ONCE + 1)), key=lambda s: s.input_id)
    # The first and the last of what is asked for together, and the last of all.
    lost = [states[number] for number in (0, KEYS_AT_ONCE - 1, KEYS_AT_ONCE, len(states) - 1)]
    async with serve() as app, Store(app.address) as store:
        proof = receipt(contributing=tuple(state.input_id for state in states))
        there = [state for state in states if state not in lost]
        await store.atomic_apply(RUNTIME, receipt=proof, input_updates=there)

        (found,) = (await verified(app)).findings
        named = found.description.removeprefix("names inputs that are not stored: ").split(", ")
        assert named == [state.input_id for state in lost]

        for state in lost:
            await store.persist_input_state(RUNTIME, state)
        assert (await verified(app)).findings == []


async def test_a_runtime_with_more_receipts_than_writes_is_told(serve: Any) -> None:
    async with serve() as app, Store(app.address) as store:
        for _ in range(4):
            await store.atomic_apply(RUNTIME, receipt=receipt(), request_id="")
            await store.atomic_apply("rt:neighbour", receipt=receipt(), request_id="")
        assert (await verified(app)).findings == []
        await change(app, tables.runtimes, {"revision": 3}, realm="default", runtime_id=RUNTIME)

        (found,) = (await verified(app)).findings

    assert (found.kind, found.table, found.key["runtime_id"]) == ("revision_out_of_order", "runtimes", RUNTIME)


async def test_a_remembered_request_of_a_realm_in_which_nothing_is_left_is_told(serve: Any) -> None:
    async with serve() as app, Store(app.address, realm="emptied") as store:
        await store.acquire_runtime(RUNTIME, "somebody")
        await delete(app, tables.fences, realm="emptied", runtime_id=RUNTIME)

        (found,) = (await verified(app)).findings

    assert (found.kind, found.table, found.key["realm"]) == ("revision_out_of_order", "requests", "emptied")


async def test_what_is_opened_to_be_looked_at_takes_no_write(fresh_url: str) -> None:
    async with in_process(fresh_url) as app, Store(app.address) as store:
        await store.persist_input_state(RUNTIME, input_of("a"))

    database = open_to_read(fresh_url)
    with pytest.raises(sa.exc.DBAPIError) as refused, database.snapshot() as tx:
        tx.execute(sa.delete(tables.inputs))
    assert database.classify(refused.value) is Fault.READ_ONLY
    database.dispose()


@pytest.mark.parametrize("runtime_id", ["rt:\u200d", "rt:\u00a0", "rt:\n", "rt:\U0001f469\u200d\U0001f680"])
async def test_a_runtime_with_characters_that_nobody_sees_is_looked_at_like_any_other(
    serve: Any, runtime_id: str
) -> None:
    async with serve() as app, Store(app.address) as store:
        state, body = input_of("a"), session("text", session_id=id_of("seen"))
        proof = receipt(contributing=(state.input_id,))
        await store.atomic_apply(runtime_id, body, proof, [state])
        assert (await verified(app)).findings == []

        await change(app, tables.sessions, {"total_tokens": 1}, realm="default", session_id=id_of("seen"))
        await delete(app, tables.inputs, realm="default", runtime_id=runtime_id)

        assert {found.kind for found in (await verified(app)).findings} == {"projection_mismatch", "input_missing"}
