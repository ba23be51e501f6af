"""Whatever a message is: with its document left in it, it is decoded to what protobuf makes of it, or refused alike."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from google.protobuf.message import DecodeError

from runtimestore.v1 import runtime_store_pb2 as pb
from runtimestore_server.rpc import undecoded_documents
from runtimestore_server.rpc.undecoded_documents import DELTAS, decoded

if TYPE_CHECKING:
    import random

    from support.checkers.torture import Trial

DELTA = DELTAS["/runtimestore.v1.RuntimeStore/AtomicApply"]


@pytest.fixture(autouse=True)
def _small_ones_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(undecoded_documents, "LEAST_BYTES", 8)
    monkeypatch.setattr(undecoded_documents, "PIECE_BYTES", 16)


def _request(chance: random.Random) -> pb.AtomicApplyRequest:
    request = pb.AtomicApplyRequest(realm="r" * chance.randrange(3), runtime_id="x" * chance.randrange(200))
    match chance.randrange(10):
        case 0:
            request.session_delta.snapshot_edits.sha256 = chance.randbytes(20)
        case 1:
            request.session_delta.SetInParent()
        case 2:
            pass
        case _:
            request.session_delta.session_snapshot = chance.randbytes(chance.randrange(40))
    for _ in range(chance.randrange(3)):
        request.input_updates.add(input_id="i", state_json="s" * chance.randrange(200))
    if chance.randrange(3) == 0:
        request.if_revision = chance.getrandbits(64)
    return request


def _message(chance: random.Random) -> bytes:
    """A request as it is sent, at times with a second delta, or with a few bytes that are others."""
    made = bytearray(_request(chance).SerializeToString())
    if chance.randrange(4) == 0:
        made += _request(chance).SerializeToString()
    for _ in range(chance.choice((0, 0, 1, 2))):
        place = chance.randrange(len(made) + 1)
        match chance.randrange(3):
            case 0:
                made[place : place + 1] = bytes([chance.randrange(256)])
            case 1:
                del made[place : place + 1]
            case _:
                made.insert(place, chance.randrange(256))
    return bytes(made)


def _by_protobuf(message: bytes) -> Any:
    try:
        return pb.AtomicApplyRequest.FromString(message)
    except DecodeError:
        return None


def _number(value: int, digits: int) -> bytes:
    """A tag or a length in so many digits, of which more may be there than are needed."""
    return bytes([value >> 7 * place & 0x7F | 0x80 * (place < digits - 1) for place in range(digits)])


def _field(tag: int, value: bytes, *, tag_digits: int = 1, length_digits: int = 1) -> bytes:
    return _number(tag, tag_digits) + _number(len(value), length_digits) + value


TAG = DELTA << 3 | 2
SNAPSHOT = _field(pb.SessionDelta.SESSION_SNAPSHOT_FIELD_NUMBER << 3 | 2, b"a session that is long")
EDITS = _field(pb.SessionDelta.SNAPSHOT_EDITS_FIELD_NUMBER << 3 | 2, b"")
UNUSUAL = {
    "two documents": _field(TAG, SNAPSHOT + SNAPSHOT),
    "a document, then edits": _field(TAG, SNAPSHOT + EDITS),
    "edits, then a document": _field(TAG, EDITS + SNAPSHOT),
    "a document and a field that nobody knows": _field(TAG, SNAPSHOT + b"\x78\x01"),
    "a document and half a field": _field(TAG, SNAPSHOT + b"\x78"),
    "a delta in two parts": _field(TAG, SNAPSHOT) + _field(TAG, b""),
    "a delta that is a number": _field(TAG, SNAPSHOT) + bytes([DELTA << 3, 1]),
    "a group behind it": _field(TAG, SNAPSHOT) + b"\x7b\x78\x01\x7c",
    "fixed fields before it": b"\x79" + bytes(8) + b"\x7d" + bytes(4) + _field(TAG, SNAPSHOT),
    "a fixed field that is cut off": _field(TAG, SNAPSHOT) + b"\x79" + bytes(7),
    "the number of no field": _field(TAG, SNAPSHOT) + b"\x00\x00",
    "a wire type that is none": _field(TAG, SNAPSHOT) + b"\x7e",
    "too long a number": _field(TAG, SNAPSHOT) + b"\x78" + b"\xff" * 10 + b"\x01",
    **{f"a tag of {digits} digits": _field(TAG, SNAPSHOT, tag_digits=digits) for digits in (2, 5, 6, 10)},
    **{f"a length of {digits} digits": _field(TAG, SNAPSHOT, length_digits=digits) for digits in (2, 5, 6, 10)},
}


@pytest.mark.parametrize("message", UNUSUAL.values(), ids=UNUSUAL)
def test_what_no_client_sends_is_what_protobuf_makes_of_it(message: bytes) -> None:
    expected = _by_protobuf(message)
    try:
        found, document = decoded(message, DELTA, pb.AtomicApplyRequest.FromString)
    except DecodeError:
        assert expected is None
        return
    if document is not None:
        found.session_delta.session_snapshot = document.take()
    assert found == expected


def test_a_message_whose_document_is_left_in_it_is_what_protobuf_makes_of_it(trial: Trial) -> None:
    rounds, left, refused = trial.rounds(short=3000, long=300_000), 0, 0
    for _ in range(rounds):
        message = _message(trial.random)
        expected = _by_protobuf(message)
        try:
            found, document = decoded(message, DELTA, pb.AtomicApplyRequest.FromString)
        except DecodeError:
            assert expected is None, message
            refused += 1
            continue
        assert expected is not None, message
        if document is not None:
            left += 1
            assert found.session_delta.session_snapshot == b""
            found.session_delta.session_snapshot = document.take()
        assert found == expected, message

    assert left > rounds // 10
    assert refused > rounds // 20


def test_the_methods_that_carry_sessions_are_those_whose_documents_are_left() -> None:
    assert {path.rpartition("/")[2] for path in DELTAS} == {"AtomicApply", "CommitSessionSnapshot"}


def test_a_small_message_is_left_to_protobuf_and_so_is_one_of_another_method(monkeypatch: pytest.MonkeyPatch) -> None:
    request = pb.AtomicApplyRequest(session_delta=pb.SessionDelta(session_snapshot=b"x" * 100))
    message = request.SerializeToString()

    assert decoded(message, None, pb.AtomicApplyRequest.FromString) == (request, None)
    monkeypatch.setattr(undecoded_documents, "LEAST_BYTES", 1000)
    assert decoded(message, DELTA, pb.AtomicApplyRequest.FromString) == (request, None)
