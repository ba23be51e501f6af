"""A write is one transaction, and nothing is ever lost by another."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING

import pytest

from runtimestore import InputStateInvalid, InvalidRequest, RuntimeState, SessionSnapshotInvalid
from support.generators.calls import (
    NOTHING,
    RUNTIME_WRITES,
    RuntimeWrite,
    Store,
    atomic_apply,
    everything,
    input_of,
    named,
    session_of,
)
from support.generators.documents import input_state, new_id, ops, receipt, session

if TYPE_CHECKING:
    from runtimestore import AsyncRuntimeStoreClient
    from runtimestore_server.app import Application


@pytest.mark.parametrize("write", RUNTIME_WRITES, ids=named)
async def test_every_write_counts_one_revision_and_says_so(store: Store, runtime_id: str, write: RuntimeWrite) -> None:
    assert await write(store, runtime_id, "a") == (1, False)
    assert await write(store, runtime_id, "b") == (2, False)
    assert (await everything(store, runtime_id))["revision"] == 2


# A boundary has a rule of its own.
@pytest.mark.parametrize("write", [write for write in RUNTIME_WRITES if write is not atomic_apply], ids=named)
async def test_without_a_request_id_an_equal_write_is_another_write_and_counts_again(
    store: Store, runtime_id: str, write: RuntimeWrite
) -> None:
    for revision in (1, 2, 3):
        assert await write(store, runtime_id, "a", request_id="") == (revision, False)


async def test_atomic_apply_writes_session_receipt_and_inputs_together(store: Store, runtime_id: str) -> None:
    body, proof, states = session(), receipt(), [input_of("a"), input_of("a", "another")]

    commit = await store.atomic_apply(runtime_id, body, proof, states)

    assert commit == (1, False)
    assert await store.load_session_snapshot_with_revision(runtime_id) == (body, 1)
    assert await store.load_boundary_receipt_with_revision(runtime_id, proof.run_id, 0) == (proof, 1)
    assert await store.load_input_states_with_revision(runtime_id) == (sorted(states, key=lambda s: s.input_id), 1)


async def test_one_bad_input_among_good_ones_leaves_nothing_of_the_boundary(store: Store, runtime_id: str) -> None:
    bad = input_state()
    bad = type(bad)(bad.input_id, bad.state_json.replace("current_state", "state"))

    with pytest.raises(InputStateInvalid):
        await store.atomic_apply(runtime_id, session_of("a"), receipt(), [input_of("a"), bad, input_of("a", "x")])

    assert await everything(store, runtime_id) == NOTHING


async def test_a_bad_session_leaves_nothing_of_the_boundary(store: Store, runtime_id: str) -> None:
    proof = receipt()

    with pytest.raises(SessionSnapshotInvalid):
        await store.atomic_apply(runtime_id, b"[]", proof, [input_of("a")])

    assert await everything(store, runtime_id) == NOTHING
    assert await store.load_boundary_receipt(runtime_id, proof.run_id, 0) is None


async def test_one_bad_input_leaves_nothing_of_a_lifecycle_commit(store: Store, runtime_id: str) -> None:
    bad = input_state(phase="queued")
    bad = type(bad)(new_id(), bad.state_json)

    with pytest.raises(InputStateInvalid):
        await store.commit_machine_lifecycle(runtime_id, RuntimeState.RUNNING, [input_of("a"), bad])

    assert await everything(store, runtime_id) == NOTHING


async def test_what_a_write_does_not_carry_stays_as_it_is(store: Store, runtime_id: str) -> None:
    body, document, first, second = session(), ops(), input_of("a"), input_of("a", "another")
    await store.commit_session_snapshot(runtime_id, body)
    await store.persist_ops_lifecycle(runtime_id, document)
    await store.commit_machine_lifecycle(runtime_id, RuntimeState.RUNNING, [first])

    await store.atomic_apply(runtime_id, receipt=receipt(), input_updates=[second])
    await store.persist_input_state(runtime_id, second)
    assert await store.load_runtime_state(runtime_id) is RuntimeState.RUNNING
    await store.commit_machine_lifecycle(runtime_id, RuntimeState.IDLE)

    stored = await everything(store, runtime_id)
    assert stored["session"] == body
    assert stored["ops"] == document
    assert stored["state"] is RuntimeState.IDLE
    assert stored["inputs"] == sorted([first, second], key=lambda state: state.input_id)


async def test_a_runtime_of_another_realm_is_another_runtime(app: Application, realm: str, runtime_id: str) -> None:
    async with Store(app.address, realm=realm) as one, Store(app.address, realm=f"{realm}-b") as other:
        await one.commit_session_snapshot(runtime_id, session_of("a"))

        assert await everything(other, runtime_id) == NOTHING
        assert await other.commit_session_snapshot(runtime_id, session_of("b")) == (1, False)
        assert await one.load_session_snapshot_with_revision(runtime_id) == (session_of("a"), 1)


async def test_a_client_that_gives_up_leaves_the_whole_write_or_nothing_and_a_working_pool(
    client: AsyncRuntimeStoreClient, runtime_id: str
) -> None:
    pauses = random.Random(20260522)  # noqa: S311  (spreads the moments; guards nothing)
    runtimes = [f"{runtime_id}/{number}" for number in range(60)]

    async def give_up(name: str) -> None:
        write = asyncio.create_task(
            client.atomic_apply(name, session_of(name), receipt(), [input_of(name), input_of(name, "another")])
        )
        await asyncio.sleep(pauses.uniform(0, 0.03))
        write.cancel()
        await asyncio.wait([write])

    await asyncio.gather(*map(give_up, runtimes))

    # Writes to a runtime keep their order: behind this one none is still on its way.
    final = [(await client.commit_machine_lifecycle(name, RuntimeState.IDLE)).revision for name in runtimes]
    for name, revision in zip(runtimes, final, strict=True):
        stored = await everything(client, name)
        whole = stored["session"] == session_of(name) and len(stored["inputs"]) == 2
        nothing = stored["session"] is None and stored["inputs"] == []
        assert (whole and revision == 2) or (nothing and revision == 1)


async def test_a_write_under_a_deadline_that_is_over_lands_whole_or_not_at_all(
    client: AsyncRuntimeStoreClient, runtime_id: str
) -> None:
    runtimes = [f"{runtime_id}/{number}" for number in range(30)]

    results = await asyncio.gather(
        *(
            client.atomic_apply(
                name, session_of(name), receipt(), [input_of(name)], timeout_seconds=0.001 * (1 + position)
            )
            for position, name in enumerate(runtimes)
        ),
        return_exceptions=True,
    )

    for name, result in zip(runtimes, results, strict=True):
        revision = (await client.commit_machine_lifecycle(name, RuntimeState.IDLE)).revision
        stored = await everything(client, name)
        assert (stored["session"] is not None) is (len(stored["inputs"]) == 1) is (revision == 2)
        if not isinstance(result, BaseException):
            assert stored["session"] == session_of(name)


async def test_a_write_without_its_message_is_refused_before_anything_is_written(store: Store, runtime_id: str) -> None:
    with pytest.raises(InvalidRequest):
        await store.persist_input_state(runtime_id, type(input_of("a"))("no uuid", input_of("a").state_json))

    assert await everything(store, runtime_id) == NOTHING
