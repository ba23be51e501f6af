"""What callers are told when the engine itself fails, and that it harms nothing else."""

from __future__ import annotations

import asyncio
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio
import pytest

from runtimestore import RetryPolicy, StoreUnavailable
from runtimestore.v1 import runtime_store_pb2 as pb
from runtimestore_server.store.values import RuntimeKey
from support.checkers.refusals import WireRefusal, is_refusal, refused
from support.generators.calls import Store, everything, input_of, session_of
from support.generators.documents import new_id, session
from support.generators.requests import LOADS, RUNTIME, WRITES, request_of
from support.servers.database import held_commits
from support.servers.engines import DURABLE

if TYPE_CHECKING:
    from runtimestore.v1 import runtime_store_pb2_grpc
    from runtimestore_server.app import Application
    from support.servers.engines import Engine

    Wire = runtime_store_pb2_grpc.RuntimeStoreAsyncStub


async def _call(wire: Wire, method: str, **changed: Any) -> WireRefusal:
    return await refused(getattr(wire, method)(request_of(method, **changed)))


async def test_a_value_that_the_engine_refuses_fails_alone_and_is_answered_bland(
    app: Application, wire: Wire, store: Store, realm: str, runtime_id: str
) -> None:
    # A table that the server counts on is not as it must be: an error of the engine that no write can cause.
    with app.store.database.writers.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE ops_snapshots RENAME TO elsewhere")
    try:
        with held_commits(app) as go_on:
            calls = [
                wire.PersistOpsLifecycle(request_of("PersistOpsLifecycle", realm=realm, runtime_id=runtime_id)),
                *(
                    wire.PersistInputState(
                        request_of("PersistInputState", realm=realm, runtime_id=f"{runtime_id}/{number}")
                    )
                    for number in range(5)
                ),
            ]
            tasks = [asyncio.ensure_future(_done(call)) for call in calls]
            await asyncio.sleep(0.2)
            go_on.set()
            bad, *good = await asyncio.gather(*tasks, return_exceptions=True)
        assert isinstance(bad, grpc.aio.AioRpcError)
        assert {type(answer) for answer in good} == {pb.PersistInputStateResponse}
        found = await _call(wire, "PersistOpsLifecycle", realm=realm)
        is_refusal(found, grpc.StatusCode.INTERNAL, "INTERNAL", "internal")
        is_refusal(await _call(wire, "LoadOpsLifecycle", realm=realm), grpc.StatusCode.INTERNAL, "INTERNAL", "internal")
    finally:
        with app.store.database.writers.begin() as connection:
            connection.exec_driver_sql("ALTER TABLE elsewhere RENAME TO ops_snapshots")
    assert (await everything(store, runtime_id))["revision"] == 0
    assert await store.persist_input_state(runtime_id, input_of("a")) == (1, False)


async def _done(call: Any) -> Any:
    return await call


@pytest.mark.parametrize("method", WRITES)
async def test_a_store_that_takes_no_writes(
    app: Application, engine: Engine, wire: Wire, realm: str, method: str
) -> None:
    with engine.read_only(app.store.database):
        found = await _call(wire, method, realm=realm)

    is_refusal(found, grpc.StatusCode.FAILED_PRECONDITION, "STORE_READ_ONLY", "write_failed")
    await getattr(wire, method)(request_of(method, realm=realm))


async def test_a_store_that_is_full_refuses_the_write_whole_and_takes_it_when_there_is_room(
    app: Application, engine: Engine, wire: Wire, store: Store, realm: str, runtime_id: str
) -> None:
    request = request_of(
        "AtomicApply",
        realm=realm,
        runtime_id=runtime_id,
        request_id=new_id(),
        session_delta=pb.SessionDelta(session_snapshot=session("a-caller-sent" * 200_000)),
    )
    with engine.full(app.store.database):
        found = await refused(wire.AtomicApply(request))

    is_refusal(found, grpc.StatusCode.RESOURCE_EXHAUSTED, "STORE_FULL", "write_failed")
    assert (await everything(store, runtime_id))["revision"] == 0
    assert not (await wire.AtomicApply(request)).replayed


@pytest.mark.needs(DURABLE)
async def test_an_engine_that_cannot_be_reached(
    app: Application, engine: Engine, wire: Wire, store: Store, realm: str
) -> None:
    with engine.unreachable(app.store.database):
        for method in WRITES:
            found = await _call(wire, method, realm=realm)
            is_refusal(found, grpc.StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE", "write_failed")
            assert found.retry_delay_seconds is not None
            assert found.retry_delay_seconds > 0
        for method in LOADS:
            found = await _call(wire, method, realm=realm)
            is_refusal(found, grpc.StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE", "read_failed")
            assert found.retry_delay_seconds is not None

    # Nothing was committed, and nothing but the engine is needed to go on.
    assert (await everything(store, "rt:session:x"))["revision"] == 0
    for method in reversed(WRITES):  # the update of version 0 comes before the write that makes it 1
        await getattr(wire, method)(request_of(method, realm=realm))


@pytest.mark.needs(DURABLE)
@pytest.mark.parametrize("method", ["CommitSessionSnapshot", "AtomicApply"])
async def test_a_write_whose_edits_cannot_be_looked_up_is_a_write_that_failed(
    app: Application, engine: Engine, wire: Wire, realm: str, method: str
) -> None:
    before, after = session("before"), session("after")
    await wire.CommitSessionSnapshot(
        request_of("CommitSessionSnapshot", realm=realm, session_delta=pb.SessionDelta(session_snapshot=before))
    )
    app.store.recent_sessions.drop(RuntimeKey(realm, RUNTIME["runtime_id"]))
    edits = pb.SnapshotEdits(
        base_sha256=sha256(before).digest(),
        edits=[pb.Edit(end=len(before), replacement=after)],
        sha256=sha256(after).digest(),
    )
    delta = pb.SessionDelta(snapshot_edits=edits)

    with engine.unreachable(app.store.database):
        found = await _call(wire, method, realm=realm, session_delta=delta)

    is_refusal(found, grpc.StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE", "write_failed")
    assert found.retry_delay_seconds is not None
    await getattr(wire, method)(request_of(method, realm=realm, session_delta=delta))


@pytest.mark.needs(DURABLE)
async def test_a_client_outlasts_an_engine_that_is_away_for_a_moment(
    app: Application, engine: Engine, realm: str, runtime_id: str
) -> None:
    patient = RetryPolicy(max_attempts=100, max_backoff_seconds=0.2)
    async with Store(app.address, realm=realm, retry=patient) as store:
        with engine.unreachable(app.store.database):
            writing = asyncio.create_task(store.commit_session_snapshot(runtime_id, session_of("a")))
            reading = asyncio.create_task(store.load_runtime_state(runtime_id))
            await asyncio.sleep(0.3)
            assert not writing.done()
        assert await writing == (1, False)
        assert await reading is None


@pytest.mark.needs(DURABLE)
async def test_a_client_that_may_not_repeat_tells_that_the_engine_is_away(
    app: Application, engine: Engine, realm: str, runtime_id: str
) -> None:
    async with Store(app.address, realm=realm, retry=RetryPolicy(max_attempts=1)) as store:
        with engine.unreachable(app.store.database):
            with pytest.raises(StoreUnavailable) as found:
                await store.persist_input_state(runtime_id, input_of("a"))
            assert found.value.store_error == "write_failed"
            with pytest.raises(StoreUnavailable) as found:
                await store.load_input_states(runtime_id)
            assert found.value.store_error == "read_failed"
