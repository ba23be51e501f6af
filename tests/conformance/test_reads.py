"""Absence, streams that anybody can read, and one consistent snapshot a load."""

from __future__ import annotations

import asyncio
import hashlib
import json
from typing import TYPE_CHECKING, Any

import pytest

from runtimestore import AsyncRuntimeStoreClient, RuntimeState
from runtimestore.v1 import runtime_store_pb2 as pb
from support.generators.calls import NOTHING, Store, everything, input_of
from support.generators.documents import input_state, inputs, new_id, receipt, sample, session

if TYPE_CHECKING:
    from runtimestore.v1 import runtime_store_pb2_grpc
    from runtimestore_server.app import Application

    Wire = runtime_store_pb2_grpc.RuntimeStoreAsyncStub

MIB = 1024 * 1024


async def test_a_load_of_something_absent_is_no_error(store: Store, runtime_id: str) -> None:
    assert await everything(store, runtime_id) == NOTHING
    assert await store.load_input_state(runtime_id, new_id()) is None
    assert await store.load_boundary_receipt(runtime_id, new_id(), 0) is None


async def test_what_is_absent_is_an_absent_field_or_an_empty_stream_with_the_revision(
    wire: Wire, realm: str, runtime_id: str
) -> None:
    common: dict[str, Any] = {"realm": realm, "runtime_id": runtime_id}
    for revision in (0, 1):
        if revision:
            # Something is there, but nothing of what is asked for.
            await wire.AtomicApply(
                pb.AtomicApplyRequest(
                    **common, receipt=pb.RunBoundaryReceipt(run_id=new_id(), boundary=pb.RUN_APPLY_BOUNDARY_IMMEDIATE)
                )
            )
        receipt_answer = await wire.LoadBoundaryReceipt(pb.LoadBoundaryReceiptRequest(**common, run_id=new_id()))
        input_answer = await wire.LoadInputState(pb.LoadInputStateRequest(**common, input_id=new_id()))
        state_answer = await wire.LoadRuntimeState(pb.LoadRuntimeStateRequest(**common))
        ops_answer = await wire.LoadOpsLifecycle(pb.LoadOpsLifecycleRequest(**common))
        assert not receipt_answer.HasField("receipt")
        assert not input_answer.HasField("state")
        assert not state_answer.HasField("state")
        assert not ops_answer.HasField("snapshot")
        assert [a.revision for a in (receipt_answer, input_answer, state_answer, ops_answer)] == [revision] * 4

        (first,) = [message async for message in wire.LoadInputStates(pb.LoadInputStatesRequest(**common))]
        assert first == pb.LoadInputStatesResponse(revision=revision)

        stream = wire.LoadSessionSnapshot(pb.LoadSessionSnapshotRequest(**common))
        assert [message async for message in stream] == []
        trailing = dict(iter(await stream.trailing_metadata() or ()))
        assert trailing["runtimestore-revision"] == str(revision)

    oauth = await wire.LoadAuthOAuthFlowSnapshot(pb.LoadAuthOAuthFlowSnapshotRequest(realm=realm))
    assert not oauth.HasField("snapshot_json")


@pytest.mark.parametrize(
    "size_bytes", [0, 1, MIB - 1, MIB, MIB + 1, 3 * MIB, 3 * MIB + 77], ids=lambda size: f"{size} bytes of text"
)
async def test_a_session_is_streamed_as_its_description_and_then_chunks_of_at_most_1_mib(
    wire: Wire, client: AsyncRuntimeStoreClient, realm: str, runtime_id: str, size_bytes: int
) -> None:
    session_id = new_id()
    body = session("x" * size_bytes, session_id=session_id)
    revision = (await client.commit_session_snapshot(runtime_id, body)).revision

    stream = wire.LoadSessionSnapshot(pb.LoadSessionSnapshotRequest(realm=realm, runtime_id=runtime_id))
    first, *rest = [message async for message in stream]

    assert first.info == pb.SessionSnapshotInfo(
        session_id=session_id,
        size_bytes=len(body),
        sha256=hashlib.sha256(body).digest(),
        revision=revision,
        committed_revision=revision,
    )
    assert {message.WhichOneof("part") for message in rest} == {"chunk"}
    assert all(1 <= len(message.chunk) <= MIB for message in rest)
    assert b"".join(message.chunk for message in rest) == body


async def test_inputs_are_streamed_in_batches_of_about_1_mib_with_the_revision_first_and_in_order_over_all(
    wire: Wire, client: AsyncRuntimeStoreClient, realm: str, runtime_id: str
) -> None:
    states = inputs(60, "x" * 100_000)
    revision = (await client.commit_machine_lifecycle(runtime_id, RuntimeState.IDLE, states)).revision

    stream = wire.LoadInputStates(pb.LoadInputStatesRequest(realm=realm, runtime_id=runtime_id))
    messages = [message async for message in stream]

    assert messages[0].revision == revision
    assert all(MIB / 4 < message.ByteSize() < 2 * MIB for message in messages[:-1])
    assert 5 <= len(messages) <= 12
    read = [(state.input_id, state.state_json) for message in messages for state in message.input_states]
    assert read == [(state.input_id, state.state_json) for state in states]


