"""The state of a runtime and the registry of its background operations."""

from __future__ import annotations

import itertools
import json
from typing import TYPE_CHECKING

import pytest

from runtimestore import RuntimeState
from runtimestore.v1 import runtime_store_pb2 as pb
from support.generators.calls import Store, input_of
from support.generators.documents import OPS_SAMPLES, new_id, ops, sample

if TYPE_CHECKING:
    from runtimestore.v1 import runtime_store_pb2_grpc


@pytest.mark.parametrize("state", RuntimeState)
async def test_each_of_the_seven_states_is_told_as_it_was_given(
    store: Store, runtime_id: str, state: RuntimeState
) -> None:
    await store.commit_machine_lifecycle(runtime_id, state)

    assert await store.load_runtime_state_with_revision(runtime_id) == (state, 1)


async def test_the_seven_states_are_those_of_the_samples() -> None:
    assert [state.value for state in RuntimeState] == json.loads(sample("runtime_state_all.json"))


async def test_any_state_may_follow_any_other(store: Store, runtime_id: str) -> None:
    for before, after in itertools.product(RuntimeState, RuntimeState):
        await store.commit_machine_lifecycle(runtime_id, before)
        await store.commit_machine_lifecycle(runtime_id, after)
        assert await store.load_runtime_state(runtime_id) is after


async def test_a_lifecycle_commit_writes_state_and_inputs_together(store: Store, runtime_id: str) -> None:
    state = input_of("a")

    assert await store.commit_machine_lifecycle(runtime_id, RuntimeState.RUNNING, [state]) == (1, False)

    assert await store.load_runtime_state_with_revision(runtime_id) == (RuntimeState.RUNNING, 1)
    assert await store.load_input_states_with_revision(runtime_id) == ([state], 1)


async def test_the_last_ops_document_counts(store: Store, runtime_id: str) -> None:
    for document in (*(sample(name).decode() for name in OPS_SAMPLES), ops()):
        await store.persist_ops_lifecycle(runtime_id, document)
        assert await store.load_ops_lifecycle(runtime_id) == document


async def test_the_epoch_of_an_ops_document_is_told_and_one_in_the_request_is_ignored(
    wire: runtime_store_pb2_grpc.RuntimeStoreAsyncStub, realm: str, runtime_id: str
) -> None:
    epoch_id = new_id()
    await wire.PersistOpsLifecycle(
        pb.PersistOpsLifecycleRequest(
            realm=realm,
            runtime_id=runtime_id,
            snapshot=pb.PersistedOpsSnapshot(snapshot_json=ops(epoch_id=epoch_id), epoch_id="nonsense"),
        )
    )

    answer = await wire.LoadOpsLifecycle(pb.LoadOpsLifecycleRequest(realm=realm, runtime_id=runtime_id))
    assert answer.snapshot.epoch_id == epoch_id
