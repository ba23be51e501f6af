"""What is required of a document, and that everything else passes."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from runtimestore.v1 import runtime_store_pb2 as pb
from support.checkers.refusals import WireRefusal, refused
from support.generators.documents import input_state, new_id, ops, receipt, session

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


def _named(case: Any) -> str:
    return repr(case).replace("/", "|")[:60]


def _is_invalid(found: WireRefusal, reason: str, field: str) -> None:
    assert found.code is grpc.StatusCode.INVALID_ARGUMENT
    assert found.reason == reason
    assert found.store_error == "write_failed"
    (named,) = found.violations
    assert named.startswith(field), named
    assert found.violations[named]
    assert found.metadata["field"] == named


async def _nothing_there(wire: Wire, realm: str, runtime_id: str) -> None:
    answer = await wire.LoadRuntimeState(pb.LoadRuntimeStateRequest(realm=realm, runtime_id=runtime_id))
    assert answer.revision == 0


@pytest.mark.parametrize(("fields", "path"), BAD_SESSIONS, ids=_named)
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
        _is_invalid(await refused(call), "SESSION_SNAPSHOT_INVALID", f"session_delta.session_snapshot{path}")
    await _nothing_there(wire, realm, runtime_id)


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

    _is_invalid(found, "SESSION_SNAPSHOT_INVALID", f"session_delta.session_snapshot.{field}")


@pytest.mark.parametrize("body", [*NOT_JSON, *NOT_AN_OBJECT, b'{"a": "\xff"}', JSON_AND_A_NUL], ids=_named)
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

    _is_invalid(found, "SESSION_SNAPSHOT_INVALID", "session_delta.session_snapshot")
    await _nothing_there(wire, realm, runtime_id)


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

    _is_invalid(found, "SESSION_SNAPSHOT_INVALID", "session_delta.session_snapshot")


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
    ids=_named,
)
async def test_everything_else_in_a_session_passes_untouched(
    store: Store, runtime_id: str, fields: dict[str, Any]
) -> None:
    body = session(**fields)
    await store.commit_session_snapshot(runtime_id, body)

    assert await store.load_session_snapshot(runtime_id) == body


def _nested(opening: str, closing: str, levels: int) -> str:
    return f"{opening * levels}0{closing * levels}"


UNREADABLE = [
    '"\\ud800"', '"\\udc00x"', '"\\ud83d\\u0041"', '"\\ude00\\ud83d"', '{"\\udfff": 1}', '[["\\\\\\ud800"]]',
    "1e400", "-1E+400", "1.5e0309", "1e99999999999", "9" * 309, "9" * 5000, "9" * 250 + ".5e99", "[0, [1e309]]",
    "17976931348623158e292", "1797693134862315807.9e290", "0.17976931348623158e309", "17976931348623158" + "0" * 292,
]  # fmt: skip
"""What Rust's types cannot read back, as it stands in a document."""

READABLE = [
    '"\\ud83d\\ude00"', '"\\\\ud800"', '"1e400"', '"%s"' % ("9" * 400), '"[[[[{\\""', "1e308", "1e-400", "0e400",
    "-0.0E+999", "9" * 308, "0." + "0" * 400 + "1e400", '"%s"' % ("[{" * 200), "[" + "[],{}," * 200 + "0]",
]  # fmt: skip
"""What looks like it and can be read back."""

LEVELS_LEFT = {"messages": 124, "metadata": 125}
"""How many levels are left of the 127 for a value in the content of a message, or in metadata.

The document is the first one, `messages` and `metadata` are the second, a message is the third: serde_json, asked for
these very documents, reads so many and refuses one more.
"""


def _holding(member: str, value: str) -> bytes:
    document = json.loads(session())
    mark = new_id()
    document[member] = {
        "messages": [{"role": "user"}, {"role": "user", "content": mark}],
        "metadata": {"first": 1, "a": mark},
        "extra": mark,
    }[member]
    return json.dumps(document).replace(f'"{mark}"', value).encode()


async def _is_refused(wire: Wire, realm: str, runtime_id: str, body: bytes, path: str) -> None:
    delta = pb.SessionDelta(session_snapshot=body)
    call = wire.CommitSessionSnapshot(
        pb.CommitSessionSnapshotRequest(realm=realm, runtime_id=runtime_id, session_delta=delta)
    )
    _is_invalid(await refused(call), "SESSION_SNAPSHOT_INVALID", f"session_delta.session_snapshot{path}")


