"""What is required of a document, and that everything else passes."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from runtimestore.v1 import runtime_store_pb2 as pb
from support.checkers.refusals import is_invalid, nothing_there, refused
from support.generators.documents import as_id, input_state, new_id, session

if TYPE_CHECKING:
    from runtimestore.v1 import runtime_store_pb2_grpc
    from support.generators.calls import Store

    Wire = runtime_store_pb2_grpc.RuntimeStoreAsyncStub

TIME = {"secs_since_epoch": 1, "nanos_since_epoch": 2}
NOT_JSON = [b"", b" ", b"{", b"{}x", b"nul", b"'a'", b"{'id': 1}", b'{"id": 1,}', b"\xef\xbb\xbf{}"]
JSON_AND_A_NUL = session(session_id="5eed5eed-0000-4000-8000-000000000001") + b"\0"
NOT_AN_OBJECT = [b"[]", b"1", b"null", b'"text"', b"true"]

BAD_SESSIONS: list[tuple[dict[str, Any], str]] = [
    ({"id": None}, ".id"),
    ({"id": 1}, ".id"),
    ({"id": ""}, ".id"),
    ({"id": "rt:session:1"}, ".id"),
    ({"id": ["019e4f8e-8200-7daf-ae78-9e6aa1b965f4"]}, ".id"),
    ({"messages": None}, ".messages"),
    ({"messages": {}}, ".messages"),
    ({"messages": "none"}, ".messages"),
    ({"messages": [{"role": "user"}, 7]}, ".messages"),
    ({"messages": [{"content": "x"}]}, ".messages"),
    ({"messages": [{"role": "user"}, {"role": None}]}, ".messages"),
    ({"messages": [{"role": 1}]}, ".messages"),
    ({"created_at": None}, ".created_at"),
    ({"created_at": "2026-05-22T12:00:00Z"}, ".created_at"),
    ({"created_at": 1779451200}, ".created_at"),
    ({"created_at": {"secs_since_epoch": 1}}, ".created_at.nanos_since_epoch"),
    ({"created_at": {**TIME, "secs_since_epoch": -1}}, ".created_at.secs_since_epoch"),
    ({"created_at": {**TIME, "secs_since_epoch": 1.5}}, ".created_at.secs_since_epoch"),
    ({"created_at": {**TIME, "secs_since_epoch": 2**64}}, ".created_at.secs_since_epoch"),
    ({"created_at": {**TIME, "nanos_since_epoch": 2**32}}, ".created_at.nanos_since_epoch"),
    ({"created_at": {**TIME, "nanos_since_epoch": -1}}, ".created_at.nanos_since_epoch"),
    ({"updated_at": None}, ".updated_at"),
    ({"updated_at": []}, ".updated_at"),
    ({"updated_at": {"nanos_since_epoch": 1}}, ".updated_at.secs_since_epoch"),
    ({"updated_at": {**TIME, "secs_since_epoch": "1"}}, ".updated_at.secs_since_epoch"),
    ({"updated_at": {**TIME, "nanos_since_epoch": None}}, ".updated_at.nanos_since_epoch"),
    ({"version": -1}, ".version"),
    ({"version": "2"}, ".version"),
    ({"version": 1.5}, ".version"),
    ({"version": 2**32}, ".version"),
    ({"created_at": {**TIME, "secs_since_epoch": 2**63}}, ".created_at.secs_since_epoch"),
    ({"updated_at": {"secs_since_epoch": 2**63 - 1, "nanos_since_epoch": 10**9}}, ".updated_at.secs_since_epoch"),
    ({"created_at": {**TIME, "zone": "x"}}, ".created_at"),
    ({"updated_at": {**TIME, "zone": "x"}}, ".updated_at"),
    ({"metadata": []}, ".metadata"),
    ({"metadata": "x"}, ".metadata"),
    ({"usage": []}, ".usage"),
    ({"usage": {}}, ".usage.input_tokens"),
    ({"usage": {"input_tokens": 1}}, ".usage.output_tokens"),
    ({"usage": {"input_tokens": -1, "output_tokens": 0}}, ".usage.input_tokens"),
    ({"usage": {"input_tokens": 0, "output_tokens": 2**64}}, ".usage.output_tokens"),
    ({"usage": {"input_tokens": 0, "output_tokens": "0"}}, ".usage.output_tokens"),
]


@pytest.mark.parametrize(("fields", "path"), BAD_SESSIONS, ids=as_id)
async def test_a_session_with_a_bad_envelope_is_refused_and_its_field_is_named(
    wire: Wire, realm: str, runtime_id: str, fields: dict[str, Any], path: str
) -> None:
    document = json.loads(session())
    document.update({name: value for name, value in fields.items() if value is not None})
    for name in [name for name, value in fields.items() if value is None]:
        del document[name]
    delta = pb.SessionDelta(session_snapshot=json.dumps(document).encode())
    common: dict[str, Any] = {"realm": realm, "runtime_id": runtime_id, "session_delta": delta}
    proof = pb.RunBoundaryReceipt(run_id=new_id(), boundary=pb.RUN_APPLY_BOUNDARY_IMMEDIATE)

    for call in (
        wire.CommitSessionSnapshot(pb.CommitSessionSnapshotRequest(**common)),
        wire.AtomicApply(pb.AtomicApplyRequest(**common, receipt=proof)),
    ):
        is_invalid(await refused(call), "SESSION_SNAPSHOT_INVALID", f"session_delta.session_snapshot{path}")
    await nothing_there(wire, realm, runtime_id)


@pytest.mark.parametrize("field", ["id", "messages", "created_at", "updated_at", "version", "metadata", "usage"])
async def test_a_null_in_the_envelope_of_a_session_is_not_an_absent_field(
    wire: Wire, realm: str, runtime_id: str, field: str
) -> None:
    document = {**json.loads(session()), field: None}
    delta = pb.SessionDelta(session_snapshot=json.dumps(document).encode())

    found = await refused(
        wire.CommitSessionSnapshot(
            pb.CommitSessionSnapshotRequest(realm=realm, runtime_id=runtime_id, session_delta=delta)
        )
    )

    is_invalid(found, "SESSION_SNAPSHOT_INVALID", f"session_delta.session_snapshot.{field}")


@pytest.mark.parametrize("body", [*NOT_JSON, *NOT_AN_OBJECT, b'{"a": "\xff"}', JSON_AND_A_NUL], ids=as_id)
async def test_a_session_that_is_no_json_object_is_refused(
    wire: Wire, realm: str, runtime_id: str, body: bytes
) -> None:
    found = await refused(
        wire.CommitSessionSnapshot(
            pb.CommitSessionSnapshotRequest(
                realm=realm, runtime_id=runtime_id, session_delta=pb.SessionDelta(session_snapshot=body)
            )
        )
    )

    is_invalid(found, "SESSION_SNAPSHOT_INVALID", "session_delta.session_snapshot")
    await nothing_there(wire, realm, runtime_id)


async def test_bytes_that_are_no_utf8_anywhere_in_a_session_are_refused(
    wire: Wire, realm: str, runtime_id: str
) -> None:
    good = session("x" * 3_000_000 + "é")
    bad = good.replace(b"\\u00e9", b"\xc3")
    assert bad != good

    found = await refused(
        wire.CommitSessionSnapshot(
            pb.CommitSessionSnapshotRequest(
                realm=realm, runtime_id=runtime_id, session_delta=pb.SessionDelta(session_snapshot=bad)
            )
        )
    )

    is_invalid(found, "SESSION_SNAPSHOT_INVALID", "session_delta.session_snapshot")


@pytest.mark.parametrize(
    "fields",
    [
        {"version": None},
        {"metadata": None},
        {"usage": None},
        {"version": 2**32 - 1},
        {"messages": [{"role": "", "content": None}, {"role": "wizard", "x": [1]}]},
        {"metadata": {"id": 1, "messages": "none", "": {"deep": [{}]}}},
        {"usage": {"input_tokens": 2**64 - 1, "output_tokens": 0, "other": None}},
        {"created_at": {"secs_since_epoch": 2**63 - 1, "nanos_since_epoch": 10**9 - 1}},
        {"updated_at": {"secs_since_epoch": 0, "nanos_since_epoch": 2**32 - 1}},
        {"future": {"messages": 1}},
    ],
    ids=as_id,
)
async def test_everything_else_in_a_session_passes_untouched(
    store: Store, runtime_id: str, fields: dict[str, Any]
) -> None:
    body = session(**fields)
    await store.commit_session_snapshot(runtime_id, body)

    assert await store.load_session_snapshot(runtime_id) == body


BAD_INPUTS: list[tuple[Any, str]] = [
    ({"input_id": None}, ".input_id"),
    ({"input_id": 7}, ".input_id"),
    ({"input_id": "x"}, ".input_id"),
    ({"input_id": "019e4f8e-8200-7daf-ae78-9e6aa1b965f4"}, ".input_id"),
    ({"current_state": None}, ".current_state"),
    ({"current_state": 7}, ".current_state"),
    ({"current_state": ["queued"]}, ".current_state"),
]


@pytest.mark.parametrize(("fields", "path"), BAD_INPUTS, ids=as_id)
async def test_an_input_with_a_bad_envelope_is_refused_and_its_field_is_named(
    wire: Wire, realm: str, runtime_id: str, fields: dict[str, Any], path: str
) -> None:
    good = input_state()
    for take_away in (True, False):
        document = {**json.loads(good.state_json), **fields}
        if take_away:
            document = {name: value for name, value in document.items() if value is not None}
        bad = pb.StoredInputState(input_id=good.input_id, state_json=json.dumps(document))
        await _every_input_is_refused(wire, realm, runtime_id, bad, path)


@pytest.mark.parametrize("document", [body.decode("latin-1") for body in [*NOT_JSON, *NOT_AN_OBJECT]], ids=as_id)
async def test_an_input_that_is_no_json_object_is_refused(
    wire: Wire, realm: str, runtime_id: str, document: str
) -> None:
    bad = pb.StoredInputState(input_id=new_id(), state_json=document)
    await _every_input_is_refused(wire, realm, runtime_id, bad, "")


async def test_an_input_with_a_bare_nul_in_its_json_is_refused(wire: Wire, realm: str, runtime_id: str) -> None:
    good = input_state("here")
    bad = pb.StoredInputState(input_id=good.input_id, state_json=good.state_json.replace("here", "he\0re"))
    await _every_input_is_refused(wire, realm, runtime_id, bad, "")


async def _every_input_is_refused(wire: Wire, realm: str, runtime_id: str, bad: pb.StoredInputState, path: str) -> None:
    state = input_state()
    good = pb.StoredInputState(input_id=state.input_id, state_json=state.state_json)
    common: dict[str, Any] = {"realm": realm, "runtime_id": runtime_id}
    proof = pb.RunBoundaryReceipt(run_id=new_id(), boundary=pb.RUN_APPLY_BOUNDARY_IMMEDIATE)
    idle = pb.MachineLifecycleCommit(runtime_state=pb.RUNTIME_STATE_IDLE)
    for call, field in (
        (wire.PersistInputState(pb.PersistInputStateRequest(**common, state=bad)), "state"),
        (
            wire.AtomicApply(pb.AtomicApplyRequest(**common, receipt=proof, input_updates=[good, good, bad])),
            "input_updates[2]",
        ),
        (
            wire.CommitMachineLifecycle(
                pb.CommitMachineLifecycleRequest(**common, commit=idle, input_states=[good, bad])
            ),
            "input_states[1]",
        ),
    ):
        is_invalid(await refused(call), "INPUT_STATE_INVALID", f"{field}.state_json{path}")
    await nothing_there(wire, realm, runtime_id)


@pytest.mark.parametrize(
    ("document", "path"),
    [
        ("{}", ".epoch_id"),
        ('{"epoch_id": null}', ".epoch_id"),
        ('{"epoch_id": 7}', ".epoch_id"),
        ('{"epoch_id": "x"}', ".epoch_id"),
        ('{"epoch_id": ""}', ".epoch_id"),
        *((body.decode("latin-1"), "") for body in [*NOT_JSON, *NOT_AN_OBJECT]),
    ],
    ids=as_id,
)
async def test_an_ops_document_with_a_bad_envelope_is_refused_and_its_field_is_named(
    wire: Wire, realm: str, runtime_id: str, document: str, path: str
) -> None:
    found = await refused(
        wire.PersistOpsLifecycle(
            pb.PersistOpsLifecycleRequest(
                realm=realm, runtime_id=runtime_id, snapshot=pb.PersistedOpsSnapshot(snapshot_json=document)
            )
        )
    )

    is_invalid(found, "OPS_SNAPSHOT_INVALID", f"snapshot.snapshot_json{path}")
    await nothing_there(wire, realm, runtime_id)
