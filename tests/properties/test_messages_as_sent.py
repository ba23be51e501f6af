"""What loads send, put together of the documents' own bytes, is what protobuf makes of the same messages."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtimestore.v1 import runtime_store_pb2 as pb
from runtimestore_server.documents import input as inputs
from runtimestore_server.documents import session, wire
from runtimestore_server.documents.input import InputSeed, ReadableInput
from runtimestore_server.integers import UINT32_MAX, UINT64_MAX, varint
from runtimestore_server.store.reads import CorruptInput, StoredInput

if TYPE_CHECKING:
    from runtimestore_server.store.versions.chains import StoredSession

CHUNK = pb.LoadSessionSnapshotResponse.CHUNK_FIELD_NUMBER
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=300)
SEEDS = st.builds(
    InputSeed,
    input_id=st.none(),
    phase=TEXT,
    last_run_id=st.none() | TEXT,
    last_boundary_sequence=st.none() | st.integers(0, UINT64_MAX),
    attempt_count=st.none() | st.integers(0, UINT32_MAX),
)
READABLE = st.builds(
    lambda input_id, text, seed: ReadableInput(
        StoredInput(input_id, json.dumps(text, ensure_ascii=False).encode()), seed
    ),
    st.uuids().map(str),
    TEXT | st.integers(0, 20_000).map(lambda length: "é" * length),
    SEEDS,
)
CORRUPT = st.builds(CorruptInput, TEXT, TEXT)


def _expected(found: ReadableInput) -> pb.StoredInputState:
    """The message, made as any other."""
    state = pb.StoredInputState(input_id=found.stored.input_id, state_json=found.stored.state_json.decode())
    state.seed.SetInParent()
    for name in ("phase", "last_run_id", "last_boundary_sequence", "attempt_count"):
        if (value := getattr(found.seed, name)) is not None:
            setattr(state.seed, name, value)
    return state


@given(READABLE)
def test_an_input(found: ReadableInput) -> None:
    assert inputs.message(found) == _expected(found)
    assert inputs.message(found).SerializeToString() == _expected(found).SerializeToString()


@given(st.integers(0, UINT64_MAX), st.lists(READABLE | CORRUPT, max_size=8), st.integers(1, 30_000))
def test_the_inputs_of_a_runtime_in_any_number_of_messages(
    revision: int, found: list[ReadableInput | CorruptInput], batch_bytes: int
) -> None:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(wire, "MESSAGE_BYTES", batch_bytes)
        sent = [*inputs.messages(revision, found)]
    answers = [pb.LoadInputStatesResponse.FromString(message) for message in sent]

    assert [answer.revision for answer in answers] == [revision] * len(answers)
    assert answers
    readable = [item for item in found if isinstance(item, ReadableInput)]
    assert [state for answer in answers for state in answer.input_states] == list(map(_expected, readable))
    corrupt = [item for item in found if isinstance(item, CorruptInput)]
    assert [(one.input_id, one.description) for answer in answers for one in answer.corrupt_inputs] == corrupt
    beside = len(pb.LoadInputStatesResponse(revision=revision).SerializeToString())
    for message, answer in zip(sent, answers, strict=True):
        several = len(answer.input_states) + len(answer.corrupt_inputs) > 1
        assert not several or len(message) - beside <= batch_bytes


@given(st.binary(max_size=5000), st.integers(1, 2000))
def test_a_session_in_any_number_of_pieces(body: bytes, chunk_bytes: int) -> None:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(wire, "MESSAGE_BYTES", chunk_bytes)
        sent = [*session.chunks(cast("StoredSession", SimpleNamespace(body=body)), CHUNK)]

    chunks = [pb.LoadSessionSnapshotResponse.FromString(message).chunk for message in sent]
    assert b"".join(chunks) == body
    assert all(len(chunk) == chunk_bytes for chunk in chunks[:-1])
    assert sent == [pb.LoadSessionSnapshotResponse(chunk=chunk).SerializeToString() for chunk in chunks]


EDGES = [0, *(edge for power in range(65) for edge in (2**power - 1, 2**power) if edge <= UINT64_MAX)]


@given(st.integers(0, UINT64_MAX))
def test_a_number(number: int) -> None:
    _check_number(number)


def test_a_number_at_each_edge() -> None:
    for number in EDGES:
        _check_number(number)


def _check_number(number: int) -> None:
    expected = pb.LoadInputStatesResponse(revision=number).SerializeToString()
    key = wire.number_key(pb.LoadInputStatesResponse.REVISION_FIELD_NUMBER)

    assert key + varint(number) == (expected or key + b"\0")
