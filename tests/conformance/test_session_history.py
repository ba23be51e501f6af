"""Earlier versions of a session, what is known already, and all that a runtime recovers from in one call."""

from __future__ import annotations

import asyncio
import contextlib
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import grpc.aio
import pytest

from runtimestore import (
    AsyncRuntimeStoreClient,
    InvalidRequest,
    RevisionNotKept,
    RuntimeState,
    SnapshotBaseMismatch,
    StoredValueCorrupt,
)
from runtimestore.v1 import runtime_store_admin_pb2 as admin_pb
from runtimestore.v1 import runtime_store_pb2 as pb
from runtimestore.v1.runtime_store_admin_pb2_grpc import RuntimeStoreAdminStub
from runtimestore.v1.runtime_store_pb2_grpc import RuntimeStoreStub
from runtimestore_server.store import tables
from runtimestore_server.store.versions import recent
from support.checkers.clean_up import until
from support.checkers.refusals import refused
from support.generators.documents import input_state, inputs, new_id, ops, receipt, session
from support.generators.edits import edited, whole
from support.servers.database import change, flip_a_byte, rows
from support.servers.engines import DURABLE
from support.servers.server import in_process

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractAsyncContextManager

    from runtimestore.v1.runtime_store_pb2_grpc import RuntimeStoreAsyncStub as Wire
    from runtimestore_server.app import Application

    Serve = Callable[..., AbstractAsyncContextManager[Application]]


@pytest.fixture
def known_bytes() -> int:
    """The clients remember nothing: what they have they would not read again."""
    return 0


SESSION = new_id()


def grown(turns: int, text: str = "") -> bytes:
    """A session of so many turns."""
    messages = [{"role": "user", "content": f"turn {turn} {text}"} for turn in range(turns)]
    return session(session_id=SESSION, messages=messages)


async def load(wire: Wire, realm: str, runtime_id: str, **asked: Any) -> tuple[pb.SessionSnapshotInfo | None, bytes]:
    """The description of a session, and its bytes."""
    request = pb.LoadSessionSnapshotRequest(realm=realm, runtime_id=runtime_id, **asked)
    parts = [part async for part in wire.LoadSessionSnapshot(request)]
    info = parts[0].info if parts else None
    return info, b"".join(part.chunk for part in parts)


@pytest.fixture
def admin(channel: grpc.aio.Channel) -> Any:
    """The bare stub of what the trait lacks."""
    return RuntimeStoreAdminStub(channel)


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
            info, found = await load(wire, realm, runtime_id, as_of_revision=revision)
            assert found == body
            assert info is not None
            assert (info.committed_revision, info.revision) == (committed, 10)
            assert (info.sha256, info.size_bytes) == (sha256(body).digest(), len(body))
    assert await load(wire, realm, runtime_id, as_of_revision=0) == (None, b"")
    assert (await load(wire, realm, runtime_id, as_of_revision=2**64 - 1))[1] == bodies[-1]


async def test_a_session_that_the_caller_has_is_described_and_not_sent(
    wire: Wire, client: AsyncRuntimeStoreClient, realm: str, runtime_id: str
) -> None:
    bodies = [grown(1), grown(2)]
    for body in bodies:
        await client.commit_session_snapshot(runtime_id, body)
    first, second = (sha256(body).digest() for body in bodies)

    info, found = await load(wire, realm, runtime_id, known_sha256=second)
    assert found == b""
    assert info == pb.SessionSnapshotInfo(
        session_id=SESSION,
        size_bytes=len(bodies[1]),
        sha256=second,
        revision=2,
        committed_revision=2,
        unchanged=True,
    )
    info, found = await load(wire, realm, runtime_id, known_sha256=first)
    assert info is not None
    assert (found, info.unchanged) == (bodies[1], False)
    info, found = await load(wire, realm, runtime_id, known_sha256=first, as_of_revision=1)
    assert info is not None
    assert (found, info.unchanged, info.committed_revision) == (b"", True, 1)
    assert await load(wire, realm, f"{runtime_id}/none", known_sha256=first) == (None, b"")


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
    for bad in ({"page_size": -1}, {"page_token": "none"}):
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


