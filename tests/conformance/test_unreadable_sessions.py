"""What no runtime could read back is refused in a session wherever runtimes read, and kept where they do not."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import pytest

from runtimestore.v1 import runtime_store_pb2 as pb
from support.checkers.refusals import is_invalid, refused
from support.generators.documents import as_id, input_state, new_id, session

if TYPE_CHECKING:
    from runtimestore.v1 import runtime_store_pb2_grpc
    from support.generators.calls import Store

    Wire = runtime_store_pb2_grpc.RuntimeStoreAsyncStub


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
    is_invalid(await refused(call), "SESSION_SNAPSHOT_INVALID", f"session_delta.session_snapshot{path}")


@pytest.mark.parametrize("value", UNREADABLE, ids=as_id)
async def test_a_session_that_no_runtime_could_read_back_is_refused_and_the_last_good_one_stays(
    store: Store, wire: Wire, realm: str, runtime_id: str, value: str
) -> None:
    good = session()
    await store.commit_session_snapshot(runtime_id, good)

    for member, path in (("messages", ".messages[1]"), ("metadata", ".metadata")):
        for _ in range(2):  # what was refused once is not remembered as readable
            await _is_refused(wire, realm, runtime_id, _holding(member, value), path)

    assert await store.load_session_snapshot(runtime_id) == good


@pytest.mark.parametrize("value", UNREADABLE, ids=as_id)
async def test_what_no_runtime_reads_of_a_session_may_hold_anything(store: Store, runtime_id: str, value: str) -> None:
    body = _holding("extra", value)
    await store.commit_session_snapshot(runtime_id, body)

    assert await store.load_session_snapshot(runtime_id) == body


@pytest.mark.parametrize("value", UNREADABLE, ids=as_id)
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
