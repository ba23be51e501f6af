"""One receipt per boundary, told as it was given."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from runtimestore import BoundaryReceiptExists, Commit, RunApplyBoundary
from runtimestore.v1 import runtime_store_pb2 as pb
from runtimestore_server.store.tables import receipts
from support.generators.calls import NOTHING, Store, everything, input_of, session_of
from support.generators.documents import (
    RECEIPT_SAMPLES,
    UINT64_MAX,
    input_state,
    new_id,
    receipt,
    sample,
    sample_receipt,
    session,
    spellings,
)
from support.servers.database import rows

if TYPE_CHECKING:
    from runtimestore.v1 import runtime_store_pb2_grpc
    from runtimestore_server.app import Application


async def test_a_second_receipt_for_a_boundary_is_refused_and_leaves_nothing(store: Store, runtime_id: str) -> None:
    first, second, proof = input_state(), input_state(), receipt(digest="first")
    await store.atomic_apply(runtime_id, receipt=proof, input_updates=[first])

    with pytest.raises(BoundaryReceiptExists) as refused:
        await store.atomic_apply(
            runtime_id, session(), receipt=receipt(proof.run_id, digest="second"), input_updates=[second]
        )

    assert (refused.value.run_id, refused.value.sequence) == (proof.run_id, 0)
    assert await store.load_session_snapshot(runtime_id) is None
    assert await store.load_input_states(runtime_id) == [first]
    assert await store.load_boundary_receipt_with_revision(runtime_id, proof.run_id, 0) == (proof, 1)


async def test_an_identical_receipt_in_another_request_is_refused_too(store: Store, runtime_id: str) -> None:
    proof, state = receipt(), input_state()
    await store.atomic_apply(runtime_id, receipt=proof, input_updates=[state])

    for request_id in (None, ""):
        with pytest.raises(BoundaryReceiptExists):
            await store.atomic_apply(runtime_id, receipt=proof, input_updates=[state], request_id=request_id)

    assert await store.load_input_states_with_revision(runtime_id) == ([state], 1)


async def test_of_many_receipts_for_one_boundary_at_once_one_is_written_with_its_own_inputs(
    store: Store, runtime_id: str
) -> None:
    run_id = new_id()
    proofs = [receipt(run_id, digest=str(number)) for number in range(16)]
    states = [input_state(str(number)) for number in range(16)]

    answers = await asyncio.gather(
        *(
            store.atomic_apply(runtime_id, receipt=proof, input_updates=[state])
            for proof, state in zip(proofs, states, strict=True)
        ),
        return_exceptions=True,
    )

    (winner,) = [number for number, answer in enumerate(answers) if isinstance(answer, Commit)]
    assert {type(answer) for number, answer in enumerate(answers) if number != winner} == {BoundaryReceiptExists}
    assert await store.load_boundary_receipt_with_revision(runtime_id, run_id, 0) == (proofs[winner], 1)
    assert await store.load_input_states(runtime_id) == [states[winner]]


async def test_a_boundary_is_named_by_runtime_run_and_sequence(store: Store, runtime_id: str) -> None:
    run_id = new_id()
    await store.atomic_apply(runtime_id, receipt=receipt(run_id, 0))

    assert (await store.atomic_apply(runtime_id, receipt=receipt(run_id, 1))).revision == 2
    assert (await store.atomic_apply(runtime_id, receipt=receipt(new_id(), 0))).revision == 3
    assert (await store.atomic_apply(f"{runtime_id}/other", receipt=receipt(run_id, 0))).revision == 1


async def test_a_boundary_of_another_realm_is_another_boundary(app: Application, realm: str, runtime_id: str) -> None:
    proof = receipt()
    async with Store(app.address, realm=realm) as one, Store(app.address, realm=f"{realm}-b") as other:
        await one.atomic_apply(runtime_id, receipt=proof)

        assert await other.load_boundary_receipt(runtime_id, proof.run_id, 0) is None
        assert await other.atomic_apply(runtime_id, receipt=proof) == (1, False)


async def test_the_run_id_of_a_taken_boundary_is_the_same_in_capitals(store: Store, runtime_id: str) -> None:
    proof = receipt()
    await store.atomic_apply(runtime_id, receipt=proof)

    with pytest.raises(BoundaryReceiptExists):
        await store.atomic_apply(runtime_id, receipt=receipt(proof.run_id.upper()))


async def test_sequences_may_be_committed_out_of_order(store: Store, runtime_id: str) -> None:
    run_id = new_id()
    order = [7, 1, 2, 0, 10, 9, UINT64_MAX, 3]

    for revision, sequence in enumerate(order, start=1):
        commit = await store.atomic_apply(runtime_id, receipt=receipt(run_id, sequence, digest=str(sequence)))
        assert commit == (revision, False)

    for sequence in order:
        found = await store.load_boundary_receipt(runtime_id, run_id, sequence)
        assert found == receipt(run_id, sequence, digest=str(sequence))
    assert await store.load_boundary_receipt(runtime_id, run_id, 4) is None


@pytest.mark.parametrize("sequence", [0, 1, 2**31, 2**32, 2**53 + 1, 2**63 - 1, 2**63, UINT64_MAX - 1, UINT64_MAX])
async def test_every_uint64_works_as_a_sequence_and_as_a_message_count(
    store: Store, runtime_id: str, sequence: int
) -> None:
    proof = receipt(sequence=sequence, message_count=sequence)
    await store.atomic_apply(runtime_id, receipt=proof)

    assert await store.load_boundary_receipt(runtime_id, proof.run_id, sequence) == proof
    with pytest.raises(BoundaryReceiptExists) as refused:
        await store.atomic_apply(runtime_id, receipt=proof)
    assert refused.value.sequence == sequence


async def test_sequences_are_stored_in_the_order_of_numbers(
    app: Application, store: Store, realm: str, runtime_id: str
) -> None:
    run_id = new_id()
    sequences = [0, 1, 9, 10, 2**31, 2**63 - 1, 2**63, UINT64_MAX]
    for sequence in (2**63, 10, UINT64_MAX, 0, 2**31, 9, 2**63 - 1, 1):
        await store.atomic_apply(runtime_id, receipt=receipt(run_id, sequence))

    stored = await rows(app, receipts, realm=realm, runtime_id=runtime_id)
    assert [row["sequence"] for row in stored] == sequences


@pytest.mark.parametrize("name", RECEIPT_SAMPLES)
async def test_a_sample_receipt_is_told_as_it_was_given(store: Store, runtime_id: str, name: str) -> None:
    proof = sample_receipt(name)
    await store.atomic_apply(runtime_id, sample("session_01_turn1.json"), proof)

    assert await store.load_boundary_receipt(runtime_id, proof.run_id, proof.sequence) == proof


@pytest.mark.parametrize("boundary", RunApplyBoundary)
async def test_all_three_kinds_of_boundary_are_told_as_they_were_given(
    store: Store, runtime_id: str, boundary: RunApplyBoundary
) -> None:
    proof = receipt(boundary=boundary)
    await store.atomic_apply(runtime_id, receipt=proof)

    assert await store.load_boundary_receipt(runtime_id, proof.run_id, 0) == proof


async def test_contributing_inputs_keep_their_order_and_their_repetitions(store: Store, runtime_id: str) -> None:
    ids = [new_id() for _ in range(20)]
    contributing = (*sorted(ids, reverse=True), ids[3], ids[3])
    proof = receipt(contributing=contributing)
    await store.atomic_apply(runtime_id, receipt=proof)

    assert await store.load_boundary_receipt(runtime_id, proof.run_id, 0) == proof


@pytest.mark.parametrize("digest", [None, "", " ", "no digest at all \0 \x01 \u2028 \u202e 🦀", '"\\', "x" * 100_000])
async def test_any_text_is_a_conversation_digest_and_the_empty_one_is_not_an_absent_one(
    store: Store, runtime_id: str, digest: str | None
) -> None:
    proof = receipt(digest=digest)
    await store.atomic_apply(runtime_id, receipt=proof)

    assert await store.load_boundary_receipt(runtime_id, proof.run_id, 0) == proof


async def test_a_receipt_needs_neither_session_nor_inputs(store: Store, runtime_id: str) -> None:
    proof = receipt(contributing=(new_id(),))

    assert await store.atomic_apply(runtime_id, receipt=proof) == (1, False)
    assert await everything(store, runtime_id) == {**NOTHING, "revision": 1}


async def test_ids_of_a_receipt_given_in_any_form_are_answered_in_lower_case_with_hyphens(
    wire: runtime_store_pb2_grpc.RuntimeStoreAsyncStub, realm: str, runtime_id: str
) -> None:
    run_id, one, two, three = (new_id() for _ in range(4))
    await wire.AtomicApply(
        pb.AtomicApplyRequest(
            realm=realm,
            runtime_id=runtime_id,
            receipt=pb.RunBoundaryReceipt(
                run_id=f"{{{run_id.upper()}}}",
                boundary=pb.RUN_APPLY_BOUNDARY_RUN_CHECKPOINT,
                contributing_input_ids=[one.upper(), two.replace("-", ""), f"urn:uuid:{three}"],
            ),
        )
    )

    for asked in spellings(run_id):
        answer = await wire.LoadBoundaryReceipt(
            pb.LoadBoundaryReceiptRequest(realm=realm, runtime_id=runtime_id, run_id=asked)
        )
        assert answer.receipt.run_id == run_id
        assert list(answer.receipt.contributing_input_ids) == [one, two, three]
        assert answer.receipt.boundary == pb.RUN_APPLY_BOUNDARY_RUN_CHECKPOINT


async def test_a_session_outside_a_boundary_leaves_no_receipt(store: Store, runtime_id: str) -> None:
    await store.commit_session_snapshot(runtime_id, session_of("a"))
    await store.persist_input_state(runtime_id, input_of("a"))

    assert (await everything(store, runtime_id))["receipts"] == [None, None]
