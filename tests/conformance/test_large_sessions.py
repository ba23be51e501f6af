"""A session of megabytes is one as any other: its bytes, digests, replays, refusals and what rests on it."""

from __future__ import annotations

import uuid
from hashlib import sha256
from typing import TYPE_CHECKING

import pytest

from runtimestore import (
    AsyncRuntimeStoreClient,
    RequestIdReused,
    SessionKeyMismatch,
    SessionSnapshotInvalid,
    StoredValueCorrupt,
)
from runtimestore.v1 import runtime_store_pb2 as pb
from runtimestore_server.store import tables
from support.checkers.refusals import is_refusal, refused
from support.checkers.verified import verified
from support.generators.documents import new_id, receipt, session
from support.servers.database import flip_a_byte, rows
from support.servers.engines import DURABLE

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractAsyncContextManager

    from runtimestore.v1.runtime_store_pb2_grpc import RuntimeStoreAsyncStub as Wire
    from runtimestore_server.app import Application
    from support.generators.calls import Store

    Serve = Callable[..., AbstractAsyncContextManager[Application]]

SESSION = new_id()
MESSAGES = 70_000


def large(text: str = "", *, bad: bool = False) -> bytes:
    """A session of six megabytes."""
    said: list[dict[str, object]] = [
        {"role": "user", "content": f"turn {number} of a session that is long"} for number in range(MESSAGES)
    ]
    said += [{"role": 7 if bad else "user", "content": text}]
    body = session(session_id=SESSION, messages=said)
    assert len(body) > 4 * 1024 * 1024
    return body


def commits(body: bytes, realm: str, runtime_id: str, request_id: str = "") -> pb.CommitSessionSnapshotRequest:
    delta = pb.SessionDelta(session_snapshot=body)
    return pb.CommitSessionSnapshotRequest(
        realm=realm, runtime_id=runtime_id, session_delta=delta, request_id=request_id
    )


async def test_a_large_session_is_read_as_it_was_written_and_so_is_what_rests_on_it(
    app: Application, store: Store, realm: str, runtime_id: str
) -> None:
    first, second = large(), large("more")
    proof = receipt()
    await store.atomic_apply(runtime_id, first, proof)
    await store.commit_session_snapshot(runtime_id, second)

    assert await store.load_session_snapshot(runtime_id) == second
    assert await store.load_session_snapshot(runtime_id, as_of_revision=1) == first
    found = await rows(app, tables.session_versions, realm=realm, runtime_id=runtime_id)
    assert [(row["size_bytes"], bytes(row["sha256"])) for row in found] == [
        (len(body), sha256(body).digest()) for body in (first, second)
    ]
    assert sum(len(row["body"]) for row in found) < len(first) // 2  # it is what its writers wait for


async def test_a_large_session_is_known_again_by_its_request_id(wire: Wire, realm: str, runtime_id: str) -> None:
    request_id, body = str(uuid.uuid4()), large()
    first = await wire.CommitSessionSnapshot(commits(body, realm, runtime_id, request_id))
    again = await wire.CommitSessionSnapshot(commits(body, realm, runtime_id, request_id))
    assert (first.revision, first.replayed, again.revision, again.replayed) == (1, False, 1, True)

    other = await refused(wire.CommitSessionSnapshot(commits(large("other"), realm, runtime_id, request_id)))

    is_refusal(other, RequestIdReused.code, RequestIdReused.reason, "write_failed")


async def test_a_large_session_is_refused_as_a_small_one(wire: Wire, realm: str, runtime_id: str) -> None:
    bad = await refused(wire.CommitSessionSnapshot(commits(large(bad=True), realm, runtime_id)))
    is_refusal(bad, SessionSnapshotInvalid.code, SessionSnapshotInvalid.reason, "write_failed")
    assert bad.metadata["field"] == f"session_delta.session_snapshot.messages[{MESSAGES}].role"

    apply = pb.AtomicApplyRequest(
        realm=realm,
        runtime_id=runtime_id,
        session_delta=pb.SessionDelta(session_snapshot=large()),
        receipt=pb.RunBoundaryReceipt(run_id=new_id(), boundary=pb.RUN_APPLY_BOUNDARY_RUN_START, sequence=0),
        session_store_key=new_id(),
    )
    other = await refused(wire.AtomicApply(apply))
    is_refusal(other, SessionKeyMismatch.code, SessionKeyMismatch.reason, "session_key_mismatch")

    apply.session_store_key = SESSION
    assert (await wire.AtomicApply(apply)).revision == 1


@pytest.mark.needs(DURABLE)
async def test_a_flipped_byte_in_a_large_session_damages_what_rests_on_it_and_nothing_else(
    serve: Serve, realm: str, runtime_id: str
) -> None:
    first, second, other = large(), large("more"), f"{runtime_id}:other"
    async with serve() as app, AsyncRuntimeStoreClient(app.address, realm=realm, known_bytes=0) as store:
        await store.commit_session_snapshot(other, first)
        await store.commit_session_snapshot(runtime_id, first)
        await store.commit_session_snapshot(runtime_id, second)
        await flip_a_byte(app, tables.session_versions.c.body, realm=realm, runtime_id=runtime_id, revision=1)

        for revision in (1, 2):
            with pytest.raises(StoredValueCorrupt, match="revision 1"):
                await store.load_session_snapshot(runtime_id, as_of_revision=revision)
        assert await store.load_session_snapshot(other) == first
        found = [(one.kind, one.key["runtime_id"], one.key["revision"]) for one in (await verified(app)).findings]
        assert found == [("digest_mismatch", runtime_id, "1"), ("digest_mismatch", runtime_id, "2")]

        await store.commit_session_snapshot(runtime_id, first)  # what rests on nothing damaged is stored
        assert await store.load_session_snapshot(runtime_id) == first
