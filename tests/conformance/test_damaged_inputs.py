"""A damaged input is never handed out: the others can be had without it, and it is mended by writing it again."""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING

import pytest

from runtimestore import RuntimeState, StoredValueCorrupt
from runtimestore.v1 import runtime_store_pb2 as pb
from runtimestore_server.store import tables
from support.generators.calls import Store, input_of
from support.generators.documents import inputs, receipt
from support.servers.database import change, flip_a_byte
from support.servers.engines import UNTYPED_COLUMNS

if TYPE_CHECKING:
    from runtimestore.v1 import runtime_store_pb2_grpc
    from runtimestore_server.app import Application


@pytest.fixture
def known_bytes() -> int:
    """The clients remember nothing: what they have they would not read again, nor write."""
    return 0


async def test_a_damaged_input_is_mended_by_writing_the_same_bytes_again(
    app: Application, store: Store, realm: str, runtime_id: str
) -> None:
    state = input_of("a")
    await store.persist_input_state(runtime_id, state)
    await flip_a_byte(app, tables.inputs.c.state_json, realm=realm, runtime_id=runtime_id)

    await store.persist_input_state(runtime_id, state)

    assert await store.load_input_states(runtime_id) == [state]


@pytest.mark.needs(UNTYPED_COLUMNS)
async def test_an_input_that_is_no_bytes_any_more_is_mended_by_writing_it_again(
    app: Application, store: Store, realm: str, runtime_id: str
) -> None:
    await store.persist_input_state(runtime_id, input_of("a"))
    with app.store.database.writers.begin() as connection:
        connection.exec_driver_sql("UPDATE inputs SET state_json = CAST(X'ff41' AS TEXT) WHERE realm = ?", (realm,))

    await store.atomic_apply(runtime_id, receipt=receipt(), input_updates=[input_of("a")])

    assert await store.load_input_states(runtime_id) == [input_of("a")]


@pytest.mark.parametrize("damaged", [b"no document", b"[]", b"{}", b"\xff"])
async def test_an_input_that_is_no_input_is_data_loss_though_its_digest_is_right(
    app: Application, store: Store, realm: str, runtime_id: str, damaged: bytes
) -> None:
    await store.persist_input_state(runtime_id, input_of("a"))
    values = {"state_json": damaged, "sha256": sha256(damaged).digest()}
    await change(app, tables.inputs, values, realm=realm, runtime_id=runtime_id)

    with pytest.raises(StoredValueCorrupt) as found:
        await store.load_input_state(runtime_id, input_of("a").input_id)

    assert found.value.metadata["input_id"] == input_of("a").input_id


async def test_sound_inputs_can_be_had_without_the_damaged_ones_which_are_named(
    app: Application, store: Store, realm: str, runtime_id: str
) -> None:
    states = inputs(5, "secret text")
    await store.commit_machine_lifecycle(runtime_id, RuntimeState.IDLE, states)
    damaged = [states[1].input_id, states[4].input_id]
    for input_id in damaged:
        await flip_a_byte(app, tables.inputs.c.state_json, realm=realm, runtime_id=runtime_id, input_id=input_id)

    with pytest.raises(StoredValueCorrupt):
        await store.load_input_states(runtime_id)
    found = await store.load_readable_input_states(runtime_id)

    assert found.input_states == [states[0], states[2], states[3]]
    assert [corrupt.input_id for corrupt in found.corrupt_inputs] == damaged
    assert found.revision == 1
    for corrupt in found.corrupt_inputs:
        assert corrupt.input_id in corrupt.description
        assert "secret" not in corrupt.description

    await store.persist_input_state(runtime_id, states[1])
    await store.persist_input_state(runtime_id, states[4])
    assert await store.load_readable_input_states(runtime_id) == (states, [], 3)


async def test_damaged_inputs_that_are_skipped_are_told_in_messages_that_every_client_takes(
    app: Application, store: Store, wire: runtime_store_pb2_grpc.RuntimeStoreAsyncStub, realm: str, runtime_id: str
) -> None:
    states = inputs(4, "x" * 900_000)
    await store.commit_machine_lifecycle(runtime_id, RuntimeState.IDLE, states)
    await flip_a_byte(app, tables.inputs.c.sha256, realm=realm, runtime_id=runtime_id, input_id=states[2].input_id)

    request = pb.LoadInputStatesRequest(realm=realm, runtime_id=runtime_id, skip_corrupt=True)
    messages = [message async for message in wire.LoadInputStates(request)]

    assert [state.input_id for message in messages for state in message.input_states] == [
        states[number].input_id for number in (0, 1, 3)
    ]
    assert [corrupt.input_id for message in messages for corrupt in message.corrupt_inputs] == [states[2].input_id]
    assert {message.revision for message in messages} == {1}
    assert max(message.ByteSize() for message in messages) < 2 * 1024 * 1024


async def test_skipping_the_damaged_inputs_of_a_runtime_without_any_skips_nothing(
    store: Store, runtime_id: str
) -> None:
    assert await store.load_readable_input_states(runtime_id) == ([], [], 0)
