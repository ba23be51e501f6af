"""Inputs are upserts, the last writer wins, nothing is deleted."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from runtimestore import InputState, InputStateSeed, RuntimeState
from runtimestore.v1 import runtime_store_pb2 as pb
from support.generators.documents import INPUT_SAMPLES, UINT64_MAX, input_state, inputs, new_id, receipt, sample
from support.servers.database import statements

if TYPE_CHECKING:
    from collections.abc import Sequence

    from runtimestore.v1 import runtime_store_pb2_grpc
    from runtimestore_server.app import Application
    from support.generators.calls import Store


async def _with_boundary(store: Store, runtime_id: str, states: Sequence[InputState]) -> None:
    await store.atomic_apply(runtime_id, receipt=receipt(), input_updates=states)


async def _with_lifecycle(store: Store, runtime_id: str, states: Sequence[InputState]) -> None:
    await store.commit_machine_lifecycle(runtime_id, RuntimeState.IDLE, states)


async def _one_by_one(store: Store, runtime_id: str, states: Sequence[InputState]) -> None:
    for state in states:
        await store.persist_input_state(runtime_id, state)


many_at_once = pytest.mark.parametrize("write", [_with_boundary, _with_lifecycle])
every_way = pytest.mark.parametrize("write", [_with_boundary, _with_lifecycle, _one_by_one])


@every_way
async def test_inputs_are_read_in_the_order_of_their_ids(store: Store, runtime_id: str, write: Any) -> None:
    ids = sorted(new_id() for _ in range(20))
    # Neither the order of writing nor that of the documents' bytes is the order of the ids.
    states = [
        InputState(input_id, f'{{"n": {30 - number}, "input_id": "{input_id}", "current_state": "queued"}}')
        for number, input_id in enumerate(ids)
    ]
    await write(store, runtime_id, states[10:])
    await write(store, runtime_id, states[:10][::-1])

    assert await store.load_input_states(runtime_id) == states
    for state in states:
        assert await store.load_input_state(runtime_id, state.input_id) == state


@every_way
async def test_an_input_that_is_there_is_replaced_and_the_last_writer_wins(
    store: Store, runtime_id: str, write: Any
) -> None:
    first = inputs(3)
    again = [input_state(input_id=state.input_id, phase="staged") for state in first[:2]]
    await write(store, runtime_id, first)
    await write(store, runtime_id, again)

    assert await store.load_input_states(runtime_id) == [*again, first[2]]


@many_at_once
async def test_of_the_same_input_twice_in_one_request_the_last_counts(
    store: Store, runtime_id: str, write: Any
) -> None:
    first, other = input_state("first"), input_state("other")
    middle, last = (input_state(text, input_id=first.input_id) for text in ("middle", "last"))
    shouted = InputState(first.input_id.upper(), last.state_json)
    await write(store, runtime_id, [first, other, middle, shouted])

    assert await store.load_input_state(runtime_id, first.input_id) == last
    assert len(await store.load_input_states(runtime_id)) == 2


@many_at_once
async def test_an_input_that_a_request_does_not_name_stays(store: Store, runtime_id: str, write: Any) -> None:
    states = inputs(5)
    await write(store, runtime_id, states)
    await write(store, runtime_id, [])
    await write(store, runtime_id, states[2:3])

    assert await store.load_input_states(runtime_id) == states


@every_way
async def test_inputs_whose_bytes_are_unchanged_cost_no_row_write(
    app: Application, store: Store, runtime_id: str, write: Any
) -> None:
    states = inputs(5)
    changed = input_state("it changed", input_id=states[3].input_id)
    await write(store, runtime_id, states)

    with statements(app) as seen:
        await write(store, runtime_id, states)
        unchanged = [statement for statement, _ in seen if statement.startswith("INSERT INTO inputs")]
        await write(store, runtime_id, [*states[:3], changed, states[4]])
        written = [parameters for statement, parameters in seen if statement.startswith("INSERT INTO inputs")]

    assert unchanged == []
    assert len(written) == 1
    assert changed.input_id in written[0]
    assert not any(state.input_id in written[0] for state in states if state.input_id != changed.input_id)
    assert await store.load_input_states(runtime_id) == [*states[:3], changed, states[4]]


@pytest.mark.parametrize("name", INPUT_SAMPLES)
@every_way
async def test_a_sample_input_is_returned_byte_for_byte(store: Store, runtime_id: str, name: str, write: Any) -> None:
    state = InputState.from_json(sample(name).decode())
    await write(store, runtime_id, [state])

    assert await store.load_input_states(runtime_id) == [state]
    assert await store.load_input_state(runtime_id, state.input_id) == state


@pytest.mark.parametrize("name", INPUT_SAMPLES)
async def test_the_seed_tells_what_the_sample_says(store: Store, runtime_id: str, name: str) -> None:
    document = json.loads(sample(name))
    state = InputState.from_json(sample(name).decode())
    await store.persist_input_state(runtime_id, state)

    expected = InputStateSeed(
        phase=document["current_state"],
        last_run_id=document.get("last_run_id"),
        last_boundary_sequence=document.get("last_boundary_sequence"),
        attempt_count=document.get("attempt_count"),
    )
    loaded = await store.load_input_state(runtime_id, state.input_id)
    assert loaded is not None
    assert loaded.seed == expected
    assert [state.seed for state in await store.load_input_states(runtime_id)] == [expected]


async def test_what_a_document_lacks_or_holds_in_another_type_is_absent_in_the_seed(
    store: Store, runtime_id: str
) -> None:
    run_id = new_id()
    cases: list[tuple[dict[str, Any], InputStateSeed]] = [
        ({}, InputStateSeed("queued")),
        ({"last_run_id": None, "attempt_count": None}, InputStateSeed("queued")),
        ({"last_run_id": 7, "attempt_count": 3}, InputStateSeed("queued", attempt_count=3)),
        ({"last_run_id": run_id, "attempt_count": "3"}, InputStateSeed("queued", last_run_id=run_id)),
        ({"attempt_count": -1}, InputStateSeed("queued")),
        ({"attempt_count": 2**32}, InputStateSeed("queued")),
        ({"attempt_count": 1.5}, InputStateSeed("queued")),
        ({"last_boundary_sequence": UINT64_MAX}, InputStateSeed("queued", last_boundary_sequence=UINT64_MAX)),
        ({"last_boundary_sequence": UINT64_MAX + 1}, InputStateSeed("queued")),
        ({"last_boundary_sequence": 0, "last_run_id": {}}, InputStateSeed("queued", last_boundary_sequence=0)),
        # Nobody wants to see a long one, and it would be sent twice.
        ({"phase": "x" * 256, "last_run_id": "y" * 256}, InputStateSeed("x" * 256, last_run_id="y" * 256)),
        ({"phase": "x" * 257, "last_run_id": "y" * 257}, InputStateSeed("")),
    ]
    for fields, seed in cases:
        state = input_state(**fields)
        await store.persist_input_state(runtime_id, state)
        loaded = await store.load_input_state(runtime_id, state.input_id)
        assert loaded is not None
        assert loaded.seed == seed, fields


async def test_a_seed_in_a_request_is_ignored(
    wire: runtime_store_pb2_grpc.RuntimeStoreAsyncStub, realm: str, runtime_id: str
) -> None:
    state = input_state()
    await wire.PersistInputState(
        pb.PersistInputStateRequest(
            realm=realm,
            runtime_id=runtime_id,
            state=pb.StoredInputState(
                input_id=state.input_id,
                state_json=state.state_json,
                seed=pb.InputStateSeed(phase="consumed", last_run_id="x", attempt_count=9),
            ),
        )
    )
    answer = await wire.LoadInputState(
        pb.LoadInputStateRequest(realm=realm, runtime_id=runtime_id, input_id=state.input_id)
    )

    assert answer.state.seed == pb.InputStateSeed(phase="queued")


async def test_an_unknown_state_of_an_input_passes(store: Store, runtime_id: str) -> None:
    for phase in ("", "pondered", "\u0000", "Queued"):
        state = input_state(phase=phase)
        await store.persist_input_state(runtime_id, state)
        loaded = await store.load_input_state(runtime_id, state.input_id)
        assert loaded == state
        assert loaded is not None
        assert loaded.seed is not None
        assert loaded.seed.phase == phase


async def test_an_input_is_found_under_its_id_in_any_form(store: Store, runtime_id: str) -> None:
    state = input_state()
    shouted = InputState(state.input_id.upper(), state.state_json.replace(state.input_id, state.input_id.upper()))
    await store.persist_input_state(runtime_id, shouted)

    for form in (state.input_id, state.input_id.upper(), state.input_id.replace("-", ""), f"{{{state.input_id}}}"):
        loaded = await store.load_input_state(runtime_id, form)
        assert loaded == InputState(state.input_id, shouted.state_json)
    assert len(await store.load_input_states(runtime_id)) == 1


async def test_an_input_of_another_runtime_is_another_input(store: Store, runtime_id: str) -> None:
    state = input_state()
    await store.persist_input_state(runtime_id, state)

    assert await store.load_input_state(f"{runtime_id}/other", state.input_id) is None
    assert await store.load_input_states(f"{runtime_id}/other") == []


@pytest.mark.parametrize("depth", [400, 900, 980, 985, 990, 1000])
async def test_an_input_is_accepted_and_readable_however_deep_it_is_nested(
    store: Store, runtime_id: str, depth: int
) -> None:
    input_id = new_id()
    opaque = "[" * depth + "]" * depth
    # Over 256 KiB: checked on another thread than a small one, with another depth of calls above it.
    padding = "x" * 300_000
    document = f'{{"input_id":"{input_id}","current_state":"queued","opaque":{opaque},"padding":"{padding}"}}'
    state = InputState(input_id, document)
    await store.persist_input_state(runtime_id, state)

    assert await store.load_input_state(runtime_id, input_id) == state
    assert await store.load_input_states(runtime_id) == [state]