@pytest.mark.slow
async def test_20_000_inputs_in_one_request_are_written_at_once_and_read_by_a_client_with_grpcs_default_limit(
    wire: Wire, client: AsyncRuntimeStoreClient, realm: str, runtime_id: str
) -> None:
    template = sample("input_queued_prompt.json").decode()
    sample_id = json.loads(template)["input_id"]
    states = [
        type(input_of("a"))(input_id, template.replace(sample_id, input_id))
        for input_id in sorted(new_id() for _ in range(20_000))
    ]
    proof = receipt(contributing=tuple(state.input_id for state in states))

    assert await client.atomic_apply(runtime_id, None, proof, states) == (1, False)

    read: list[tuple[str, str]] = []
    async for message in wire.LoadInputStates(pb.LoadInputStatesRequest(realm=realm, runtime_id=runtime_id)):
        assert message.ByteSize() < 4 * MIB
        read += [(state.input_id, state.state_json) for state in message.input_states]
    assert read == [(state.input_id, state.state_json) for state in states]
    assert await client.load_boundary_receipt(runtime_id, proof.run_id, 0) == proof


async def test_the_largest_documents_are_read_by_a_client_with_grpcs_default_limit(
    wire: Wire, client: AsyncRuntimeStoreClient, realm: str, runtime_id: str
) -> None:
    largest = (await client.get_server_info()).limits.max_document_bytes
    state = input_state("x" * (largest - 200))
    state = type(state)(state.input_id, state.state_json + " " * (largest - len(state.state_json)))
    document = json.dumps({"epoch_id": new_id()}).ljust(largest)
    text = "x" * (largest - 300)
    proof = receipt(digest=text)
    await client.atomic_apply(runtime_id, None, proof, [state])
    await client.persist_ops_lifecycle(runtime_id, document)
    await client.persist_auth_oauth_flow_snapshot(b"x" * largest)

    common: dict[str, Any] = {"realm": realm, "runtime_id": runtime_id}
    one = await wire.LoadInputState(pb.LoadInputStateRequest(**common, input_id=state.input_id))
    assert one.state.state_json == state.state_json
    (many,) = [message async for message in wire.LoadInputStates(pb.LoadInputStatesRequest(**common))]
    assert many.input_states[0].state_json == state.state_json
    registry = await wire.LoadOpsLifecycle(pb.LoadOpsLifecycleRequest(**common))
    assert registry.snapshot.snapshot_json == document
    oauth = await wire.LoadAuthOAuthFlowSnapshot(pb.LoadAuthOAuthFlowSnapshotRequest(realm=realm))
    assert len(oauth.snapshot_json) == largest
    boundary = await wire.LoadBoundaryReceipt(pb.LoadBoundaryReceiptRequest(**common, run_id=proof.run_id))
    assert boundary.receipt.conversation_digest == text


async def test_a_load_sees_one_consistent_snapshot_while_others_write(
    app: Application, client: AsyncRuntimeStoreClient, realm: str, runtime_id: str
) -> None:
    ids = [new_id() for _ in range(30)]
    stop = asyncio.Event()

    async def write() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            states = [input_state(str(number), input_id=input_id) for input_id in ids]
            # The revision of each write is its number.
            await client.atomic_apply(runtime_id, session(str(number)), receipt(), states, if_revision=number - 1)

    async def read(reader: AsyncRuntimeStoreClient) -> None:
        for _ in range(25):
            states, revision = await reader.load_input_states_with_revision(runtime_id)
            assert {json.loads(state.state_json)["text"] for state in states} == (
                {str(revision)} if revision else set()
            )
            body, revision = await reader.load_session_snapshot_with_revision(runtime_id)
            if body is not None:
                assert json.loads(body)["messages"][0]["content"] == str(revision)

    writing = asyncio.create_task(write())
    async with AsyncRuntimeStoreClient(app.address, realm=realm) as another:
        await asyncio.gather(read(client), read(another), read(another))
    stop.set()
    await writing


async def test_a_load_that_starts_after_an_acknowledgement_sees_the_write(
    app: Application, store: Store, realm: str, runtime_id: str
) -> None:
    async with AsyncRuntimeStoreClient(app.address, realm=realm) as reader:
        for number in range(30):
            state = input_of(str(number))
            revision = (await store.persist_input_state(runtime_id, state)).revision
            assert await reader.load_input_state_with_revision(runtime_id, state.input_id) == (state, revision)


async def test_a_reader_that_leaves_in_the_middle_of_a_stream_leaves_nothing_behind(
    wire: Wire, client: AsyncRuntimeStoreClient, realm: str, runtime_id: str
) -> None:
    body = session("x" * 5 * MIB)
    await client.commit_session_snapshot(runtime_id, body)

    for _ in range(20):
        stream = wire.LoadSessionSnapshot(pb.LoadSessionSnapshotRequest(realm=realm, runtime_id=runtime_id))
        await stream.read()
        stream.cancel()

    assert await client.load_session_snapshot(runtime_id) == body
