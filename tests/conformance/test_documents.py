"""Stored bytes are never re-serialised, trimmed or normalised."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from runtimestore import InputState
from support.generators.documents import OAUTH_SAMPLES, OPS_SAMPLES, new_id, ops, receipt, sample, session

if TYPE_CHECKING:
    from collections.abc import Callable

    from support.generators.calls import Store

GIGANTIC = "1" + "0" * 4000
ODDITIES = {
    "an escaped NUL": r'"a\u0000b\u0000"',
    "escapes where none is needed": r'"\u0041\/\u002f\b\f"',
    "a pair of surrogate escapes": r'"\ud83e\udd80"',
    "letters beyond ASCII, composed and not": '"é e\u0301 Å \u212b ﬁ 🦀 \u202e \u2028 \ufeff"',
    "an integer of thousands of digits": GIGANTIC,
    "a fraction of thousands of digits": f"-0.{GIGANTIC}",
    "an exponent beyond every float": "1e400, -1E-400, 1e+5, -0, 0.10, 100E0".join("[]"),
    "half a pair of surrogate escapes": r'["\ud800", "\uDFFF and \\ud800", "\udc00\ud800"]',
    "white space": '[ 1 ,\t2\r\n,\n   "  x  " ]',
    "keys out of order and twice": '{"z": 1, "a": 2, "z": 3, "": {}, "\\u0061": 4}',
    "much depth": "[" * 200 + "]" * 200,
    "long text": '"' + "x" * 300_000 + '"',
}


NO_RUNTIME_READS = (
    "an integer of thousands of digits",
    "an exponent beyond every float",
    "half a pair of surrogate escapes",
    "much depth",
)
"""Refused in the messages and the metadata of a session (see test_unreadable_sessions.py), and kept everywhere else."""


def _session(oddity: str) -> bytes:
    time = '{"nanos_since_epoch":0,  "secs_since_epoch":1}'
    within = "null" if oddity in [ODDITIES[name] for name in NO_RUNTIME_READS] else oddity
    return (
        f' \n{{"zz": {oddity}, "updated_at":{time}, "created_at" : {time},\t"messages":[{{"content":{within},'
        f'"role":"user"}}], "metadata": {{"odd":{within}}}, "id":"{new_id().upper()}"}}\r\n '
    ).encode()


def _input(oddity: str) -> InputState:
    input_id = new_id()
    document = f'\t{{"odd":{oddity}, "current_state"  :"queued" , "input_id":"{input_id.upper()}" }} \n'
    return InputState(input_id, document)


def _ops(oddity: str) -> str:
    return f'\n\n{{ "odd":{oddity}, "epoch_id": "{new_id().upper()}","x":null}} '


every_oddity = pytest.mark.parametrize("oddity", ODDITIES.values(), ids=ODDITIES)


@every_oddity
async def test_a_session_is_returned_byte_for_byte(store: Store, runtime_id: str, oddity: str) -> None:
    body = _session(oddity)
    await store.commit_session_snapshot(runtime_id, body)
    assert await store.load_session_snapshot(runtime_id) == body

    await store.atomic_apply(f"{runtime_id}/2", body, receipt())
    assert await store.load_session_snapshot(f"{runtime_id}/2") == body


@every_oddity
async def test_an_input_is_returned_byte_for_byte(store: Store, runtime_id: str, oddity: str) -> None:
    state = _input(oddity)
    await store.persist_input_state(runtime_id, state)

    assert await store.load_input_state(runtime_id, state.input_id) == state
    assert await store.load_input_states(runtime_id) == [state]


@every_oddity
async def test_an_ops_document_is_returned_byte_for_byte(store: Store, runtime_id: str, oddity: str) -> None:
    document = _ops(oddity)
    await store.persist_ops_lifecycle(runtime_id, document)

    assert await store.load_ops_lifecycle(runtime_id) == document


@pytest.mark.parametrize("name", OPS_SAMPLES)
async def test_a_sample_ops_document_is_returned_byte_for_byte(store: Store, runtime_id: str, name: str) -> None:
    document = sample(name).decode()
    await store.persist_ops_lifecycle(runtime_id, document)

    assert await store.load_ops_lifecycle(runtime_id) == document


OAUTH_BYTES = {
    **{name: sample(name) for name in OAUTH_SAMPLES},
    "nothing": b"",
    "a NUL": b"\0",
    "every byte": bytes(range(256)),
    "no UTF-8": b"\xff\xfe\x00{}",
    "white space": b" {} \n",
    "a megabyte": bytes(range(256)) * 4096,
}


@pytest.mark.parametrize("snapshot", OAUTH_BYTES.values(), ids=OAUTH_BYTES)
async def test_an_oauth_snapshot_is_opaque_bytes_returned_as_they_are(store: Store, snapshot: bytes) -> None:
    await store.persist_auth_oauth_flow_snapshot(b"before")
    await store.persist_auth_oauth_flow_snapshot(snapshot)
    assert await store.load_auth_oauth_flow_snapshot() == snapshot

    seen: list[bytes | None] = []

    def update(current: bytes | None) -> bytes:
        seen.append(current)
        return snapshot[::-1]

    await store.update_auth_oauth_flow_snapshot(update)
    assert seen == [snapshot]
    assert await store.load_auth_oauth_flow_snapshot() == snapshot[::-1]


@pytest.mark.parametrize(
    "change",
    [lambda body: body + b"\n", lambda body: body.replace(b'": ', b'":'), lambda body: b" " + body],
    ids=["a line end behind", "spaces taken out", "a space in front"],
)
async def test_a_document_that_differs_in_white_space_alone_replaces_the_other(
    store: Store, runtime_id: str, change: Callable[[bytes], bytes]
) -> None:
    body, document = session(), ops()
    state = InputState.from_json(sample("input_queued_prompt.json").decode())
    state = InputState(state.input_id, state.state_json.replace(":", ": "))
    await store.atomic_apply(runtime_id, body, receipt(), [state])
    await store.persist_ops_lifecycle(runtime_id, document)

    changed = InputState(state.input_id, change(state.state_json.encode()).decode())
    await store.atomic_apply(runtime_id, change(body), receipt(), [changed])
    await store.persist_ops_lifecycle(runtime_id, change(document.encode()).decode())

    assert await store.load_session_snapshot(runtime_id) == change(body)
    assert await store.load_input_states(runtime_id) == [changed]
    assert await store.load_ops_lifecycle(runtime_id) == change(document.encode()).decode()
