"""Revisions count writes, and make load, compute, write a compare-and-swap."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

import pytest

from runtimestore import RevisionMismatch
from support.generators.calls import NOTHING, RUNTIME_WRITES, RuntimeWrite, Store, everything, input_of, named
from support.generators.documents import new_id, ops, receipt, session

if TYPE_CHECKING:
    from runtimestore_server.app import Application

every_write = pytest.mark.parametrize("write", RUNTIME_WRITES, ids=named)


@every_write
async def test_a_write_at_the_expected_revision_lands(store: Store, runtime_id: str, write: RuntimeWrite) -> None:
    assert await write(store, runtime_id, "a", if_revision=0) == (1, False)
    assert await write(store, runtime_id, "b", if_revision=1) == (2, False)


@every_write
async def test_a_write_at_another_revision_is_refused_tells_the_current_one_and_leaves_nothing(
    store: Store, runtime_id: str, write: RuntimeWrite
) -> None:
    await write(store, runtime_id, "a")
    stored = await everything(store, runtime_id)

    for expected in (0, 2, 2**63 - 1, 2**63, 2**64 - 1):
        with pytest.raises(RevisionMismatch) as refused:
            await write(store, runtime_id, "b", if_revision=expected)
        assert (refused.value.if_revision, refused.value.current_revision) == (expected, 1)

    assert await everything(store, runtime_id) == stored


@every_write
async def test_a_revision_expected_of_a_runtime_that_was_never_written_is_refused_and_makes_no_runtime(
    store: Store, runtime_id: str, write: RuntimeWrite
) -> None:
    with pytest.raises(RevisionMismatch) as refused:
        await write(store, runtime_id, "a", if_revision=1)

    assert refused.value.current_revision == 0
    assert await everything(store, runtime_id) == NOTHING
    assert await write(store, runtime_id, "a", if_revision=0) == (1, False)


async def test_writes_of_every_kind_count_the_same_revisions(store: Store, runtime_id: str) -> None:
    revisions = [(await write(store, runtime_id, "a")).revision for write in RUNTIME_WRITES]

    assert revisions == [1, 2, 3, 4, 5]


async def test_a_write_that_changes_nothing_counts_all_the_same(store: Store, runtime_id: str) -> None:
    state = input_of("a")

    assert [(await store.persist_input_state(runtime_id, state)).revision for _ in range(3)] == [1, 2, 3]


async def test_refused_writes_count_no_revision(store: Store, runtime_id: str) -> None:
    proof = receipt()
    await store.atomic_apply(runtime_id, receipt=proof)
    for _ in range(3):
        with pytest.raises(Exception, match="receipt"):
            await store.atomic_apply(runtime_id, receipt=proof)

    assert (await store.persist_input_state(runtime_id, input_of("a"))).revision == 2


async def test_oauth_writes_count_no_revision(store: Store, runtime_id: str) -> None:
    await store.persist_auth_oauth_flow_snapshot(b"{}")

    assert await everything(store, runtime_id) == NOTHING


async def test_every_load_about_a_runtime_tells_the_revision_that_it_saw(store: Store, runtime_id: str) -> None:
    async def revisions() -> list[int]:
        return [
            (await store.load_session_snapshot_with_revision(runtime_id)).revision,
            (await store.load_input_states_with_revision(runtime_id)).revision,
            (await store.load_input_state_with_revision(runtime_id, new_id())).revision,
            (await store.load_boundary_receipt_with_revision(runtime_id, new_id(), 0)).revision,
            (await store.load_runtime_state_with_revision(runtime_id)).revision,
            (await store.load_ops_lifecycle_with_revision(runtime_id)).revision,
        ]

    assert await revisions() == [0] * 6
    for revision, write in enumerate(RUNTIME_WRITES, start=1):
        await write(store, runtime_id, "a")
        assert await revisions() == [revision] * 6


async def test_load_compute_write_with_if_revision_loses_no_change_of_many_writers(
    app: Application, store: Store, realm: str, runtime_id: str
) -> None:
    epoch_id = new_id()

    async def add_one(writer: Store) -> None:
        while True:
            loaded = await writer.load_ops_lifecycle_with_revision(runtime_id)
            count = json.loads(json.loads(loaded.value)["note"]) if loaded.value else 0
            try:
                await writer.persist_ops_lifecycle(
                    runtime_id, ops(str(count + 1), epoch_id=epoch_id), if_revision=loaded.revision
                )
            except RevisionMismatch:
                continue
            return

    async with Store(app.address, realm=realm) as another:
        await asyncio.gather(*(add_one(writer) for writer in (store, another) for _ in range(8)))

    final = await store.load_ops_lifecycle_with_revision(runtime_id)
    assert json.loads(final.value or "")["note"] == "16"
    assert final.revision == 16


async def test_of_many_writers_at_one_revision_one_lands(store: Store, runtime_id: str) -> None:
    answers = await asyncio.gather(
        *(store.commit_session_snapshot(runtime_id, session(), if_revision=0) for _ in range(16)),
        return_exceptions=True,
    )

    refusals = [answer for answer in answers if isinstance(answer, BaseException)]
    assert len(refusals) == 15
    assert {type(refusal) for refusal in refusals} == {RevisionMismatch}
    assert (await store.load_session_snapshot_with_revision(runtime_id)).revision == 1


async def test_revisions_of_concurrent_writes_are_distinct_and_have_no_gap(store: Store, runtime_id: str) -> None:
    commits = await asyncio.gather(*(store.persist_input_state(runtime_id, input_of(str(n))) for n in range(50)))

    assert sorted(commit.revision for commit in commits) == list(range(1, 51))
