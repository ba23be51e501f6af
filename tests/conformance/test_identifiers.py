"""What realms, runtime ids and UUIDs may be, and that ids are compared as bytes."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from runtimestore import InvalidRequest
from runtimestore.v1 import runtime_store_pb2 as pb
from support.checkers.refusals import refused
from support.generators.calls import RUNTIME_WRITES, RuntimeWrite, Store, everything, input_of, named, session_of
from support.generators.documents import input_state, new_id, ops, receipt, session, spellings
from support.generators.requests import ABOUT_RUNTIMES, ALL, WRITES, request_of

if TYPE_CHECKING:
    from runtimestore.v1 import runtime_store_pb2_grpc
    from runtimestore_server.app import Application

    Wire = runtime_store_pb2_grpc.RuntimeStoreAsyncStub

BAD_UUIDS = [
    "x",
    " ",
    "019e4f8e-8200-7daf-ae78-9e6aa1b965f",
    "019e4f8e-8200-7daf-ae78-9e6aa1b965f44",
    "019e4f8e-8200-7daf-ae78-9e6aa1b965fg",
    "019e4f8e82007-daf-ae78-9e6aa1b965f4",
    "{019e4f8e-8200-7daf-ae78-9e6aa1b965f4",
    " 019e4f8e-8200-7daf-ae78-9e6aa1b965f4",
    "019e4f8e-8200-7daf-ae78-9e6aa1b965f4\n",
    "019e4f8e-8200-7daf-ae78-9e6aa1b965f4\0",
    "\u066019e4f8e-8200-7daf-ae78-9e6aa1b965f4",
    "rt:session:019e4f8e-8200-7daf-ae78-9e6aa1b965f4",
]
GOOD_UUIDS = [
    "00000000-0000-0000-0000-000000000000",
    "ffffffff-ffff-ffff-ffff-ffffffffffff",
    "c232ab00-9414-11ec-b3c8-9f6bdeced846",  # version 1
    "919108f7-52d1-4320-9bac-f847db4148a8",  # version 4
    "2ed6657d-e927-568b-95e1-2665a8aea6a2",  # version 5
    "017f22e2-79b0-7cc3-98c4-dc0c0c07398f",  # version 7
]


def _invalid(found: Any, field: str) -> None:
    assert found.code is grpc.StatusCode.INVALID_ARGUMENT
    assert found.reason == "INVALID_REQUEST"
    assert list(found.violations) == [field]
    assert found.metadata["field"] == field


@pytest.mark.parametrize("method", ALL)
async def test_an_empty_realm_is_the_realm_default(wire: Wire, method: str) -> None:
    empty, default = request_of(method, realm=""), request_of(method, realm="default")
    for request in (empty, default):
        if hasattr(request, "receipt"):
            request.receipt.run_id = new_id()
        if hasattr(request, "expected_version"):
            loaded = await wire.LoadAuthOAuthFlowSnapshot(pb.LoadAuthOAuthFlowSnapshotRequest())
            request.expected_version = loaded.version
        if hasattr(request, "request_id"):
            request.request_id = new_id()
        call = getattr(wire, method)(request)
        if hasattr(call, "__aiter__"):
            assert await call.read() is not None
        else:
            await call


async def test_what_is_written_in_the_empty_realm_is_read_in_the_realm_default(
    app: Application, runtime_id: str
) -> None:
    async with Store(app.address) as empty, Store(app.address, realm="default") as default:
        await empty.persist_input_state(runtime_id, input_of("a"))
        await default.persist_auth_oauth_flow_snapshot(runtime_id.encode())

        assert await default.load_input_states(runtime_id) == [input_of("a")]
        assert await empty.load_auth_oauth_flow_snapshot() == runtime_id.encode()


@pytest.mark.parametrize("good", ["a", "0", "a.b_c-d", "0._-", "x" * 63])
async def test_a_realm_of_the_allowed_letters_is_accepted(app: Application, good: str, runtime_id: str) -> None:
    async with Store(app.address, realm=good) as store:
        assert await store.persist_input_state(runtime_id, input_of("a")) == (1, False)
        assert await store.load_input_states(runtime_id) == [input_of("a")]


@pytest.mark.parametrize("method", ALL)
async def test_a_bad_realm_is_refused_by_every_method(wire: Wire, method: str) -> None:
    for bad in ("A", ".a", "-a", "_a", "a b", "a/b", "é", "a\0", "a\n", " ", "x" * 64):
        _invalid(await refused(getattr(wire, method)(request_of(method, realm=bad))), "realm")


@pytest.mark.parametrize("method", ABOUT_RUNTIMES)
async def test_a_bad_runtime_id_is_refused_by_every_method_that_takes_one(wire: Wire, realm: str, method: str) -> None:
    for bad in ("", "a\0b", "\0", "x" * 513, "é" * 257, "🦀" * 129):
        request = request_of(method, realm=realm, runtime_id=bad)
        found = await refused(getattr(wire, method)(request))
        _invalid(found, "runtime_id")
        if len(bad) > 3:
            assert found.store_error == ("read_failed" if method.startswith("Load") else "write_failed")


@pytest.mark.parametrize("write", RUNTIME_WRITES, ids=named)
async def test_a_runtime_id_is_any_text_of_up_to_512_bytes(store: Store, write: RuntimeWrite) -> None:
    for good in ("x", "x" * 512, "é" * 256, "🦀" * 128, " ", "\n", "a/b?c=%00&'\"\\;--", "\u202e\ufeff", "\x01"):
        assert await write(store, good, "a") == (1, False)
        assert (await everything(store, good))["revision"] == 1


async def test_runtime_ids_are_compared_as_bytes_without_folding_or_normalising(store: Store) -> None:
    alike = ["straße", "STRASSE", "strasse", "Straße", "é", "e\u0301", "É", "a", "a ", " a", "A", "a\u200b", "\uff41"]
    for name in alike:
        await store.persist_input_state(name, input_of(name))

    for name in alike:
        assert await store.load_input_states_with_revision(name) == ([input_of(name)], 1)


@pytest.mark.parametrize("method", WRITES)
async def test_a_request_id_that_is_no_uuid_is_refused_by_every_write(wire: Wire, realm: str, method: str) -> None:
    for bad in BAD_UUIDS:
        request = request_of(method, realm=realm, request_id=bad)
        _invalid(await refused(getattr(wire, method)(request)), "request_id")


@pytest.mark.parametrize("bad", ["", *BAD_UUIDS])
async def test_a_run_id_or_input_id_that_is_no_uuid_is_refused_and_named(
    wire: Wire, realm: str, runtime_id: str, bad: str
) -> None:
    state, proof = pb.StoredInputState(input_id=new_id(), state_json="{}"), _proof(new_id())
    state.state_json = input_of("a").state_json
    state.input_id = input_of("a").input_id
    common: dict[str, Any] = {"realm": realm, "runtime_id": runtime_id}

    def of(changed: str) -> pb.StoredInputState:
        return pb.StoredInputState(input_id=changed, state_json=state.state_json)

    for call, field in (
        (wire.AtomicApply(pb.AtomicApplyRequest(**common, receipt=_proof(bad))), "receipt.run_id"),
        (
            wire.AtomicApply(pb.AtomicApplyRequest(**common, receipt=_proof(new_id(), new_id(), bad))),
            "receipt.contributing_input_ids[1]",
        ),
        (
            wire.AtomicApply(pb.AtomicApplyRequest(**common, receipt=proof, input_updates=[state, of(bad)])),
            "input_updates[1].input_id",
        ),
        (
            wire.CommitMachineLifecycle(
                pb.CommitMachineLifecycleRequest(
                    **common,
                    commit=pb.MachineLifecycleCommit(runtime_state=pb.RUNTIME_STATE_IDLE),
                    input_states=[state, state, of(bad)],
                )
            ),
            "input_states[2].input_id",
        ),
        (wire.PersistInputState(pb.PersistInputStateRequest(**common, state=of(bad))), "state.input_id"),
        (wire.LoadInputState(pb.LoadInputStateRequest(**common, input_id=bad)), "input_id"),
        (wire.LoadBoundaryReceipt(pb.LoadBoundaryReceiptRequest(**common, run_id=bad)), "run_id"),
    ):
        _invalid(await refused(call), field)


@pytest.mark.parametrize("good", GOOD_UUIDS)
async def test_ids_are_uuids_of_any_version(store: Store, runtime_id: str, good: str) -> None:
    state = type(input_of("a"))(good, input_of("a").state_json.replace(input_of("a").input_id, good))
    proof = receipt(good, contributing=(good,))

    await store.atomic_apply(runtime_id, session(session_id=good), proof, [state], good, request_id=good)
    await store.persist_ops_lifecycle(runtime_id, ops(epoch_id=good))

    assert await store.load_boundary_receipt(runtime_id, good, 0) == proof
    assert await store.load_input_state(runtime_id, good) == state


async def test_ids_in_capitals_are_answered_in_lower_case(wire: Wire, realm: str, runtime_id: str) -> None:
    input_id, epoch_id, session_id = new_id(), new_id(), new_id()
    common: dict[str, Any] = {"realm": realm, "runtime_id": runtime_id}
    document = input_of("a").state_json.replace(input_of("a").input_id, input_id.upper())
    await wire.PersistInputState(
        pb.PersistInputStateRequest(**common, state=pb.StoredInputState(input_id=input_id.upper(), state_json=document))
    )
    await wire.PersistOpsLifecycle(
        pb.PersistOpsLifecycleRequest(
            **common, snapshot=pb.PersistedOpsSnapshot(snapshot_json=ops(epoch_id=epoch_id.upper()))
        )
    )
    await wire.CommitSessionSnapshot(
        pb.CommitSessionSnapshotRequest(
            **common, session_delta=pb.SessionDelta(session_snapshot=session(session_id=session_id.upper()))
        )
    )

    loaded = await wire.LoadInputState(pb.LoadInputStateRequest(**common, input_id=input_id.upper()))
    assert (loaded.state.input_id, loaded.state.state_json) == (input_id, document)
    (inputs,) = [message async for message in wire.LoadInputStates(pb.LoadInputStatesRequest(**common))]
    assert [state.input_id for state in inputs.input_states] == [input_id]
    assert (await wire.LoadOpsLifecycle(pb.LoadOpsLifecycleRequest(**common))).snapshot.epoch_id == epoch_id
    described, *_ = [message async for message in wire.LoadSessionSnapshot(pb.LoadSessionSnapshotRequest(**common))]
    assert described.info.session_id == session_id


async def test_a_nul_in_an_id_reaches_the_server_and_is_refused_there(store: Store) -> None:
    with pytest.raises(InvalidRequest) as found:
        await store.commit_session_snapshot("rt:session:\0", session_of("a"))

    assert [violation.field for violation in found.value.violations] == ["runtime_id"]


def _proof(run_id: str, *contributing: str) -> pb.RunBoundaryReceipt:
    return pb.RunBoundaryReceipt(
        run_id=run_id, boundary=pb.RUN_APPLY_BOUNDARY_RUN_START, contributing_input_ids=contributing
    )


async def test_an_id_may_stand_in_a_document_in_any_form(store: Store, runtime_id: str) -> None:
    input_id, session_id = new_id(), new_id()
    for spelt in spellings(input_id):
        document = json.dumps({"input_id": spelt, "current_state": "queued"})
        await store.persist_input_state(runtime_id, type(input_state())(input_id, document))
        loaded = await store.load_input_state(runtime_id, input_id)
        assert loaded is not None
        assert loaded.state_json == document

        await store.persist_ops_lifecycle(runtime_id, ops(epoch_id=spelt))
    for spelt in spellings(session_id):
        await store.atomic_apply(runtime_id, session(session_id=spelt), receipt())
