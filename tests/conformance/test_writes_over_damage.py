"""A write that meets damage does not make it worse: what is replaced is mended, anything else is told."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from runtimestore import RevisionMismatch, RuntimeState, StoredValueCorrupt
from runtimestore_server.store import tables
from support.generators.calls import Store, input_of, session_of
from support.generators.documents import new_id, receipt
from support.servers.database import change, flip_a_byte, forget, rows

if TYPE_CHECKING:
    from runtimestore_server.app import Application


@pytest.fixture
def known_bytes() -> int:
    """The clients remember nothing: what they have they would not read again, nor write."""
    return 0


@pytest.mark.parametrize("revision", [0, -5, 2**63 - 1])
async def test_a_write_to_a_runtime_with_a_damaged_revision_is_data_loss_and_deletes_and_changes_nothing(
    app: Application, store: Store, realm: str, runtime_id: str, revision: int
) -> None:
    await store.persist_input_state(runtime_id, input_of("a"))
    await change(app, tables.runtimes, {"revision": revision}, realm=realm, runtime_id=runtime_id)
    before = await rows(app, tables.runtimes, realm=realm)

    for if_revision in (None, 2):
        with pytest.raises(StoredValueCorrupt) as found:
            await store.persist_input_state(runtime_id, input_of("b"), if_revision=if_revision)
        assert found.value.metadata["table"] == "runtimes"

    assert await rows(app, tables.runtimes, realm=realm) == before
    with pytest.raises(StoredValueCorrupt):  # and not "absent"
        await store.load_input_states(runtime_id)


async def test_a_runtime_without_its_revision_is_served_again_with_a_greater_one(
    app: Application, store: Store, realm: str, runtime_id: str
) -> None:
    kept, newest = session_of("a"), 1_000_000
    await store.commit_session_snapshot(runtime_id, kept)
    await store.persist_input_state(runtime_id, input_of("a"))
    loads = ("load_input_states", "load_session_snapshot", "load_runtime_state", "load_ops_lifecycle", "load_runtime")
    for revision in (0, 2**63 - 1):
        await change(app, tables.runtimes, {"revision": revision}, realm=realm, runtime_id=runtime_id)

        for load in loads:
            with pytest.raises(StoredValueCorrupt) as found:
                await getattr(store, load)(runtime_id)
            assert "set it to a number greater than every revision" in found.value.message
            assert "every other row" not in found.value.message
        # What tells no revision needs none.
        assert [version.revision for version in (await store.list_session_versions(runtime_id)).versions] == [1]
        assert (await store.acquire_runtime(runtime_id, "a")).fence

    await change(app, tables.runtimes, {"revision": newest}, realm=realm, runtime_id=runtime_id)
    for load in loads:
        await getattr(store, load)(runtime_id)
    with pytest.raises(RevisionMismatch):
        await store.persist_input_state(runtime_id, input_of("b"), if_revision=2)
    assert (await store.persist_input_state(runtime_id, input_of("b"), if_revision=newest)).revision == newest + 1
    assert await store.load_session_snapshot(runtime_id, as_of_revision=1) == kept


async def test_a_revision_before_that_of_the_session_is_data_loss_and_no_write_replaces_an_earlier_version(
    app: Application, store: Store, realm: str, runtime_id: str
) -> None:
    for content in "abc":
        await store.commit_session_snapshot(runtime_id, session_of(content))
    await change(app, tables.runtimes, {"revision": 1}, realm=realm, runtime_id=runtime_id)
    before = await rows(app, tables.session_versions, realm=realm)

    for call in (
        store.commit_session_snapshot(runtime_id, session_of("d")),
        store.persist_input_state(runtime_id, input_of("a")),
        store.load_session_snapshot(runtime_id),
    ):
        with pytest.raises(StoredValueCorrupt) as found:
            await call
        assert found.value.metadata["table"] == "runtimes"
        assert "set it to a number greater than every revision" in found.value.message

    assert await rows(app, tables.session_versions, realm=realm) == before


async def test_of_a_revision_before_that_of_a_receipt_it_is_not_the_receipt_that_is_told_as_damaged(
    app: Application, store: Store, realm: str, runtime_id: str
) -> None:
    await store.commit_machine_lifecycle(runtime_id, RuntimeState.IDLE)
    proof = receipt()
    await store.atomic_apply(runtime_id, receipt=proof)
    await change(app, tables.runtimes, {"revision": 1}, realm=realm, runtime_id=runtime_id)

    with pytest.raises(StoredValueCorrupt) as found:
        await store.load_boundary_receipt(runtime_id, proof.run_id, proof.sequence)
    assert found.value.metadata["table"] == "runtimes"

    await change(app, tables.runtimes, {"revision": 1_000_000}, realm=realm, runtime_id=runtime_id)
    assert await store.load_boundary_receipt(runtime_id, proof.run_id, proof.sequence) == proof


async def test_a_write_over_a_damaged_count_is_data_loss(
    app: Application, store: Store, realm: str, runtime_id: str
) -> None:
    await store.persist_auth_oauth_flow_snapshot(b"first")
    await change(app, tables.oauth_flow_snapshots, {"version": -5}, realm=realm)
    with pytest.raises(StoredValueCorrupt):
        await store.persist_auth_oauth_flow_snapshot(b"second")

    await store.acquire_runtime(runtime_id, "a")
    await change(app, tables.fences, {"fence": 0}, realm=realm, runtime_id=runtime_id)
    with pytest.raises(StoredValueCorrupt):
        await store.acquire_runtime(runtime_id, "b")
    with pytest.raises(StoredValueCorrupt):
        await store.persist_input_state(runtime_id, input_of("a"))


async def test_a_request_whose_date_is_damaged_is_not_forgotten_and_not_believed(
    app: Application, store: Store, realm: str, runtime_id: str
) -> None:
    request_id = new_id()
    await store.persist_input_state(runtime_id, input_of("a"), request_id=request_id)
    await change(app, tables.requests, {"recorded_at_ms": 1}, realm=realm, request_id=request_id)

    await forget(app)

    with pytest.raises(StoredValueCorrupt):
        await store.persist_input_state(runtime_id, input_of("a"), request_id=request_id)


@pytest.mark.parametrize("column", ["fingerprint", "revision"])
async def test_a_damaged_memory_of_a_request_is_data_loss_and_no_false_refusal(
    app: Application, store: Store, realm: str, runtime_id: str, column: str
) -> None:
    request_id = new_id()
    await store.persist_input_state(runtime_id, input_of("a"), request_id=request_id)
    if column == "fingerprint":
        await flip_a_byte(app, tables.requests.c.fingerprint, realm=realm, request_id=request_id)
    else:
        await change(app, tables.requests, {"revision": 7}, realm=realm, request_id=request_id)

    with pytest.raises(StoredValueCorrupt) as found:
        await store.persist_input_state(runtime_id, input_of("a"), request_id=request_id)

    assert found.value.metadata["table"] == "requests"
    assert found.value.metadata["request_id"] == request_id
    assert await store.load_input_states_with_revision(runtime_id) == ([input_of("a")], 1)


async def test_a_damaged_session_is_mended_by_the_next_snapshot(
    app: Application, store: Store, realm: str, runtime_id: str
) -> None:
    await store.commit_session_snapshot(runtime_id, session_of("a"))
    await flip_a_byte(app, tables.session_versions.c.body, realm=realm, runtime_id=runtime_id)
    with pytest.raises(StoredValueCorrupt):
        await store.load_session_snapshot(runtime_id)

    await store.commit_session_snapshot(runtime_id, session_of("a"))

    assert await store.load_session_snapshot(runtime_id) == session_of("a")