@pytest.mark.parametrize("value", UNREADABLE, ids=_named)
async def test_a_session_that_no_runtime_could_read_back_is_refused_and_the_last_good_one_stays(
    store: Store, wire: Wire, realm: str, runtime_id: str, value: str
) -> None:
    good = session()
    await store.commit_session_snapshot(runtime_id, good)

    for member, path in (("messages", ".messages[1]"), ("metadata", ".metadata")):
        for _ in range(2):  # what was refused once is not remembered as readable
            await _is_refused(wire, realm, runtime_id, _holding(member, value), path)

    assert await store.load_session_snapshot(runtime_id) == good


@pytest.mark.parametrize("value", UNREADABLE, ids=_named)
async def test_what_no_runtime_reads_of_a_session_may_hold_anything(store: Store, runtime_id: str, value: str) -> None:
    body = _holding("extra", value)
    await store.commit_session_snapshot(runtime_id, body)

    assert await store.load_session_snapshot(runtime_id) == body


@pytest.mark.parametrize("value", UNREADABLE, ids=_named)
async def test_inputs_and_ops_documents_may_hold_anything_in_what_is_not_needed_of_them(
    store: Store, runtime_id: str, value: str
) -> None:
    input_id = new_id()
    state = type(input_state())(input_id, f'{{"input_id": "{input_id}", "current_state": "queued", "x": {value}}}')
    registry = f'{{"epoch_id": "{new_id()}", "x": {value}}}'
    await store.persist_input_state(runtime_id, state)
    await store.persist_ops_lifecycle(runtime_id, registry)

    assert await store.load_input_state(runtime_id, input_id) == state
    assert await store.load_ops_lifecycle(runtime_id) == registry


async def test_what_only_looks_unreadable_in_a_session_is_accepted(store: Store, runtime_id: str) -> None:
    for value in READABLE:
        for member in LEVELS_LEFT:
            body = _holding(member, value)
            await store.commit_session_snapshot(runtime_id, body)
            assert await store.load_session_snapshot(runtime_id) == body


@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ('{"a":', "}"), ('[0, {"]": ', "}]")])
@pytest.mark.parametrize("before", ["", '"[{\\"]}",', '"%s",' % ("x" * 100_000)], ids=["alone", "brackets", "long"])
async def test_a_session_is_nested_up_to_127_levels_and_not_one_more(
    store: Store, wire: Wire, realm: str, runtime_id: str, opening: str, closing: str, before: str
) -> None:
    levels = opening.count("[") + opening.count("{")
    for member, left in LEVELS_LEFT.items():
        times, rest = divmod(left - 1, levels)
        within = f"[{before} {'[' * rest}{_nested(opening, closing, times)}{']' * rest}]"
        body = _holding(member, within)
        await store.commit_session_snapshot(runtime_id, body)
        assert await store.load_session_snapshot(runtime_id) == body

        path = {"messages": ".messages[1]", "metadata": ".metadata"}[member]
        await _is_refused(wire, realm, runtime_id, _holding(member, f"[{within}]"), path)


@pytest.mark.parametrize(
    ("member", "twice", "path"),
    [
        ("id", '"id": "x"', ".id"),
        ("id", '"\\u0069d": "x"', ".id"),
        ("messages", '"messages": []', ".messages"),
        ("messages", '"messages": [{"content": 1e400}]', ".messages"),
        ("metadata", '"metadata": {}', ".metadata"),
        ("created_at", '"created_at": {"secs_since_epoch": 1, "nanos_since_epoch": 2}', ".created_at"),
        ("secs_since_epoch", '"secs_since_epoch": 1', ".created_at.secs_since_epoch"),
        ("role", '"role": "user"', ".messages[0].role"),
        ("role", '"r\\u006fle": "user"', ".messages[0].role"),
    ],
)
async def test_a_member_that_a_session_gives_twice_is_refused(
    wire: Wire, realm: str, runtime_id: str, member: str, twice: str, path: str
) -> None:
    body = session().replace(f'"{member}"'.encode(), f'{twice}, "{member}"'.encode(), 1)

    await _is_refused(wire, realm, runtime_id, body, path)


