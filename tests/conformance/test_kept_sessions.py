"""How many earlier versions of a session are kept, and in which form: what is kept is read as it was written."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import grpc.aio
import pytest

from runtimestore import AsyncRuntimeStoreClient, RevisionNotKept
from runtimestore.v1 import runtime_store_pb2 as pb
from runtimestore.v1.runtime_store_pb2_grpc import RuntimeStoreStub
from runtimestore_server.store import tables
from runtimestore_server.store.versions import recent
from support.checkers.clean_up import until
from support.checkers.refusals import refused
from support.generators.documents import new_id, session
from support.generators.edits import edited, grown, load_session, whole
from support.servers.database import rows

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractAsyncContextManager

    from runtimestore_server.app import Application

    Serve = Callable[..., AbstractAsyncContextManager[Application]]


@pytest.fixture
def known_bytes() -> int:
    """The clients remember nothing: what they have they would not read again."""
    return 0


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

        await until(lambda: not app.store.folding._pending)  # else a base may come behind the sweep
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
        assert (await load_session(wire, realm, runtime_id))[1] == before
        assert stored[-1]["revision"] == revision


async def test_edits_that_outweigh_their_base_become_one_by_themselves(
    app: Application, client: AsyncRuntimeStoreClient, realm: str, runtime_id: str
) -> None:
    for turn in range(30):
        body = grown(20, f"{turn} " * 20)
        await client.commit_session_snapshot(runtime_id, body)
        body = body.replace(b"turn 3", b"turn three " + new_id().encode() * 8)
        await client.commit_session_snapshot(runtime_id, body)

    await until(lambda: not app.store.folding._pending)
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
        await until(lambda: not app.store.folding._pending)

    stored = await rows(app, tables.session_versions, realm=realm, runtime_id=runtime_id)
    edits = "".join("b" if row["kind"] == "base" else "e" for row in stored).split("b")
    assert sum(map(len, edits)) > 20
    assert max(map(len, edits)) <= 6
    assert await client.load_session_snapshot(runtime_id) == body
