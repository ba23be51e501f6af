"""The envelopes of the JSON documents: what is required of them and what is read out of them.

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
    InvalidRequest,
    OpsSnapshotInvalid,
    SessionKeyMismatch,
    SessionSnapshotInvalid,
)
from runtimestore_server.identifiers import canonical_uuid, uuid_field
from runtimestore_server.store.values import InputDocument, OpsDocument, SessionSnapshot

if TYPE_CHECKING:
    from runtimestore.v1 import runtime_store_pb2 as pb

T = TypeVar("T")

UINT64_MAX = 2**64 - 1
INT64_MAX = 2**63 - 1
SEED_TEXT_MAX_CHARACTERS = 256
"""A longer text in a document is no phase and no run id that a person wants to see."""

ID_STANDS_WITHIN_BYTES = 1024

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


class _SessionId(msgspec.Struct):
    id: str


class _Input(msgspec.Struct):
    input_id: str
    current_state: str


class _Ops(msgspec.Struct):
    epoch_id: str


class _Seed(msgspec.Struct):
    input_id: str | None = None
    current_state: str = ""
    last_run_id: str | None = None
    last_boundary_sequence: int | None = None
    attempt_count: int | None = None


class _LooseSeed(msgspec.Struct):
    input_id: msgspec.Raw = msgspec.Raw()
    current_state: msgspec.Raw = msgspec.Raw()
    last_run_id: msgspec.Raw = msgspec.Raw()
    last_boundary_sequence: msgspec.Raw = msgspec.Raw()
    attempt_count: msgspec.Raw = msgspec.Raw()


_session_decoder = msgspec.json.Decoder(_Session)
_session_id_decoder = msgspec.json.Decoder(_SessionId)
_input_decoder = msgspec.json.Decoder(_Input)
_ops_decoder = msgspec.json.Decoder(_Ops)
_seed_decoder = msgspec.json.Decoder(_Seed)
_loose_seed_decoder = msgspec.json.Decoder(_LooseSeed)


def session_snapshot(body: bytes, *, belongs_to: str | None, limit_bytes: int) -> SessionSnapshot:
    """The session document `body`, checked; `belongs_to` is the session that it must be, as a canonical UUID.

    Raises:
        SessionSnapshotInvalid: the envelope is bad.
        SessionKeyMismatch: it is another session.
        InvalidRequest: it is larger than `limit_bytes`.
    """
    field = "session_delta.session_snapshot"
    within(limit_bytes, len(body), field, "max_session_snapshot_bytes")
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


def input_state(state: pb.StoredInputState, field: str, *, limit_bytes: int) -> InputDocument:
    """The input document in `state`, checked; `field` is its path in the request.

    Raises:
        InputStateInvalid: the envelope is bad, or the document is another input's.
        InvalidRequest: the id is no UUID, or the document is larger than `limit_bytes`.
    """
    input_id = uuid_field(state.input_id, f"{field}.input_id")
    body = state.state_json.encode()
    within(limit_bytes, len(body), f"{field}.state_json", "max_document_bytes")
    document = _decode(_input_decoder, body, InputStateInvalid, f"{field}.state_json")
    if canonical_uuid(document.input_id) != input_id:
        raise _invalid(
            InputStateInvalid, f"{field}.state_json.input_id", f"must be the UUID of the field {field}.input_id"
        )
    return InputDocument(input_id, body, sha256(body).digest())


def ops_snapshot(snapshot: pb.PersistedOpsSnapshot, *, limit_bytes: int) -> OpsDocument:
    """The ops document in `snapshot`, checked.

    Raises:
        OpsSnapshotInvalid: the envelope is bad.
        InvalidRequest: the document is larger than `limit_bytes`.
    """
    field = "snapshot.snapshot_json"
    body = snapshot.snapshot_json.encode()
    within(limit_bytes, len(body), field, "max_document_bytes")
    document = _decode(_ops_decoder, body, OpsSnapshotInvalid, field)
    named = _document_uuid(document.epoch_id, OpsSnapshotInvalid, f"{field}.epoch_id")
    return OpsDocument(named, body, sha256(body).digest())


class InputSeed(msgspec.Struct, frozen=True):
    """What a person wants to see of an input's document, and whose it is."""

    input_id: str | None = None
    """The input's id in its canonical form; None if the document names none."""
    phase: str = ""
    last_run_id: str | None = None
    last_boundary_sequence: int | None = None
    attempt_count: int | None = None


