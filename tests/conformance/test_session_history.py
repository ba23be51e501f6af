"""Earlier versions of a session, what is known already, and all that a runtime recovers from in one call."""

from __future__ import annotations

import contextlib
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import grpc.aio
import pytest

from runtimestore import AsyncRuntimeStoreClient, InvalidRequest, RuntimeState, SnapshotBaseMismatch, StoredValueCorrupt
from runtimestore.v1 import runtime_store_admin_pb2 as admin_pb
from runtimestore.v1 import runtime_store_pb2 as pb
from runtimestore.v1.runtime_store_pb2_grpc import RuntimeStoreStub
from runtimestore_server.store import tables
from support.checkers.refusals import refused
from support.generators.documents import input_state, inputs, new_id, ops, receipt
from support.generators.edits import SESSION, edited, grown, load_session, whole
from support.servers.database import change, flip_a_byte
from support.servers.engines import DURABLE
from support.servers.server import in_process

if TYPE_CHECKING:
    from runtimestore.v1.runtime_store_pb2_grpc import RuntimeStoreAsyncStub as Wire
    from runtimestore_server.app import Application


@pytest.fixture
def known_bytes() -> int:
    """The clients remember nothing: what they have they would not read again."""
    return 0


async def test_the_session_as_of_a_boundary_is_two_calls(
    wire: Wire, client: AsyncRuntimeStoreClient, realm: str, runtime_id: str
) -> None:
    bodies, receipts = [grown(turns) for turns in range(5)], [receipt() for _ in range(5)]
    for body, proof in zip(bodies, receipts, strict=True):
        await client.atomic_apply(runtime_id, session_delta=body, receipt=proof)
        await client.persist_input_state(runtime_id, input_state())

    for body, proof in zip(bodies, receipts, strict=True):
        asked = pb.LoadBoundaryReceiptRequest(realm=realm, runtime_id=runtime_id, run_id=proof.run_id)
        committed = (await wire.LoadBoundaryReceipt(asked)).committed_revision
        for revision in (committed, committed + 1):  # the one after wrote no session
            info, found = await load_session(wire, realm, runtime_id, as_of_revision=revision)
            assert found == body
            assert info is not None
            assert (info.committed_revision, info.revision) == (committed, 10)
            assert (info.sha256, info.size_bytes) == (sha256(body).digest(), len(body))
    assert await load_session(wire, realm, runtime_id, as_of_revision=0) == (None, b"")
    assert (await load_session(wire, realm, runtime_id, as_of_revision=2**64 - 1))[1] == bodies[-1]


async def test_a_session_that_the_caller_has_is_described_and_not_sent(
    wire: Wire, client: AsyncRuntimeStoreClient, realm: str, runtime_id: str
) -> None:
    bodies = [grown(1), grown(2)]
    for body in bodies:
        await client.commit_session_snapshot(runtime_id, body)
    first, second = (sha256(body).digest() for body in bodies)

    info, found = await load_session(wire, realm, runtime_id, known_sha256=second)
    assert found == b""
    assert info == pb.SessionSnapshotInfo(
        session_id=SESSION,
        size_bytes=len(bodies[1]),
        sha256=second,
        revision=2,
        committed_revision=2,
        unchanged=True,
    )
    info, found = await load_session(wire, realm, runtime_id, known_sha256=first)
    assert info is not None
    assert (found, info.unchanged) == (bodies[1], False)
    info, found = await load_session(wire, realm, runtime_id, known_sha256=first, as_of_revision=1)
    assert info is not None
    assert (found, info.unchanged, info.committed_revision) == (b"", True, 1)
    assert await load_session(wire, realm, f"{runtime_id}/none", known_sha256=first) == (None, b"")


@pytest.mark.parametrize("digest", [b"", b"abc", bytes(31), bytes(33)], ids=len)
async def test_what_is_known_must_be_a_digest(
    wire: Wire, admin: Any, client: AsyncRuntimeStoreClient, realm: str, runtime_id: str, digest: bytes
) -> None:
    await client.commit_session_snapshot(runtime_id, grown(1))
    session = pb.LoadSessionSnapshotRequest(realm=realm, runtime_id=runtime_id, known_sha256=digest)
    runtime = admin_pb.LoadRuntimeRequest(realm=realm, runtime_id=runtime_id, known_session_sha256=digest)

    for call, field in (
        (wire.LoadSessionSnapshot(session), "known_sha256"),
        (admin.LoadRuntime(runtime), "known_session_sha256"),
    ):
        found = await refused(call)
        assert found.reason == InvalidRequest.reason
        assert [*found.violations] == [field]


