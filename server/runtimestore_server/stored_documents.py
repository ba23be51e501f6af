"""What is read out of documents that are stored: a digest vouches for them, and they vouch for the ids beside them.

How deep a document may nest depends on the thread that reads it, and must never keep one from its owner: where it is
too deep here, the stored id is believed.
"""

from __future__ import annotations

from typing import TypeVar

import msgspec

from runtimestore_server.identifiers import canonical_uuid
from runtimestore_server.lenient_json import lenient

T = TypeVar("T")
D = TypeVar("D")

UINT32_MAX = 2**32 - 1
UINT64_MAX = 2**64 - 1
SEED_TEXT_MAX_CHARACTERS = 256
"""A longer text in a document is no phase and no run id that a person wants to see."""

ID_STANDS_WITHIN_BYTES = 1024


class _SessionId(msgspec.Struct):
    id: str


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


_session_id_decoder = msgspec.json.Decoder(_SessionId)
_ops_decoder = msgspec.json.Decoder(_Ops)
_seed_decoder = msgspec.json.Decoder(_Seed)
_loose_seed_decoder = msgspec.json.Decoder(_LooseSeed)


class InputSeed(msgspec.Struct, frozen=True):
    """What a person wants to see of an input's document, and whose it is."""

    input_id: str | None = None
    """The input's id in its canonical form; None if the document names none."""
    phase: str = ""
    last_run_id: str | None = None
    last_boundary_sequence: int | None = None
    attempt_count: int | None = None


def input_seed(state_json: bytes, *, stored_id: str) -> InputSeed:
    """The seed of a stored document; what it lacks or holds in another type or range is absent."""
    try:
        seed = lenient(_seed_decoder, state_json)
    except (msgspec.DecodeError, RecursionError):
        try:
            loose = lenient(_loose_seed_decoder, state_json)
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
        attempt_count=_in_range(seed.attempt_count, UINT32_MAX),
    )


def is_session(body: bytes, session_id: str) -> bool:
    """Whether a stored session document has this id, as far as its nesting lets it be read here."""
    if not isinstance(session_id, str) or canonical_uuid(session_id) != session_id:
        return False  # damaged: SQLite even keeps values of another type
    # Nearly always the id stands near the beginning, spelt as it is stored: no need to parse megabytes to find it.
    if session_id.encode() in body[:ID_STANDS_WITHIN_BYTES]:
        return True
    try:
        return canonical_uuid(lenient(_session_id_decoder, body).id) == session_id
    except msgspec.DecodeError:
        return False
    except RecursionError:
        return True


def epoch_id(snapshot_json: bytes, *, stored_id: str) -> str | None:
    """The epoch of a stored ops document; None if it names none. Where it is nested too deep, `stored_id`."""
    try:
        return canonical_uuid(lenient(_ops_decoder, snapshot_json).epoch_id)
    except msgspec.DecodeError:
        return None
    except RecursionError:
        return stored_id


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