async def test_without_a_history_only_what_the_current_session_needs_is_kept(
    serve: Serve, realm: str, runtime_id: str
) -> None:
    async with serve(session_history_seconds=0) as app, grpc.aio.insecure_channel(app.address) as channel:
        wire = RuntimeStoreStub(channel)
        before = grown(1)
        request = pb.CommitSessionSnapshotRequest(realm=realm, runtime_id=runtime_id, session_delta=whole(before))
        revision = (await wire.CommitSessionSnapshot(request)).revision
        folds = 0
        for _ in range(8):
            turns = 0
            while app.store.folding.count == folds and turns < 100:
                after = grown(3, new_id() * 20)
                request.session_delta.CopyFrom(edited(before, after))
                revision = (await wire.CommitSessionSnapshot(request)).revision
                before, turns = after, turns + 1
            folds = app.store.folding.count
        assert folds > 0

        def kept() -> bool:
            app.store.pruning._reached = (-1, "", "", 0)
            with app.store.database.writers.begin() as tx:
                app.store.pruning.sweep(tx, 1000)
            app.store.pruning.settle()
            return True

        await until(lambda: not app.store.folding.waiting)  # else a base may come behind the sweep
        assert kept()
        stored = await rows(app, tables.session_versions, realm=realm, runtime_id=runtime_id)
        assert [row["kind"] for row in stored].count("base") == 1
        assert stored[0]["kind"] == "base"
        oldest = stored[0]["revision"]
        refusal = await refused(
            wire.LoadSessionSnapshot(
                pb.LoadSessionSnapshotRequest(realm=realm, runtime_id=runtime_id, as_of_revision=oldest - 1)
            )
        )
        assert (refusal.reason, refusal.metadata["oldest_revision"]) == (RevisionNotKept.reason, str(oldest))
        assert refusal.code is grpc.StatusCode.NOT_FOUND
        assert refusal.store_error == "read_failed"
        assert (await load(wire, realm, runtime_id))[1] == before
        assert stored[-1]["revision"] == revision


async def test_edits_that_outweigh_their_base_become_one_by_themselves(
    app: Application, client: AsyncRuntimeStoreClient, realm: str, runtime_id: str
) -> None:
    for turn in range(30):
        body = grown(20, f"{turn} " * 20)
        await client.commit_session_snapshot(runtime_id, body)
        body = body.replace(b"turn 3", b"turn three " + new_id().encode() * 8)
        await client.commit_session_snapshot(runtime_id, body)

    await until(lambda: not app.store.folding.waiting)
    stored = await rows(app, tables.session_versions, realm=realm, runtime_id=runtime_id)
    since = 0
    base = 0
    for row in stored:
        since, base = (0, len(row["body"])) if row["kind"] == "base" else (since + len(row["body"]), base)
    assert since <= base
    assert await client.load_session_snapshot(runtime_id) == body


async def test_a_clock_that_jumps_ahead_makes_no_earlier_session_old(
    app: Application, client: AsyncRuntimeStoreClient, realm: str, runtime_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = app.store.database

    def prune() -> None:
        with database.writers.begin() as tx:
            app.store.pruning.sweep(tx, 100)

    bodies = [session("".join(new_id() for _ in range(50))) for _ in range(3)]  # nothing of one is in the next
    for body in bodies:
        await client.commit_session_snapshot(runtime_id, body)
    stored = await rows(app, tables.session_versions, realm=realm, runtime_id=runtime_id)
    assert [row["kind"] for row in stored].count("base") > 1
    await asyncio.to_thread(prune)
    right = database.now_ms
    monkeypatch.setattr(database, "now_ms", lambda tx: right(tx) + 10 * 365 * 86_400_000)
    for _ in range(3):
        await asyncio.to_thread(prune)

    for number, body in enumerate(bodies, 1):
        assert await client.load_session_snapshot(runtime_id, as_of_revision=number) == body


async def test_a_base_with_its_edits_is_bounded_however_small_they_are(
    app: Application,
    client: AsyncRuntimeStoreClient,
    realm: str,
    runtime_id: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(recent, "MOST_EDITS", 5)
    body = grown(1, "long " * 10_000)
    for turn in range(30):
        body = grown(1, "long " * 10_000 + str(turn))
        await client.commit_session_snapshot(runtime_id, body)
        await until(lambda: not app.store.folding.waiting)

    stored = await rows(app, tables.session_versions, realm=realm, runtime_id=runtime_id)
    edits = "".join("b" if row["kind"] == "base" else "e" for row in stored).split("b")
    assert sum(map(len, edits)) > 20
    assert max(map(len, edits)) <= 6
    assert await client.load_session_snapshot(runtime_id) == body


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
            assert (await load(wire, realm, runtime_id, as_of_revision=revision))[1] == body


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