async def test_the_versions_of_a_session_are_listed_newest_first_in_pages(
    admin: Any, client: AsyncRuntimeStoreClient, realm: str, runtime_id: str
) -> None:
    bodies, proof = [grown(turns) for turns in range(7)], receipt(sequence=2**64 - 1)
    for body in bodies[:-1]:
        await client.commit_session_snapshot(runtime_id, body)
    await client.atomic_apply(runtime_id, session_delta=bodies[-1], receipt=proof)

    found, token, pages = [], "", 0
    while pages == 0 or token:
        asked = admin_pb.ListSessionVersionsRequest(realm=realm, runtime_id=runtime_id, page_size=3, page_token=token)
        page = await admin.ListSessionVersions(asked)
        found += page.versions
        token, pages = page.next_page_token, pages + 1

    assert pages == 3
    assert [version.revision for version in found] == [7, 6, 5, 4, 3, 2, 1]
    assert [version.sha256 for version in found] == [sha256(body).digest() for body in reversed(bodies)]
    assert [version.size_bytes for version in found] == [len(body) for body in reversed(bodies)]
    assert [version.run_id for version in found] == [proof.run_id, *[""] * 6]
    assert found[0].sequence == 2**64 - 1
    assert not found[1].HasField("sequence")
    assert all(version.committed_at.seconds > 1_600_000_000 for version in found)
    whole_list = await admin.ListSessionVersions(
        admin_pb.ListSessionVersionsRequest(realm=realm, runtime_id=runtime_id, page_size=100_000)
    )
    assert list(whole_list.versions) == found
    for bad in ({"page_size": -1}, {"page_token": "none"}, {"page_token": "9" * 5000}):
        asked = admin_pb.ListSessionVersionsRequest(realm=realm, runtime_id=runtime_id, **bad)
        assert (await refused(admin.ListSessionVersions(asked))).reason == InvalidRequest.reason


async def test_a_cold_start_is_one_call(
    admin: Any, client: AsyncRuntimeStoreClient, realm: str, runtime_id: str
) -> None:
    proof, body, count = receipt(sequence=3), grown(3, "x" * 500_000), 30
    states = [
        input_state("y" * 90_000, last_run_id=proof.run_id, last_boundary_sequence=3, phase="applied"),
        *inputs(count, "z" * 90_000),
        input_state(last_run_id="none", last_boundary_sequence=1),
        input_state(last_run_id=new_id(), last_boundary_sequence=1),
    ]
    await client.atomic_apply(runtime_id, session_delta=body, receipt=proof, input_updates=states)
    await client.commit_machine_lifecycle(runtime_id, RuntimeState.IDLE, [])
    snapshot = ops()
    await client.persist_ops_lifecycle(runtime_id, snapshot)

    request = admin_pb.LoadRuntimeRequest(realm=realm, runtime_id=runtime_id)
    parts = [part async for part in admin.LoadRuntime(request)]

    order = [part.WhichOneof("part") for part in parts]
    kinds = ["runtime", "inputs", "receipts", "ops", "session", "session_chunk"]
    assert order == sorted(order, key=kinds.index)
    assert set(order) == set(kinds)
    assert all(part.ByteSize() < 1024 * 1024 + 1024 for part in parts)
    assert parts[0].runtime == admin_pb.RuntimeDescription(revision=3, state=pb.RUNTIME_STATE_IDLE)
    loaded = [state for part in parts for state in part.inputs.input_states]
    assert [(state.input_id, state.state_json) for state in loaded] == sorted(
        (state.input_id, state.state_json) for state in states
    )
    (committed,) = [one for part in parts for one in part.receipts.receipts]
    assert (committed.receipt.run_id, committed.receipt.sequence, committed.committed_revision) == (
        proof.run_id,
        3,
        1,
    )
    assert b"".join(part.session_chunk for part in parts) == body

    request.known_session_sha256 = sha256(body).digest()
    known = [part async for part in admin.LoadRuntime(request)]
    assert known[-1].session.unchanged
    assert not [part for part in known if part.session_chunk]


