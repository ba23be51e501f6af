"""The envelopes of the JSON documents that are sent: what is required of them and what is listed of them.

A document is checked where the store depends on it and passes untouched everywhere else, because payloads change with
nearly every release of the runtimes. What a check refuses names the field by its path.
"""

from __future__ import annotations

import codecs
import re
from hashlib import sha256
from typing import TYPE_CHECKING, Annotated, TypeVar

import msgspec

from runtimestore.errors import (
    FieldViolation,
    InputStateInvalid,
    InvalidField,
    OpsSnapshotInvalid,
    SessionKeyMismatch,
    SessionSnapshotInvalid,
)
from runtimestore_server.identifiers import canonical_uuid, uuid_field
from runtimestore_server.lenient_json import lenient
from runtimestore_server.store.values import InputDocument, OpsDocument, SessionSnapshot

if TYPE_CHECKING:
    from runtimestore.v1 import runtime_store_pb2 as pb

T = TypeVar("T")

UINT64_MAX = 2**64 - 1
INT64_MAX = 2**63 - 1

_Unsigned = Annotated[int, msgspec.Meta(ge=0)]
_UInt32 = Annotated[int, msgspec.Meta(ge=0, le=2**32 - 1)]


class _Timestamp(msgspec.Struct):
    secs_since_epoch: _Unsigned
    nanos_since_epoch: _UInt32

    def milliseconds(self) -> int:
        """Milliseconds since the epoch, capped at what a bigint column holds."""
        return min(self.secs_since_epoch * 1000 + self.nanos_since_epoch // 1_000_000, INT64_MAX)


class _Message(msgspec.Struct):
    role: str


class _Usage(msgspec.Struct):
    input_tokens: _Unsigned
    output_tokens: _Unsigned


class _Session(msgspec.Struct):
    id: str
    messages: list[_Message]
    created_at: _Timestamp
    updated_at: _Timestamp
    version: _Unsigned | msgspec.UnsetType = msgspec.UNSET
    metadata: dict[str, msgspec.Raw] | msgspec.UnsetType = msgspec.UNSET
    usage: _Usage | msgspec.UnsetType = msgspec.UNSET


class _Input(msgspec.Struct):
    input_id: str
    current_state: str


class _Ops(msgspec.Struct):
    epoch_id: str


_session_decoder = msgspec.json.Decoder(_Session)
_input_decoder = msgspec.json.Decoder(_Input)
_ops_decoder = msgspec.json.Decoder(_Ops)


def session_snapshot(body: bytes, *, belongs_to: str | None) -> SessionSnapshot:
    """The session document `body`, checked; `belongs_to` is the session that it must be, as a canonical UUID.

    Raises:
        SessionSnapshotInvalid: the envelope is bad.
        SessionKeyMismatch: it is another session.
    """
    field = "session_delta.session_snapshot"
    session = _decode(_session_decoder, body, SessionSnapshotInvalid, field)
    session_id = _document_uuid(session.id, SessionSnapshotInvalid, f"{field}.id")
    for name, number in (
        ("version", session.version),
        ("created_at.secs_since_epoch", session.created_at.secs_since_epoch),
        ("updated_at.secs_since_epoch", session.updated_at.secs_since_epoch),
        ("usage.input_tokens", session.usage.input_tokens if session.usage else 0),
        ("usage.output_tokens", session.usage.output_tokens if session.usage else 0),
    ):
        if number and number > UINT64_MAX:
            raise _invalid(SessionSnapshotInvalid, f"{field}.{name}", "must fit into an unsigned 64-bit number")
    if belongs_to is not None and belongs_to != session_id:
        raise SessionKeyMismatch(
            f"session_store_key {belongs_to} is not the snapshot's id {session_id}; send the snapshot of that session, "
            "or the key of this one",
            metadata={"expected": belongs_to, "actual": session_id},
        )
    tokens = session.usage.input_tokens + session.usage.output_tokens if session.usage else 0
    return SessionSnapshot(
        session_id=session_id,
        body=body,
        sha256=sha256(body).digest(),
        created_at_ms=session.created_at.milliseconds(),
        updated_at_ms=session.updated_at.milliseconds(),
        message_count=len(session.messages),
        total_tokens=min(tokens, INT64_MAX),
    )


def input_state(state: pb.StoredInputState, field: str) -> InputDocument:
    """The input document in `state`, checked; `field` is its path in the request.

    Raises:
        InputStateInvalid: the envelope is bad, or the document is another input's.
        InvalidRequest: the id is no UUID.
    """
    input_id = uuid_field(state.input_id, f"{field}.input_id")
    body = state.state_json.encode()
    document = _decode(_input_decoder, body, InputStateInvalid, f"{field}.state_json")
    if canonical_uuid(document.input_id) != input_id:
        raise _invalid(
            InputStateInvalid, f"{field}.state_json.input_id", f"must be the UUID of the field {field}.input_id"
        )
    return InputDocument(input_id, body, sha256(body).digest())


def ops_snapshot(snapshot: pb.PersistedOpsSnapshot) -> OpsDocument:
    """The ops document in `snapshot`, checked.

    Raises:
        OpsSnapshotInvalid: the envelope is bad.
    """
    field = "snapshot.snapshot_json"
    body = snapshot.snapshot_json.encode()
    document = _decode(_ops_decoder, body, OpsSnapshotInvalid, field)
    named = _document_uuid(document.epoch_id, OpsSnapshotInvalid, f"{field}.epoch_id")
    return OpsDocument(named, body, sha256(body).digest())


def _decode(decoder: msgspec.json.Decoder[T], body: bytes, refusal: type[InvalidField], field: str) -> T:
    """The envelope in `body`, or a refusal that names the field by its path."""
    if not body.isascii():
        _check_utf8(body, refusal, field)
    try:
        return lenient(decoder, body)
    except msgspec.ValidationError as error:
        path, description = _located(str(error))
        raise _invalid(refusal, field + path, description) from None
    except msgspec.DecodeError as error:
        raise _invalid(refusal, field, f"must be a JSON document: {error}") from None
    except RecursionError:
        raise _invalid(refusal, field, "is nested too deeply to be read") from None


_CHUNK_BYTES = 1024 * 1024


def _check_utf8(body: bytes, refusal: type[InvalidField], field: str) -> None:
    """Refuse bytes that are no UTF-8, in chunks: a whole decoded copy could be four times as large."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        for start in range(0, len(body), _CHUNK_BYTES):
            decoder.decode(body[start : start + _CHUNK_BYTES], final=start + _CHUNK_BYTES >= len(body))
    except UnicodeDecodeError:
        raise _invalid(refusal, field, "must be UTF-8") from None


_LOCATION = re.compile(r"(?P<what>.*?)(?: - at `\$(?P<path>[^`]*)`)?", re.DOTALL)
_MISSING = re.compile(r"Object missing required field `(?P<name>[^`]*)`")


def _located(message: str) -> tuple[str, str]:
    """The path and the description in a message of msgspec, such as "Expected `str`, got `int` - at `$.id`"."""
    match = _LOCATION.fullmatch(message)
    what, path = (match["what"], match["path"] or "") if match else (message, "")
    missing = _MISSING.fullmatch(what)
    if missing:
        return f"{path}.{missing['name']}", "is required"
    return path, what


def _invalid(refusal: type[InvalidField], field: str, description: str) -> InvalidField:
    return refusal(
        f"{field}: {description}", metadata={"field": field}, violations=[FieldViolation(field, description)]
    )


def _document_uuid(text: str, refusal: type[InvalidField], field: str) -> str:
    canonical = canonical_uuid(text)
    if canonical is None:
        raise _invalid(refusal, field, "must be a UUID")
    return canonical
