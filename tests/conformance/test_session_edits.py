"""A session sent as edits is the session sent whole: the same bytes, digests, revisions, replays and refusals."""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING

import grpc.aio
import pytest

from runtimestore import (
    BoundaryReceiptExists,
    InvalidRequest,
    RequestIdReused,
    RevisionMismatch,
    RuntimeStoreError,
    SessionKeyMismatch,
    SessionSnapshotInvalid,
    SnapshotBaseMismatch,
)
from runtimestore.v1 import runtime_store_pb2 as pb
from runtimestore.v1.runtime_store_pb2_grpc import RuntimeStoreStub
from runtimestore_server.store import RuntimeKey, tables
from runtimestore_server.store.versions.edits import Edit
from support.checkers.refusals import WireRefusal, is_refusal, refused
from support.generators.documents import new_id, session
from support.generators.edits import edited, given, whole
from support.servers.database import rows

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractAsyncContextManager

    from runtimestore import AsyncRuntimeStoreClient
    from runtimestore.v1.runtime_store_pb2_grpc import RuntimeStoreAsyncStub as Wire
    from runtimestore_server.app import Application

    Serve = Callable[..., AbstractAsyncContextManager[Application]]

SESSION = new_id()


def grown(turns: int) -> bytes:
    """A session of so many turns."""
    return session(session_id=SESSION, messages=[{"role": "user", "content": f"turn {turn}"} for turn in range(turns)])


def is_refused_with(found: WireRefusal, refusal: type[RuntimeStoreError], store_error: str) -> None:
    """The wire carries this refusal."""
    is_refusal(found, refusal.code, refusal.reason, store_error)


def receipt(run_id: str, sequence: int = 0) -> pb.RunBoundaryReceipt:
    return pb.RunBoundaryReceipt(
        run_id=run_id, boundary=pb.RUN_APPLY_BOUNDARY_RUN_START, message_count=1, sequence=sequence
    )


def commits(
    delta: pb.SessionDelta, realm: str, runtime_id: str, request_id: str = ""
) -> pb.CommitSessionSnapshotRequest:
    return pb.CommitSessionSnapshotRequest(
        realm=realm, runtime_id=runtime_id, session_delta=delta, request_id=request_id
    )


async def test_edits_come_to_the_document_they_were_made_from_and_take_little_room(
    app: Application, wire: Wire, client: AsyncRuntimeStoreClient, realm: str, runtime_id: str
) -> None:
    before = grown(100)
    await wire.CommitSessionSnapshot(commits(whole(before), realm, runtime_id))

    for turns in range(101, 110):
        after = grown(turns)
        answer = await wire.CommitSessionSnapshot(commits(edited(before, after), realm, runtime_id))
        assert answer.revision == turns - 99
        assert await client.load_session_snapshot(runtime_id) == after
        before = after

    stored = await rows(app, tables.session_versions, realm=realm, runtime_id=runtime_id)
    assert [row["kind"] for row in stored] == ["base", *["edits"] * 9]
    assert all(len(row["body"]) < 200 for row in stored[1:])
    assert stored[-1]["sha256"] == sha256(before).digest()


async def test_a_snapshot_that_comes_whole_is_stored_as_what_changed(
    app: Application, wire: Wire, client: AsyncRuntimeStoreClient, realm: str, runtime_id: str
) -> None:
    other = session("another one " * 1000)
    for body in (grown(100), grown(101), other):
        await wire.CommitSessionSnapshot(commits(whole(body), realm, runtime_id))

    stored = await rows(app, tables.session_versions, realm=realm, runtime_id=runtime_id)
    assert [row["kind"] for row in stored] == ["base", "edits", "base"]
    assert await client.load_session_snapshot(runtime_id) == other


async def test_no_edits_at_all_leave_the_snapshot_and_count_a_revision(
    wire: Wire, client: AsyncRuntimeStoreClient, realm: str, runtime_id: str
) -> None:
    body = grown(3)
    await wire.CommitSessionSnapshot(commits(whole(body), realm, runtime_id))

    answer = await wire.CommitSessionSnapshot(commits(given(body, [], body), realm, runtime_id))

    assert answer.revision == 2
    assert await client.load_session_snapshot(runtime_id) == body


