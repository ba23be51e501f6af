"""Text in a row that is text no more: told to whom it would be told, and no hindrance to anybody else."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio
import pytest

from runtimestore import AsyncRuntimeStoreClient, Fenced, RuntimeState, StoredValueCorrupt
from runtimestore_server.budget import Budget, RetryPacing
from runtimestore_server.rpc.admission import Limiters
from runtimestore_server.rpc.call import Calls
from runtimestore_server.rpc.registration import Registrar
from runtimestore_server.rpc.sending import Sending
from runtimestore_server.rpc.status import METADATA_VALUE_LIMIT
from runtimestore_server.settings import Settings
from runtimestore_server.store import tables
from runtimestore_server.telemetry.counts import CallCounts
from runtimestore_server.telemetry.lines import LineLimit
from support.checkers.refusals import refused
from support.generators.calls import RUNTIME_WRITES, RuntimeWrite, Store, commit_machine_lifecycle, input_of, named
from support.generators.documents import new_id
from support.servers.database import change, forget, rows

if TYPE_CHECKING:
    from runtimestore_server.app import Application
    from support.servers.engines import Engine

NO_TEXT = [b"\xff\xfe", b"host\xff", b"\xed\xa0\x80"]
LEAVE_THE_STATE_ALONE = [write for write in RUNTIME_WRITES if write is not commit_machine_lifecycle]


@pytest.mark.parametrize("raw", [*NO_TEXT, b""])
async def test_an_owner_that_is_no_text_is_data_loss_to_whom_it_would_be_told_until_it_is_set_anew(
    app: Application, engine: Engine, client: Store, realm: str, runtime_id: str, raw: bytes
) -> None:
    key = {"realm": realm, "runtime_id": runtime_id}
    async with AsyncRuntimeStoreClient(app.address, realm=realm) as older:
        await older.acquire_runtime(runtime_id, "host-a")
        await client.acquire_runtime(runtime_id, "host-b")
        await change(app, tables.fences, {"owner": engine.text_of(app.store.database, raw)}, **key)
        before = await rows(app, tables.fences, **key)

        for call in (
            lambda: older.persist_input_state(runtime_id, input_of("a")),
            lambda: older.acquire_runtime(runtime_id, "host-c"),
        ):
            with pytest.raises(StoredValueCorrupt) as found:
                await call()
            assert found.value.metadata.items() >= {"table": "fences", **key}.items()
            assert "set its owner to any text" in found.value.message

        assert await rows(app, tables.fences, **key) == before
        assert await client.persist_input_state(runtime_id, input_of("b")) == (1, False)  # its fence is the newest

        await change(app, tables.fences, {"owner": "lost"}, **key)
        with pytest.raises(Fenced) as fenced:
            await older.persist_input_state(runtime_id, input_of("a"))
        assert fenced.value.metadata["owner"] == "lost"
        assert await older.acquire_runtime(runtime_id, "host-c") == (3, "lost")


@pytest.mark.parametrize("write", LEAVE_THE_STATE_ALONE, ids=named)
@pytest.mark.parametrize("raw", [*NO_TEXT, b"bogus", b""])
async def test_a_write_that_sets_no_state_lands_beside_a_damaged_one_which_stays_refused_until_it_is_set(
    app: Application, engine: Engine, store: Store, realm: str, runtime_id: str, write: RuntimeWrite, raw: bytes
) -> None:
    key = {"realm": realm, "runtime_id": runtime_id}
    await store.commit_machine_lifecycle(runtime_id, RuntimeState.ATTACHED)
    await change(app, tables.runtimes, {"runtime_state": engine.text_of(app.store.database, raw)}, **key)
    (damaged,) = await rows(app, tables.runtimes, **key)

    assert await write(store, runtime_id, "a") == (2, False)

    (after,) = await rows(app, tables.runtimes, **key)
    session = {column: after[column] for column in ("session_revision", "session_sha256")}
    assert after == damaged | {"revision": 2} | session
    with pytest.raises(StoredValueCorrupt) as found:
        await store.load_runtime_state(runtime_id)
    assert found.value.metadata.items() >= {"table": "runtimes", **key}.items()
    assert await store.commit_machine_lifecycle(runtime_id, RuntimeState.IDLE) == (3, False)
    assert await store.load_runtime_state(runtime_id) is RuntimeState.IDLE


async def test_a_state_stays_while_other_writes_land_and_the_last_one_that_is_set_counts(
    store: Store, runtime_id: str
) -> None:
    assert await store.persist_input_state(runtime_id, input_of("a")) == (1, False)
    assert await store.load_runtime_state(runtime_id) is None

    for state in (RuntimeState.RUNNING, RuntimeState.STOPPED):
        await store.commit_machine_lifecycle(runtime_id, state)
        for write in LEAVE_THE_STATE_ALONE:
            await write(store, runtime_id, state.name)
            assert await store.load_runtime_state(runtime_id) is state


@pytest.mark.parametrize("raw", NO_TEXT)
async def test_a_remembered_request_whose_key_is_damaged_keeps_no_other_from_being_forgotten(
    app: Application, engine: Engine, client: Store, realm: str, runtime_id: str, raw: bytes
) -> None:
    damaged, old = new_id(), new_id()
    for request_id in (damaged, old):
        await client.persist_input_state(runtime_id, input_of("a"), request_id=request_id)
        # As an older version recorded it: without a seal, which would have to be made for the date as well.
        values = {"recorded_at_ms": 1, "fingerprint": bytes(32)}
        await change(app, tables.requests, values, realm=realm, request_id=request_id)
    text = engine.text_of(app.store.database, raw)
    await change(app, tables.requests, {"realm": text}, realm=realm, request_id=damaged)

    await forget(app)

    assert await rows(app, tables.requests, request_id=old) == []
    assert len(await rows(app, tables.requests, request_id=damaged)) == 1


@pytest.mark.parametrize("part", [b"\xff", "\udcff", None, 7, "a\0b", "😀" * 3000], ids=ascii)
async def test_whatever_a_refusal_holds_the_call_ends_with_its_status(runner: Any, part: Any) -> None:
    del runner

    async def refuses(request: bytes, context: Any) -> bytes:
        del request, context
        raise StoredValueCorrupt(f"{part} is damaged", metadata={"table": "fences", "owner": part, "store_error": part})

    server = grpc.aio.server()
    pacing = RetryPacing()
    calls = Calls(
        Limiters(Settings(_env_file=None), Budget(pacing), pacing), Sending(1, pacing), counts=CallCounts(LineLimit(1))
    )
    handler = grpc.unary_unary_rpc_method_handler(refuses, request_deserializer=bytes, response_serializer=bytes)
    Registrar(calls, server).add_registered_method_handlers("test.Test", {"Refuse": handler})
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            call: Any = channel.unary_unary("/test.Test/Refuse")
            found = await refused(call(b""))
    finally:
        await server.stop(None)

    assert (found.code, found.reason) == (grpc.StatusCode.DATA_LOSS, "STORED_VALUE_CORRUPT")
    assert set(found.metadata) == {"table", "owner", "request_id", "store_error"}
    for told in (found.message, *found.metadata.values()):
        assert told
        assert len(told.encode()) <= METADATA_VALUE_LIMIT
