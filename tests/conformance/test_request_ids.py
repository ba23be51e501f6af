"""A repeat is recognised by its request id, and changes nothing."""

from __future__ import annotations

import asyncio
import time
import uuid
from typing import TYPE_CHECKING

import pytest

from runtimestore import (
    BoundaryReceiptExists,
    InputStateInvalid,
    RequestIdReused,
    RevisionMismatch,
    RuntimeState,
    SessionKeyMismatch,
)
from runtimestore.v1 import runtime_store_pb2 as pb
from runtimestore_server.store.digests import SHA256_BYTES
from runtimestore_server.store.requests import RequestKey, sealed
from runtimestore_server.store.tables import requests
from support.generators.calls import RUNTIME_WRITES, RuntimeWrite, Store, everything, input_of, named, session_of
from support.generators.documents import input_state, new_id, ops, receipt, session, spellings
from support.servers.database import change, forget, rows

if TYPE_CHECKING:
    from collections.abc import Callable

    from runtimestore.v1 import runtime_store_pb2_grpc
    from runtimestore_server.app import Application

every_write = pytest.mark.parametrize("write", RUNTIME_WRITES, ids=named)


@every_write
async def test_the_same_id_with_the_same_content_answers_as_the_first_time_and_changes_nothing(
    store: Store, runtime_id: str, write: RuntimeWrite
) -> None:
    request_id = new_id()
    first = await write(store, runtime_id, "a", request_id=request_id)
    stored = await everything(store, runtime_id)

    assert first == (1, False)
    assert await write(store, runtime_id, "a", request_id=request_id) == (1, True)
    assert await write(store, runtime_id, "a", request_id=request_id) == (1, True)
    assert await everything(store, runtime_id) == stored


@every_write
async def test_a_repeat_after_later_writes_answers_as_the_first_time_and_takes_nothing_back(
    store: Store, runtime_id: str, write: RuntimeWrite
) -> None:
    request_id = new_id()
    await write(store, runtime_id, "a", request_id=request_id)
    await write(store, runtime_id, "b")
    stored = await everything(store, runtime_id)

    assert await write(store, runtime_id, "a", request_id=request_id) == (1, True)
    assert await everything(store, runtime_id) == stored


@every_write
async def test_the_same_id_with_other_content_is_refused_and_changes_nothing(
    store: Store, runtime_id: str, write: RuntimeWrite
) -> None:
    request_id = new_id()
    await write(store, runtime_id, "a", request_id=request_id)
    stored = await everything(store, runtime_id)

    with pytest.raises(RequestIdReused):
        await write(store, runtime_id, "b", request_id=request_id)

    assert await everything(store, runtime_id) == stored


@every_write
async def test_the_same_id_for_another_runtime_is_refused(store: Store, runtime_id: str, write: RuntimeWrite) -> None:
    request_id = new_id()
    await write(store, runtime_id, "a", request_id=request_id)

    with pytest.raises(RequestIdReused):
        await write(store, f"{runtime_id}/other", "a", request_id=request_id)


@every_write
async def test_the_same_id_with_another_if_revision_is_other_content(
    store: Store, runtime_id: str, write: RuntimeWrite
) -> None:
    request_id = new_id()
    await write(store, runtime_id, "a", request_id=request_id)

    for other in (0, 1):
        with pytest.raises(RequestIdReused):
            await write(store, runtime_id, "a", request_id=request_id, if_revision=other)


@every_write
async def test_a_repeat_with_if_revision_is_a_repeat_though_the_revision_has_moved_on(
    store: Store, runtime_id: str, write: RuntimeWrite
) -> None:
    request_id = new_id()
    await write(store, runtime_id, "a", request_id=request_id, if_revision=0)
    await write(store, runtime_id, "b")

    assert await write(store, runtime_id, "a", request_id=request_id, if_revision=0) == (1, True)


@every_write
async def test_the_same_id_in_another_realm_is_another_request(
    app: Application, realm: str, runtime_id: str, write: RuntimeWrite
) -> None:
    request_id = new_id()
    async with Store(app.address, realm=realm) as one, Store(app.address, realm=f"{realm}-b") as other:
        assert await write(one, runtime_id, "a", request_id=request_id) == (1, False)
        assert await write(other, runtime_id, "b", request_id=request_id) == (1, False)
        assert await write(one, runtime_id, "a", request_id=request_id) == (1, True)