@pytest.mark.parametrize("later", [0, 1], ids=["the newest", "an earlier one"])
async def test_a_repeat_under_the_key_of_another_session_is_refused_in_either_form(
    wire: Wire, client: AsyncRuntimeStoreClient, realm: str, runtime_id: str, later: int
) -> None:
    base, result, request_id, proof, other = grown(1), grown(2), new_id(), receipt(new_id()), new_id()
    await wire.CommitSessionSnapshot(commits(whole(base), realm, runtime_id))

    def applies(delta: pb.SessionDelta, key: str) -> pb.AtomicApplyRequest:
        request = pb.AtomicApplyRequest(realm=realm, runtime_id=runtime_id, request_id=request_id, receipt=proof)
        request.session_delta.CopyFrom(delta)
        request.session_store_key = key
        return request

    assert (await wire.AtomicApply(applies(edited(base, result), SESSION))).revision == 2
    for _ in range(later):
        await client.commit_session_snapshot(runtime_id, grown(3))

    told = []
    for delta in (whole(result), edited(base, result)):
        again = await wire.AtomicApply(applies(delta, SESSION))
        assert (again.revision, again.replayed) == (2, True)
        found = await refused(wire.AtomicApply(applies(delta, other)))
        is_refused_with(found, SessionKeyMismatch, "session_key_mismatch")
        told.append((found.message, found.metadata["expected"], found.metadata["actual"]))
    assert told[0] == told[1]
    assert told[0][1:] == (other, SESSION)


async def test_edits_of_another_snapshot_are_refused_with_the_current_digest_and_leave_nothing(
    wire: Wire, client: AsyncRuntimeStoreClient, realm: str, runtime_id: str
) -> None:
    first, second, third = grown(1), grown(2), grown(3)
    nothing_there = await refused(wire.CommitSessionSnapshot(commits(edited(first, second), realm, runtime_id)))
    is_refused_with(nothing_there, SnapshotBaseMismatch, "write_failed")
    assert nothing_there.metadata.items() >= {"current_sha256": ""}.items()
    await wire.CommitSessionSnapshot(commits(whole(first), realm, runtime_id))
    await wire.CommitSessionSnapshot(commits(whole(second), realm, runtime_id))

    refusal = await refused(wire.CommitSessionSnapshot(commits(edited(first, third), realm, runtime_id, new_id())))

    is_refused_with(refusal, SnapshotBaseMismatch, "write_failed")
    assert refusal.metadata.items() >= {"current_sha256": sha256(second).hexdigest()}.items()
    assert await client.load_session_snapshot(runtime_id) == second
    assert (await client.commit_session_snapshot(runtime_id, third)).revision == 3


@pytest.mark.parametrize("first", ["edits", "whole"])
async def test_a_repeat_may_come_in_the_other_form_even_after_later_writes(
    wire: Wire, client: AsyncRuntimeStoreClient, realm: str, runtime_id: str, first: str
) -> None:
    base, result, later = grown(5), grown(6), grown(7)
    request_id, run_id = new_id(), new_id()
    await wire.CommitSessionSnapshot(commits(whole(base), realm, runtime_id))
    forms = [edited(base, result), whole(result)]
    if first == "whole":
        forms.reverse()
    requests = [
        pb.AtomicApplyRequest(
            realm=realm, runtime_id=runtime_id, request_id=request_id, session_delta=form, receipt=receipt(run_id)
        )
        for form in forms
    ]
    landed = await wire.AtomicApply(requests[0])
    await wire.CommitSessionSnapshot(commits(edited(result, later), realm, runtime_id))

    for request in (requests[1], requests[0]):
        repeated = await wire.AtomicApply(request)
        assert (repeated.revision, repeated.replayed) == (landed.revision, True)

    other = pb.AtomicApplyRequest(
        realm=realm,
        runtime_id=runtime_id,
        request_id=request_id,
        session_delta=edited(base, later),
        receipt=receipt(run_id),
    )
    is_refused_with(await refused(wire.AtomicApply(other)), RequestIdReused, "write_failed")
    assert await client.load_session_snapshot(runtime_id) == later


@pytest.mark.parametrize(
    ("found", "field"),
    [
        ([Edit(5, 4, b"")], "session_delta.snapshot_edits.edits[0]"),
        ([Edit(0, 5, b""), Edit(4, 6, b"")], "session_delta.snapshot_edits.edits[1]"),
        ([Edit(0, 10_000, b"")], "session_delta.snapshot_edits.edits[0]"),
        ([Edit(2**64 - 1, 2**64 - 1, b"")], "session_delta.snapshot_edits.edits[0]"),
    ],
    ids=["backwards", "overlapping", "behind the end", "far behind the end"],
)
async def test_edits_that_do_not_fit_their_base_are_refused(
    wire: Wire, realm: str, runtime_id: str, found: list[Edit], field: str
) -> None:
    base = grown(1)
    await wire.CommitSessionSnapshot(commits(whole(base), realm, runtime_id))

    refusal = await refused(wire.CommitSessionSnapshot(commits(given(base, found, base), realm, runtime_id)))

    is_refused_with(refusal, InvalidRequest, "internal")
    assert refusal.metadata.items() >= {"field": field}.items()


