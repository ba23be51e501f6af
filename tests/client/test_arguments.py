"""What a caller may hand over: what has one meaning is taken, in whichever form it comes."""

from __future__ import annotations

import asyncio
import importlib.metadata
import json
import uuid
from typing import TYPE_CHECKING, Any

import pytest

import runtimestore
from runtimestore import (
    AsyncRuntimeStoreClient,
    InputState,
    RunApplyBoundary,
    RunBoundaryReceipt,
    RuntimeState,
    RuntimeStoreClient,
)
from runtimestore.v1 import runtime_store_admin_pb2 as admin_pb
from runtimestore.v1 import runtime_store_pb2 as pb
from support.generators.arguments import ID, RECEIPT, RUNTIME
from support.servers.scripted_store import Script, scripted_store

if TYPE_CHECKING:
    from collections.abc import Callable

THE_ID = uuid.UUID(ID)

Client = Any
"""One client or the other."""


@pytest.fixture(params=["async", "sync"])
def sent(request: pytest.FixtureRequest) -> Callable[[str, Callable[[Client], Any]], Any]:
    """Make one call with a client, and tell the request that reached the server."""

    def send(rpc: str, call: Callable[[Client], Any]) -> Any:
        script = Script()

        async def run() -> None:
            script.answer(rpc, None)
            async with scripted_store(script) as address:
                if request.param == "async":
                    async with AsyncRuntimeStoreClient(address, timeout_seconds=10) as store:
                        await call(store)
                    return

                def blocking() -> None:
                    with RuntimeStoreClient(address, timeout_seconds=10) as store:
                        call(store)

                await asyncio.to_thread(blocking)

        asyncio.run(run())
        (message,) = script.requests[rpc]
        return message

    return send


@pytest.mark.parametrize(
    ("rpc", "call", "field"),
    [
        ("LoadRuntimeState", lambda store: store.load_runtime_state(THE_ID), "runtime_id"),
        ("LoadInputState", lambda store: store.load_input_state(RUNTIME, THE_ID), "input_id"),
        ("LoadBoundaryReceipt", lambda store: store.load_boundary_receipt(RUNTIME, THE_ID, 0), "run_id"),
        ("CommitMachineLifecycle", lambda store: store.commit_machine_lifecycle(THE_ID, "idle"), "runtime_id"),
        ("AcquireRuntime", lambda store: store.acquire_runtime(THE_ID, "host/1"), "runtime_id"),
        (
            "AtomicApply",
            lambda store: store.atomic_apply(RUNTIME, b"{}", RECEIPT, session_store_key=THE_ID),
            "session_store_key",
        ),
    ],
)
def test_a_uuid_is_taken_where_an_id_is_meant(
    sent: Callable[..., Any], rpc: str, call: Callable[[Client], Any], field: str
) -> None:
    assert getattr(sent(rpc, call), field) == ID


def test_the_fence_of_a_runtime_is_the_same_for_a_uuid_and_its_text() -> None:
    async def scenario() -> None:
        script = Script()
        script.answer("AcquireRuntime", admin_pb.AcquireRuntimeResponse(fence=7))
        script.answer("CommitMachineLifecycle", pb.CommitMachineLifecycleResponse(revision=1))
        async with scripted_store(script) as address, AsyncRuntimeStoreClient(address) as store:
            await store.acquire_runtime(THE_ID, "host/1")
            await store.commit_machine_lifecycle(ID, RuntimeState.IDLE)
        assert script.requests["CommitMachineLifecycle"][0].fence == 7

    asyncio.run(scenario())


def test_values_take_uuids_and_names_and_are_equal_to_those_of_texts_and_members() -> None:
    assert InputState(THE_ID, "{}") == InputState(ID, "{}")
    assert RunBoundaryReceipt(THE_ID, "run_start", [THE_ID, ID], 1, 2) == RunBoundaryReceipt(
        ID, RunApplyBoundary.RUN_START, (ID, ID), 1, 2
    )


@pytest.mark.parametrize("state", RuntimeState)
def test_a_state_is_taken_by_its_name(sent: Callable[..., Any], state: RuntimeState) -> None:
    by_name = sent("CommitMachineLifecycle", lambda store: store.commit_machine_lifecycle(RUNTIME, state.value))

    assert by_name.commit.runtime_state == pb.RuntimeState.Value(f"RUNTIME_STATE_{state.name}")


@pytest.mark.parametrize(
    ("given", "bytes_sent"),
    [
        (b'{ "id":1.0}', b'{ "id":1.0}'),
        ('{ "id": "\u00fc" }', b'{ "id": "\xc3\xbc" }'),
        ({"z": "\u00fc", "a": [1.0, None]}, b'{"z":"\xc3\xbc","a":[1.0,null]}'),
    ],
    ids=["bytes", "str", "dict"],
)
def test_a_document_is_sent_as_its_bytes_its_utf_8_or_as_compact_json(
    sent: Callable[..., Any], given: Any, bytes_sent: bytes
) -> None:
    session = sent("CommitSessionSnapshot", lambda store: store.commit_session_snapshot(RUNTIME, given))
    assert session.session_delta.session_snapshot == bytes_sent
    boundary = sent("AtomicApply", lambda store: store.atomic_apply(RUNTIME, given, RECEIPT))
    assert boundary.session_delta.session_snapshot == bytes_sent
    ops = sent("PersistOpsLifecycle", lambda store: store.persist_ops_lifecycle(RUNTIME, given))
    assert ops.snapshot.snapshot_json.encode() == bytes_sent


@pytest.mark.parametrize("spaces", ["", "  "])
def test_an_input_s_document_is_taken_as_bytes_and_kept_byte_for_byte(spaces: str) -> None:
    document = f'{{{spaces}"input_id": "{ID}", "n": 1.0, "text": "\u00fc"}}'

    assert InputState.from_json(document.encode()) == InputState(ID, document)
    assert InputState(ID, document.encode()).state_json == document


def test_an_input_is_taken_as_a_dict() -> None:
    value = {"input_id": ID, "current_state": "queued"}

    assert InputState.from_json(value) == InputState(ID, json.dumps(value, separators=(",", ":")))


@pytest.mark.parametrize("own_channel", [False, True])
def test_a_client_that_is_used_in_a_second_event_loop_says_so(own_channel: bool) -> None:
    import grpc.aio

    async def first() -> AsyncRuntimeStoreClient:
        async with scripted_store(Script()) as address:
            channel = grpc.aio.insecure_channel(address) if own_channel else None
            store = AsyncRuntimeStoreClient(address, channel=channel)
            await store.load_runtime_state(RUNTIME)
            await store.load_runtime_state(RUNTIME)
            if channel is not None:
                await channel.close()
            await store.close()
            return store

    async def second(store: AsyncRuntimeStoreClient) -> None:
        for call in (store.load_runtime_state(RUNTIME), store.load_input_states(RUNTIME), store.get_server_info()):
            with pytest.raises(RuntimeError, match="event loop of its first call, and this is another one"):
                await call

    asyncio.run(second(asyncio.run(first())))


def test_the_package_tells_its_version() -> None:
    assert runtimestore.__version__ == importlib.metadata.version("runtimestore")