@every_write
async def test_a_request_refused_for_its_revision_records_nothing(
    store: Store, runtime_id: str, write: RuntimeWrite
) -> None:
    request_id = new_id()
    with pytest.raises(RevisionMismatch):
        await write(store, runtime_id, "a", request_id=request_id, if_revision=5)

    assert await write(store, runtime_id, "b", request_id=request_id) == (1, False)


async def test_each_part_of_a_boundary_is_content(store: Store, runtime_id: str) -> None:
    request_id, body, proof, state = new_id(), session(), receipt(digest="a"), input_state()
    await store.atomic_apply(runtime_id, body, proof, [state], request_id=request_id)

    for changed in (
        (body + b" ", proof, [state]),
        (None, proof, [state]),
        (body, receipt(proof.run_id, digest="b"), [state]),
        (body, receipt(proof.run_id), [state]),
        (body, receipt(proof.run_id, digest="a", message_count=2), [state]),
        (body, receipt(proof.run_id, digest="a", contributing=(state.input_id,)), [state]),
        (body, proof, []),
        (body, proof, [state, input_state()]),
        (body, proof, [input_state(input_id=state.input_id)]),
    ):
        with pytest.raises(RequestIdReused):
            await store.atomic_apply(runtime_id, *changed, request_id=request_id)
    assert await store.atomic_apply(runtime_id, body, proof, [state], request_id=request_id) == (1, True)


async def test_the_runtime_state_is_content(store: Store, runtime_id: str) -> None:
    request_id = new_id()
    await store.commit_machine_lifecycle(runtime_id, RuntimeState.IDLE, request_id=request_id)

    with pytest.raises(RequestIdReused):
        await store.commit_machine_lifecycle(runtime_id, RuntimeState.RUNNING, request_id=request_id)


async def test_an_id_is_used_up_for_every_method_of_its_realm(store: Store, runtime_id: str) -> None:
    request_id, state = new_id(), input_of("a")
    await store.persist_input_state(runtime_id, state, request_id=request_id)

    with pytest.raises(RequestIdReused):
        await store.commit_machine_lifecycle(runtime_id, RuntimeState.IDLE, [state], request_id=request_id)
    with pytest.raises(RequestIdReused):
        await store.persist_auth_oauth_flow_snapshot(b"{}", request_id=request_id)
    with pytest.raises(RequestIdReused):
        await store.persist_ops_lifecycle(runtime_id, ops(), request_id=request_id)


async def test_a_request_with_a_bad_document_records_nothing_so_its_id_may_be_used_when_it_is_mended(
    store: Store, runtime_id: str
) -> None:
    request_id, good = new_id(), input_of("a")
    with pytest.raises(InputStateInvalid):
        await store.persist_input_state(runtime_id, type(good)(good.input_id, "{}"), request_id=request_id)
    assert await store.persist_input_state(runtime_id, good, request_id=request_id) == (1, False)

    request_id, proof, body = new_id(), receipt(), session()
    with pytest.raises(SessionKeyMismatch):
        await store.atomic_apply(runtime_id, body, proof, session_store_key=new_id(), request_id=request_id)
    assert await store.atomic_apply(runtime_id, body, proof, request_id=request_id) == (2, False)


async def test_a_request_refused_for_its_receipt_records_nothing(store: Store, runtime_id: str) -> None:
    taken, request_id = receipt(), new_id()
    await store.atomic_apply(runtime_id, receipt=taken)

    for _ in range(2):
        with pytest.raises(BoundaryReceiptExists):
            await store.atomic_apply(runtime_id, receipt=taken, request_id=request_id)

    free = receipt(taken.run_id, 1)
    assert await store.atomic_apply(runtime_id, receipt=free, request_id=request_id) == (2, False)


async def test_a_repeated_boundary_is_a_replay_and_no_second_receipt(store: Store, runtime_id: str) -> None:
    request_id, proof = new_id(), receipt()
    await store.atomic_apply(runtime_id, session_of("a"), proof, request_id=request_id)

    assert await store.atomic_apply(runtime_id, session_of("a"), proof, request_id=request_id) == (1, True)
    with pytest.raises(BoundaryReceiptExists):
        await store.atomic_apply(runtime_id, session_of("a"), proof, request_id=new_id())