def input_seed(state_json: bytes, *, stored_id: str) -> InputSeed:
    """The seed of a stored document; what it lacks or holds in another type or range is absent.

    How deep a document may nest depends on the thread that reads it, and must never keep one from its owner: where it
    is too deep here, `stored_id` is believed.
    """
    try:
        seed = _lenient(_seed_decoder, state_json)
    except (msgspec.DecodeError, RecursionError):
        try:
            loose = _lenient(_loose_seed_decoder, state_json)
        except msgspec.DecodeError:
            return InputSeed()
        except RecursionError:
            return InputSeed(input_id=stored_id)
        seed = _Seed(
            input_id=_or_default(loose.input_id, str, None),
            current_state=_or_default(loose.current_state, str, ""),
            last_run_id=_or_default(loose.last_run_id, str, None),
            last_boundary_sequence=_or_default(loose.last_boundary_sequence, int, None),
            attempt_count=_or_default(loose.attempt_count, int, None),
        )
    return InputSeed(
        input_id=canonical_uuid(seed.input_id or ""),
        phase=_short(seed.current_state) or "",
        last_run_id=_short(seed.last_run_id),
        last_boundary_sequence=_in_range(seed.last_boundary_sequence, UINT64_MAX),
        attempt_count=_in_range(seed.attempt_count, 2**32 - 1),
    )


def is_session(body: bytes, session_id: str) -> bool:
    """Whether a stored session document has this id, as far as its nesting lets it be read here."""
    if not isinstance(session_id, str) or canonical_uuid(session_id) != session_id:
        return False  # damaged: SQLite even keeps values of another type
    # Nearly always the id stands near the beginning, spelt as it is stored: no need to parse megabytes to find it.
    if session_id.encode() in body[:ID_STANDS_WITHIN_BYTES]:
        return True
    try:
        return canonical_uuid(_lenient(_session_id_decoder, body).id) == session_id
    except msgspec.DecodeError:
        return False
    except RecursionError:
        return True


def epoch_id(snapshot_json: bytes, *, stored_id: str) -> str | None:
    """The epoch of a stored ops document; None if it names none. Where it is nested too deep, `stored_id`."""
    try:
        return canonical_uuid(_lenient(_ops_decoder, snapshot_json).epoch_id)
    except msgspec.DecodeError:
        return None
    except RecursionError:
        return stored_id


def within(limit_bytes: int, size_bytes: int, field: str, limit: str) -> None:
    """Refuse what is over a limit.

    Raises:
        InvalidRequest: `size_bytes` is over `limit_bytes`; the message names the setting `limit`.
    """
    if size_bytes > limit_bytes:
        raise InvalidRequest(
            f"{field} has {size_bytes} bytes, over the server's {limit} of {limit_bytes}; send less, or raise it",
            metadata={"field": field, "size_bytes": str(size_bytes), "limit_bytes": str(limit_bytes), "limit": limit},
            violations=[FieldViolation(field, f"must have at most {limit_bytes} bytes")],
        )


def _decode(decoder: msgspec.json.Decoder[T], body: bytes, refusal: type[InvalidField], field: str) -> T:
    """The envelope in `body`, or a refusal that names the field by its path."""
    if not body.isascii():
        _check_utf8(body, refusal, field)
    try:
        return _lenient(decoder, body)
    except msgspec.ValidationError as error:
        path, description = _located(str(error))
        raise _invalid(refusal, field + path, description) from None
    except msgspec.DecodeError as error:
        raise _invalid(refusal, field, f"must be a JSON document: {error}") from None
    except RecursionError:
        raise _invalid(refusal, field, "is nested too deeply to be read") from None


_ESCAPE = re.compile(
    rb"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|(?P<lone>u[dD][89a-fA-F][0-9a-fA-F]{2})|.)"
)
"""An escape of a JSON string: a pair of surrogates, half of one, or any other."""


def _lenient(decoder: msgspec.json.Decoder[T], body: bytes) -> T:
    """What msgspec reads in `body`, also where a string elsewhere holds half of a surrogate pair.

    That is JSON, some languages write it, and it is none of the store's business; msgspec alone refuses it.

    Raises:
        msgspec.DecodeError, RecursionError: as `decode` does.
    """
    try:
        return decoder.decode(body)
    except msgspec.ValidationError:
        raise
    except msgspec.DecodeError:
        whole = _ESCAPE.sub(lambda found: rb"\ufffd" if found["lone"] else found[0], body)
        if whole == body:
            raise
        return decoder.decode(whole)


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


D = TypeVar("D")


def _or_default(raw: msgspec.Raw, kind: type[T], default: D) -> T | D:
    if not raw:
        return default
    try:
        return msgspec.json.decode(raw, type=kind)
    except (msgspec.DecodeError, RecursionError):
        return default


def _short(text: str | None) -> str | None:
    # A seed is told beside its document: a long text would be sent twice, and make the message too large to be read.
    return text if text is None or len(text) <= SEED_TEXT_MAX_CHARACTERS else None


def _in_range(number: int | None, largest: int) -> int | None:
    return number if number is not None and 0 <= number <= largest else None