async def test_a_runtime_that_was_never_written_recovers_from_nothing(admin: Any, realm: str, runtime_id: str) -> None:
    request = admin_pb.LoadRuntimeRequest(realm=realm, runtime_id=runtime_id)

    parts = [part async for part in admin.LoadRuntime(request)]

    assert parts == [admin_pb.LoadRuntimeResponse(runtime=admin_pb.RuntimeDescription(revision=0))]


@pytest.mark.needs(DURABLE)
async def test_two_servers_on_one_store_never_lose_each_others_sessions(
    fresh_url: str, realm: str, runtime_id: str
) -> None:
    async with contextlib.AsyncExitStack() as stack:
        one, two = [await stack.enter_async_context(in_process(fresh_url)) for _ in range(2)]
        first = await stack.enter_async_context(AsyncRuntimeStoreClient(one.address, realm=realm))
        channel = await stack.enter_async_context(grpc.aio.insecure_channel(two.address))
        wire = RuntimeStoreStub(channel)
        bodies = [grown(turns) for turns in range(1, 5)]
        await first.commit_session_snapshot(runtime_id, bodies[0])
        request = pb.CommitSessionSnapshotRequest(realm=realm, runtime_id=runtime_id)
        request.session_delta.CopyFrom(edited(bodies[0], bodies[1]))
        assert (await wire.CommitSessionSnapshot(request)).revision == 2
        # The first one holds what it wrote itself, which is not the newest any more.
        await first.commit_session_snapshot(runtime_id, bodies[2])
        refusal = await refused(wire.CommitSessionSnapshot(request))
        assert refusal.reason == SnapshotBaseMismatch.reason
        assert refusal.metadata["current_sha256"] == sha256(bodies[2]).hexdigest()
        request.session_delta.CopyFrom(edited(bodies[2], bodies[3]))
        assert (await wire.CommitSessionSnapshot(request)).revision == 4
        for revision, body in enumerate(bodies, 1):
            assert (await load_session(wire, realm, runtime_id, as_of_revision=revision))[1] == body


async def test_edits_of_a_damaged_session_are_refused_and_the_whole_one_mends_it(
    app: Application, wire: Wire, client: AsyncRuntimeStoreClient, realm: str, runtime_id: str
) -> None:
    bodies = [grown(1), grown(2), grown(3)]
    for body in bodies[:2]:
        await client.commit_session_snapshot(runtime_id, body)
    await flip_a_byte(app, tables.session_versions.c.body, realm=realm, runtime_id=runtime_id, revision=1)
    with pytest.raises(StoredValueCorrupt) as found:
        await client.load_session_snapshot(runtime_id)
    assert found.value.metadata["revision"] == "1"
    request = pb.CommitSessionSnapshotRequest(realm=realm, runtime_id=runtime_id)
    request.session_delta.CopyFrom(edited(bodies[1], bodies[2]))
    assert (await refused(wire.CommitSessionSnapshot(request))).reason == SnapshotBaseMismatch.reason

    request.session_delta.CopyFrom(whole(bodies[2]))
    assert (await wire.CommitSessionSnapshot(request)).revision == 3

    assert await client.load_session_snapshot(runtime_id) == bodies[2]


@pytest.mark.parametrize(("column", "value"), [("session_revision", 1), ("session_sha256", b"d" * 48)])
async def test_damage_of_what_a_runtime_says_of_its_session_is_told_and_mended_by_the_whole_one(
    app: Application, client: AsyncRuntimeStoreClient, realm: str, runtime_id: str, column: str, value: Any
) -> None:
    bodies = [grown(1), grown(2), grown(3)]
    for body in bodies[:2]:
        await client.commit_session_snapshot(runtime_id, body)
    await change(app, tables.runtimes, {column: value}, realm=realm, runtime_id=runtime_id)

    with pytest.raises(StoredValueCorrupt) as found:
        await client.load_session_snapshot(runtime_id)
    assert found.value.metadata["table"] == "runtimes"
    assert await client.load_runtime_state(runtime_id) is None
    await client.commit_session_snapshot(runtime_id, bodies[2])

    assert await client.load_session_snapshot(runtime_id) == bodies[2]