@pytest.mark.parametrize("name", ["\\ud800", "x\\udfff", "\\ude00\\ud83d", "\\ud83d\\u0041"])
async def test_half_a_surrogate_pair_in_a_members_name_is_refused_wherever_runtimes_read_names(
    store: Store, wire: Wire, realm: str, runtime_id: str, name: str
) -> None:
    for at, path in ((b'"id"', ""), (b'"input_tokens"', ".usage")):
        await _is_refused(wire, realm, runtime_id, session().replace(at, f'"{name}": 0, '.encode() + at, 1), path)
    body = session().replace(b'"id"', f'"extra": {{"{name}": "{name}"}}, "id"'.encode(), 1)
    await store.commit_session_snapshot(runtime_id, body)
    assert await store.load_session_snapshot(runtime_id) == body


TOKENS = ("cache_creation_tokens", "cache_read_tokens")


@pytest.mark.parametrize(
    ("member", "value"),
    [
        *((name, "-0") for name in ("version", "secs_since_epoch", "nanos_since_epoch")),
        *((name, "-0") for name in ("input_tokens", "output_tokens", *TOKENS)),
        *((TOKENS[0], value) for value in ("-1", "1.0", "1e2", '"1"', "true", "[]", "18446744073709551616", "1e400")),
        (TOKENS[1], '1, "cache_read_tokens": 1'),
    ],
)
async def test_what_the_types_take_for_no_unsigned_number_of_the_envelope_is_refused(
    store: Store, wire: Wire, realm: str, runtime_id: str, member: str, value: str
) -> None:
    def body(number: str) -> bytes:
        usage = {"input_tokens": 1, "output_tokens": 2, **dict.fromkeys(TOKENS, 3)}
        good = json.dumps({**json.loads(session()), "version": 2, "usage": usage})
        return re.sub(f'"{member}": [0-9]+', lambda _: f'"{member}": {number}', good, count=1).encode()

    over = "created_at." if member.endswith("_epoch") else "usage." if member.endswith("_tokens") else ""
    await _is_refused(wire, realm, runtime_id, body(value), f".{over}{member}")
    for number in ("0", "null") if member in TOKENS else ("0",):
        await store.commit_session_snapshot(runtime_id, body(number))


async def test_what_is_no_member_of_the_same_object_is_not_given_twice(store: Store, runtime_id: str) -> None:
    message = {"role": "user", "content": {"role": "x", "text": '"role" \u001b'}, "meta": {"role": "y", "id": "z"}}
    body = session(messages=[message, message], extra={"id": 1, "messages": [], "extra": {"extra": 1}})
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


@pytest.mark.parametrize(("fields", "path"), BAD_INPUTS, ids=_named)
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


@pytest.mark.parametrize("document", [body.decode("latin-1") for body in [*NOT_JSON, *NOT_AN_OBJECT]], ids=_named)
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
        _is_invalid(await refused(call), "INPUT_STATE_INVALID", f"{field}.state_json{path}")
    await _nothing_there(wire, realm, runtime_id)


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
    ids=_named,
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

    _is_invalid(found, "OPS_SNAPSHOT_INVALID", f"snapshot.snapshot_json{path}")
    await _nothing_there(wire, realm, runtime_id)


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
    await _nothing_there(wire, realm, runtime_id)


async def test_an_id_may_stand_in_a_document_in_any_form(store: Store, runtime_id: str) -> None:
    input_id, session_id = new_id(), new_id()
    for spelt in (input_id, input_id.upper(), input_id.replace("-", ""), f"{{{input_id}}}", f"urn:uuid:{input_id}"):
        document = json.dumps({"input_id": spelt, "current_state": "queued"})
        await store.persist_input_state(runtime_id, type(input_state())(input_id, document))
        loaded = await store.load_input_state(runtime_id, input_id)
        assert loaded is not None
        assert loaded.state_json == document

        body = session(session_id=spelt.replace(input_id, session_id))
        await store.atomic_apply(runtime_id, body, receipt())
        await store.persist_ops_lifecycle(runtime_id, ops(epoch_id=spelt))
