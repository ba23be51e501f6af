"""What every refusal carries on the wire, and what none ever shows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio
import pytest

from runtimestore.errors import REFUSALS, Fenced
from runtimestore.v1 import error_reason_pb2
from runtimestore.v1 import runtime_store_pb2 as pb
from support.checkers.refusals import WireRefusal, is_refusal, nothing_there, refused
from support.generators.documents import new_id, session, spellings
from support.generators.requests import ALL, RUNTIME_WRITES, WRITES, request_of

if TYPE_CHECKING:
    from runtimestore.v1 import runtime_store_pb2_grpc
    from runtimestore_server.app import Application

    Wire = runtime_store_pb2_grpc.RuntimeStoreAsyncStub

STREAMS = ("LoadInputStates", "LoadSessionSnapshot")
STORE_ERRORS = {"write_failed", "read_failed", "session_key_mismatch", "not_found", "unsupported", "internal"}

SECRET = "8d2c-a-value-that-a-caller-sent"  # noqa: S105  (of a test)


async def _call(wire: Wire, method: str, **changed: Any) -> WireRefusal:
    return await refused(getattr(wire, method)(request_of(method, **changed)))


async def test_a_session_key_that_does_not_match(wire: Wire, realm: str) -> None:
    key, session_id = new_id(), new_id()
    delta = pb.SessionDelta(session_snapshot=session(SECRET, session_id=session_id))

    found = await _call(wire, "AtomicApply", realm=realm, session_delta=delta, session_store_key=key)

    is_refusal(found, grpc.StatusCode.INVALID_ARGUMENT, "SESSION_KEY_MISMATCH", "session_key_mismatch")
    assert (found.metadata["expected"], found.metadata["actual"]) == (key, session_id)
    assert list(found.violations) == ["session_store_key"]


async def test_a_bad_document_of_each_kind(wire: Wire, realm: str) -> None:
    bad = f'{{"text": "{SECRET}"}}'
    state = pb.StoredInputState(input_id=new_id(), state_json=bad)
    for method, changed, reason in (
        ("CommitSessionSnapshot", {"session_delta": {"session_snapshot": bad.encode()}}, "SESSION_SNAPSHOT_INVALID"),
        ("AtomicApply", {"session_delta": {"session_snapshot": bad.encode()}}, "SESSION_SNAPSHOT_INVALID"),
        ("AtomicApply", {"input_updates": [state]}, "INPUT_STATE_INVALID"),
        ("PersistInputState", {"state": state}, "INPUT_STATE_INVALID"),
        ("CommitMachineLifecycle", {"input_states": [state]}, "INPUT_STATE_INVALID"),
        ("PersistOpsLifecycle", {"snapshot": {"snapshot_json": bad}}, "OPS_SNAPSHOT_INVALID"),
    ):
        found = await _call(wire, method, realm=realm, **changed)
        is_refusal(found, grpc.StatusCode.INVALID_ARGUMENT, reason, "write_failed")
        assert len(found.violations) == 1


async def test_all_that_varies_in_what_is_told_of_a_bad_field_stands_in_the_metadata(wire: Wire, realm: str) -> None:
    session_id = new_id()
    for method, changed in (
        ("CommitSessionSnapshot", {"session_delta": {"session_snapshot": b'{"id": }'}}),
        ("CommitSessionSnapshot", {"session_delta": {"session_snapshot": b'{"id":   }'}}),
        ("CommitSessionSnapshot", {"session_delta": {"session_snapshot": session(messages=[{"role": 1}])}}),
        ("CommitSessionSnapshot", {"session_delta": {"session_snapshot": session(session_id="x")}}),
        ("AtomicApply", {"session_delta": {"session_snapshot": session(version=2**32, session_id=session_id)}}),
        ("PersistInputState", {"state": {"input_id": new_id(), "state_json": "[]"}}),
        ("PersistOpsLifecycle", {"snapshot": {"snapshot_json": "{}"}}),
        ("LoadInputState", {"input_id": "x"}),
        ("CommitMachineLifecycle", {"commit": {"runtime_state": 0}}),
    ):
        found = await _call(wire, method, realm=realm, **changed)
        assert found.message == f"{found.metadata['field']}: {found.metadata['description']}"
        assert found.violations == {found.metadata["field"]: found.metadata["description"]}


@pytest.mark.parametrize("method", WRITES)
async def test_a_refusal_names_its_call_by_the_request_id_in_lower_case_with_hyphens(wire: Wire, method: str) -> None:
    request_id = new_id()
    for spelt in spellings(request_id):
        found = await _call(wire, method, realm="No realm", request_id=spelt)
        assert found.metadata["request_id"] == request_id


async def test_what_stands_in_a_bad_document_is_not_told(wire: Wire, realm: str) -> None:
    for value in (f'"{SECRET}"', f'{{"{SECRET}": 1}}', f'["{SECRET}"]'):
        documents = (
            f'{{"id": {value}, "messages": {value}}}',
            f'{{"id": "{new_id()}", "messages": [{value}]}}',
            f'{{"{SECRET}": {value}}}',
            f"{value}{SECRET}",
            SECRET,
        )
        for document in documents:
            found = await _call(
                wire, "CommitSessionSnapshot", realm=realm, session_delta={"session_snapshot": document.encode()}
            )
            is_refusal(found, grpc.StatusCode.INVALID_ARGUMENT, "SESSION_SNAPSHOT_INVALID", "write_failed")
        state = pb.StoredInputState(input_id=new_id(), state_json=f'{{"input_id": {value}, "current_state": "x"}}')
        found = await _call(wire, "PersistInputState", realm=realm, state=state)
        is_refusal(found, grpc.StatusCode.INVALID_ARGUMENT, "INPUT_STATE_INVALID", "write_failed")
        found = await _call(
            wire, "PersistOpsLifecycle", realm=realm, snapshot={"snapshot_json": f'{{"epoch_id": {value}}}'}
        )
        is_refusal(found, grpc.StatusCode.INVALID_ARGUMENT, "OPS_SNAPSHOT_INVALID", "write_failed")


async def test_a_receipt_that_exists(wire: Wire, realm: str) -> None:
    proof = pb.RunBoundaryReceipt(run_id=new_id(), sequence=3, boundary=pb.RUN_APPLY_BOUNDARY_IMMEDIATE)
    await wire.AtomicApply(request_of("AtomicApply", realm=realm, receipt=proof))

    found = await _call(wire, "AtomicApply", realm=realm, receipt=proof)

    is_refusal(found, grpc.StatusCode.ALREADY_EXISTS, "BOUNDARY_RECEIPT_EXISTS", "write_failed")
    assert (found.metadata["run_id"], found.metadata["sequence"]) == (proof.run_id, "3")


@pytest.mark.parametrize("method", RUNTIME_WRITES)
async def test_a_missed_revision(wire: Wire, realm: str, method: str) -> None:
    found = await _call(wire, method, realm=realm, if_revision=7)

    is_refusal(found, grpc.StatusCode.ABORTED, "REVISION_MISMATCH", "write_failed")
    assert (found.metadata["if_revision"], found.metadata["current_revision"]) == ("7", "0")


@pytest.mark.parametrize("method", WRITES)
async def test_a_request_id_used_for_another_request(wire: Wire, realm: str, method: str) -> None:
    request_id = new_id()
    changed: dict[str, Any] = {"realm": realm, "request_id": request_id}
    await wire.PersistOpsLifecycle(request_of("PersistOpsLifecycle", **changed))

    found = await _call(wire, method, **changed)

    is_refusal(found, grpc.StatusCode.ALREADY_EXISTS, "REQUEST_ID_REUSED", "write_failed")
    assert found.metadata["request_id"] == request_id


async def test_a_missed_oauth_version(wire: Wire, realm: str) -> None:
    found = await _call(wire, "UpdateAuthOAuthFlowSnapshot", realm=realm, expected_version=2)

    is_refusal(found, grpc.StatusCode.ABORTED, "OAUTH_FLOW_SNAPSHOT_CHANGED", "write_failed")
    assert (found.metadata["expected_version"], found.metadata["current_version"]) == ("2", "0")


@pytest.mark.parametrize("method", ALL)
async def test_a_malformed_request(wire: Wire, method: str) -> None:
    found = await _call(wire, method, realm="NO REALM")

    is_refusal(found, grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST", "internal")
    assert list(found.violations) == ["realm"]


async def test_an_unknown_method_is_unimplemented(channel: grpc.aio.Channel) -> None:
    for path in ("/runtimestore.v1.RuntimeStore/DeleteEverything", "/runtimestore.v2.RuntimeStore/AtomicApply"):
        call: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(path)
        with pytest.raises(grpc.aio.AioRpcError) as found:
            await call(b"")
        assert found.value.code() is grpc.StatusCode.UNIMPLEMENTED


@pytest.mark.parametrize("method", ALL)
async def test_bytes_that_are_no_message_are_a_malformed_request_and_the_server_lives_on(
    channel: grpc.aio.Channel, wire: Wire, method: str
) -> None:
    path = f"/runtimestore.v1.RuntimeStore/{method}"
    call: Any = channel.unary_stream(path) if method in STREAMS else channel.unary_unary(path)
    for garbage in (b"\xff\xff\xff", b"\x0a\x05ab", b"\x0a\x02\xff\xfe"):  # no tag; cut short; no UTF-8
        found = await refused(call(garbage))
        is_refusal(found, grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST", "internal")
        assert list(found.violations) == ["request"]

    assert (await wire.LoadRuntimeState(request_of("LoadRuntimeState"))).revision >= 0


async def test_only_what_may_be_tried_later_says_when(wire: Wire, realm: str) -> None:
    for found in (
        await _call(wire, "PersistInputState", realm=realm, if_revision=7),
        await _call(wire, "UpdateAuthOAuthFlowSnapshot", realm=realm, expected_version=2),
        await _call(wire, "LoadInputStates", realm=realm, runtime_id=""),
    ):
        assert found.retry_delay_seconds is None


async def test_every_reason_is_a_class_of_its_own_with_a_code_and_an_error_of_the_trait() -> None:
    assert set(REFUSALS) == set(error_reason_pb2.ErrorReason.keys()) - {"ERROR_REASON_UNSPECIFIED"}
    assert {refusal.default_store_error for refusal in REFUSALS.values()} <= STORE_ERRORS
    assert len(set(REFUSALS.values())) == len(REFUSALS)


@pytest.mark.parametrize("method", ALL)
async def test_anything_unforeseen_is_answered_bland(
    app: Application, wire: Wire, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    async def fail(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError(f"no such column: {SECRET}: SELECT 1 in /var/lib/store.db")

    for name in ("commit", "read", "authority_key"):
        monkeypatch.setattr(app.store, name, fail)

    found = await _call(wire, method)

    is_refusal(found, grpc.StatusCode.INTERNAL, "INTERNAL", "internal")
    assert found.retry_delay_seconds is None


async def test_a_refusal_is_never_too_large_for_the_headers_that_carry_it(
    app: Application, wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_: Any, **__: Any) -> None:
        named = {"runtime_id": "rt", "fence": "1", "current_fence": "2"}
        raise Fenced("m" * 100_000, metadata={**named, "owner": "o" * 100_000})

    monkeypatch.setattr(app.store, "commit", fail)

    found = await _call(wire, "PersistInputState")

    is_refusal(found, grpc.StatusCode.ABORTED, "FENCED", "write_failed")
    assert found.message == "m" * 1024
    assert found.metadata["owner"] == "o" * 1024
    assert found.metadata["current_fence"] == "2"


async def test_a_request_that_lacks_what_it_is_about_is_refused_and_the_field_is_named(
    wire: Wire, realm: str, runtime_id: str
) -> None:
    common: dict[str, Any] = {"realm": realm, "runtime_id": runtime_id}
    proof = pb.RunBoundaryReceipt(run_id=new_id(), boundary=pb.RUN_APPLY_BOUNDARY_IMMEDIATE)
    nowhere = pb.RunBoundaryReceipt(run_id=new_id())
    unknown = pb.RunBoundaryReceipt(run_id=new_id(), boundary=99)  # type: ignore[arg-type]  # what a newer client may send
    empty = pb.SessionDelta()
    for call, field in (
        (wire.CommitSessionSnapshot(pb.CommitSessionSnapshotRequest(**common)), "session_delta"),
        (
            wire.CommitSessionSnapshot(pb.CommitSessionSnapshotRequest(**common, session_delta=empty)),
            "session_delta",
        ),
        (
            wire.AtomicApply(pb.AtomicApplyRequest(**common, session_delta=empty, receipt=proof)),
            "session_delta",
        ),
        (wire.AtomicApply(pb.AtomicApplyRequest(**common)), "receipt"),
        (wire.AtomicApply(pb.AtomicApplyRequest(**common, receipt=nowhere)), "receipt.boundary"),
        (wire.AtomicApply(pb.AtomicApplyRequest(**common, receipt=unknown)), "receipt.boundary"),
        (wire.PersistInputState(pb.PersistInputStateRequest(**common)), "state"),
        (wire.CommitMachineLifecycle(pb.CommitMachineLifecycleRequest(**common)), "commit"),
        (
            wire.CommitMachineLifecycle(pb.CommitMachineLifecycleRequest(**common, commit=pb.MachineLifecycleCommit())),
            "commit.runtime_state",
        ),
        (wire.PersistOpsLifecycle(pb.PersistOpsLifecycleRequest(**common)), "snapshot"),
    ):
        found = await refused(call)
        assert (found.code, found.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST")
        assert found.store_error == "internal"
        (named,) = found.violations
        assert named.startswith(field)
    await nothing_there(wire, realm, runtime_id)