async def test_what_edits_come_to_is_checked_like_a_whole_document(
    wire: Wire, client: AsyncRuntimeStoreClient, realm: str, runtime_id: str
) -> None:
    base, result = grown(1), grown(2)
    await wire.CommitSessionSnapshot(commits(whole(base), realm, runtime_id))
    delta = edited(base, result)
    delta.snapshot_edits.sha256 = sha256(base).digest()

    another_result = await refused(wire.CommitSessionSnapshot(commits(delta, realm, runtime_id)))
    no_session = await refused(wire.CommitSessionSnapshot(commits(edited(base, b"{}"), realm, runtime_id)))
    delta.snapshot_edits.base_sha256 = b"short"
    no_digest = await refused(wire.CommitSessionSnapshot(commits(delta, realm, runtime_id)))
    another_key = await refused(
        wire.AtomicApply(
            pb.AtomicApplyRequest(
                realm=realm,
                runtime_id=runtime_id,
                session_delta=edited(base, result),
                receipt=receipt(new_id()),
                session_store_key=new_id(),
            )
        )
    )

    is_refused_with(another_result, SessionSnapshotInvalid, "write_failed")
    assert another_result.metadata.items() >= {"field": "session_delta.snapshot_edits.sha256"}.items()
    is_refused_with(no_session, SessionSnapshotInvalid, "write_failed")
    is_refused_with(no_digest, InvalidRequest, "internal")
    assert no_digest.metadata.items() >= {"field": "session_delta.snapshot_edits.base_sha256"}.items()
    is_refused_with(another_key, SessionKeyMismatch, "session_key_mismatch")
    assert await client.load_session_snapshot(runtime_id) == base


async def test_edits_are_refused_for_a_taken_boundary_and_a_missed_revision_as_whole_documents_are(
    wire: Wire, client: AsyncRuntimeStoreClient, realm: str, runtime_id: str
) -> None:
    base, result, run_id = grown(1), grown(2), new_id()
    applied = pb.AtomicApplyRequest(
        realm=realm, runtime_id=runtime_id, session_delta=whole(base), receipt=receipt(run_id)
    )
    await wire.AtomicApply(applied)
    applied.session_delta.CopyFrom(edited(base, result))
    taken = await refused(wire.AtomicApply(applied))
    applied.receipt.sequence, applied.if_revision = 1, 7
    missed = await refused(wire.AtomicApply(applied))

    is_refused_with(taken, BoundaryReceiptExists, "write_failed")
    is_refused_with(missed, RevisionMismatch, "write_failed")
    assert await client.load_session_snapshot(runtime_id) == base


async def test_edits_find_their_base_in_the_store_where_memory_does_not_hold_it(
    serve: Serve, realm: str, runtime_id: str
) -> None:
    async with serve(session_cache_bytes=0) as app, grpc.aio.insecure_channel(app.address) as channel:
        wire = RuntimeStoreStub(channel)
        before = grown(1)
        await wire.CommitSessionSnapshot(commits(whole(before), realm, runtime_id))
        for turns in range(2, 12):
            after = grown(turns)
            await wire.CommitSessionSnapshot(commits(edited(before, after), realm, runtime_id))
            before = after
        parts = [
            p async for p in wire.LoadSessionSnapshot(pb.LoadSessionSnapshotRequest(realm=realm, runtime_id=runtime_id))
        ]

        assert b"".join(part.chunk for part in parts) == before
        assert app.store.recent_sessions.bytes == 0


async def test_a_load_of_what_memory_holds_leaves_what_need_not_be_checked_again(
    serve: Serve, realm: str, runtime_id: str
) -> None:
    async with serve() as app, grpc.aio.insecure_channel(app.address) as channel:
        wire, key, document = RuntimeStoreStub(channel), RuntimeKey(realm, runtime_id), grown(200)
        await wire.CommitSessionSnapshot(commits(whole(document), realm, runtime_id))
        committed = app.store.recent_sessions.get(key)
        request = pb.LoadSessionSnapshotRequest(realm=realm, runtime_id=runtime_id)
        parts = [part async for part in wire.LoadSessionSnapshot(request)]
        loaded = app.store.recent_sessions.get(key)

        assert b"".join(part.chunk for part in parts) == document
        assert committed is not None
        assert committed.checked is not None
        assert loaded == committed