async def test_a_request_id_is_the_same_in_every_textual_form(store: Store, runtime_id: str) -> None:
    request_id, state = new_id(), input_of("a")
    await store.persist_input_state(runtime_id, state, request_id=request_id)

    for form in spellings(request_id):
        assert await store.persist_input_state(runtime_id, state, request_id=form) == (1, True)


async def test_the_same_content_with_its_ids_spelt_otherwise_is_the_same_content(
    wire: runtime_store_pb2_grpc.RuntimeStoreAsyncStub, realm: str, runtime_id: str
) -> None:
    request_id, state, proof = new_id(), input_of("a"), receipt()

    async def apply(spell: Callable[[str], str]) -> pb.AtomicApplyResponse:
        return await wire.AtomicApply(
            pb.AtomicApplyRequest(
                realm=realm,
                runtime_id=runtime_id,
                request_id=spell(request_id),
                receipt=pb.RunBoundaryReceipt(
                    run_id=spell(proof.run_id),
                    boundary=pb.RUN_APPLY_BOUNDARY_IMMEDIATE,
                    contributing_input_ids=[spell(state.input_id)],
                ),
                input_updates=[pb.StoredInputState(input_id=spell(state.input_id), state_json=state.state_json)],
            )
        )

    assert not (await apply(str)).replayed
    assert (await apply(str.upper)).replayed
    assert (await apply(lambda text: text.replace("-", ""))).replayed


async def test_what_is_output_only_is_no_content(
    wire: runtime_store_pb2_grpc.RuntimeStoreAsyncStub, realm: str, runtime_id: str
) -> None:
    state = input_of("a")
    request = pb.PersistInputStateRequest(
        realm=realm,
        runtime_id=runtime_id,
        request_id=new_id(),
        state=pb.StoredInputState(input_id=state.input_id, state_json=state.state_json),
    )
    await wire.PersistInputState(request)
    request.state.seed.phase = "nonsense"

    assert (await wire.PersistInputState(request)).replayed


async def test_of_many_equal_requests_at_once_one_is_done_and_all_get_its_answer(store: Store, runtime_id: str) -> None:
    request_id = new_id()
    for write in RUNTIME_WRITES:
        before = (await store.load_runtime_state_with_revision(runtime_id)).revision
        name = named(write)
        answers = await asyncio.gather(
            *(write(store, runtime_id, name, request_id=uuid.uuid5(uuid.UUID(request_id), name)) for _ in range(16))
        )

        assert {answer.revision for answer in answers} == {before + 1}
        assert [answer.replayed for answer in answers].count(False) == 1


async def test_ids_are_kept_for_a_day_by_default(store: Store) -> None:
    assert (await store.get_server_info()).limits.request_retention_seconds == 24 * 3600


async def test_an_id_past_its_retention_is_forgotten_and_a_younger_one_is_not(
    app: Application, store: Store, realm: str, runtime_id: str
) -> None:
    old, young = new_id(), new_id()
    retention_ms = app.settings.request_retention_seconds * 1000
    await store.persist_input_state(runtime_id, input_of("a"), request_id=old)
    await store.persist_input_state(runtime_id, input_of("b"), request_id=young)
    for request_id, left_ms in ((old, -1), (young, 60_000)):
        recorded_at_ms = time.time_ns() // 1_000_000 - retention_ms + left_ms
        (row,) = await rows(app, requests, realm=realm, request_id=request_id)
        # As if it had been recorded then: the seal is over the date, too.
        fingerprint = sealed(
            RequestKey(realm, request_id), row["fingerprint"][:SHA256_BYTES], row["revision"], recorded_at_ms
        )
        aged = {"recorded_at_ms": recorded_at_ms, "fingerprint": fingerprint}
        await change(app, requests, aged, realm=realm, request_id=request_id)

    # What the server does once a minute.
    await forget(app)

    assert await store.persist_input_state(runtime_id, input_of("b"), request_id=young) == (2, True)
    assert await store.persist_input_state(runtime_id, input_of("a"), request_id=old) == (3, False)
