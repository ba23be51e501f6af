"""Inputs: their check, what a person sees of one (its seed), their messages.

The stored form is the document as it was sent, byte for byte.
"""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import msgspec

from runtimestore.errors import InputStateInvalid, StoredValueCorrupt
from runtimestore.v1 import runtime_store_pb2 as pb
from runtimestore_server.documents import wire
from runtimestore_server.documents.identifiers import canonical_uuid, uuid_field
from runtimestore_server.documents.json import envelope, invalid, lenient
from runtimestore_server.integers import UINT32_MAX, UINT64_MAX, varint
from runtimestore_server.store import reads
from runtimestore_server.store.values import InputDocument

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from sqlalchemy.engine import Connection

    from runtimestore_server.store import RuntimeKey

SEED_TEXT_MAX_CHARACTERS = 256
"""A longer text in a document is no phase and no run id that a person wants to see."""

_INPUT_ID = wire.key(pb.StoredInputState.INPUT_ID_FIELD_NUMBER)
_STATE_JSON = wire.key(pb.StoredInputState.STATE_JSON_FIELD_NUMBER)
_SEED = wire.key(pb.StoredInputState.SEED_FIELD_NUMBER)
_PHASE = wire.key(pb.InputStateSeed.PHASE_FIELD_NUMBER)
_LAST_RUN_ID = wire.key(pb.InputStateSeed.LAST_RUN_ID_FIELD_NUMBER)
_LAST_BOUNDARY_SEQUENCE = wire.number_key(pb.InputStateSeed.LAST_BOUNDARY_SEQUENCE_FIELD_NUMBER)
_ATTEMPT_COUNT = wire.number_key(pb.InputStateSeed.ATTEMPT_COUNT_FIELD_NUMBER)

T = TypeVar("T")
D = TypeVar("D")


class _Input(msgspec.Struct):
    input_id: str
    current_state: str


class InputSeed(msgspec.Struct, frozen=True):
    """The summary of an input's document that people want to see, and the input's id."""

    input_id: str | None = None
    """The input's id in its canonical form; None if the document names none."""
    phase: str = msgspec.field(default="", name="current_state")
    last_run_id: str | None = None
    last_boundary_sequence: int | None = None
    attempt_count: int | None = None


class _LooseSeed(msgspec.Struct):
    input_id: msgspec.Raw = msgspec.Raw()
    current_state: msgspec.Raw = msgspec.Raw()
    last_run_id: msgspec.Raw = msgspec.Raw()
    last_boundary_sequence: msgspec.Raw = msgspec.Raw()
    attempt_count: msgspec.Raw = msgspec.Raw()


_decoder = msgspec.json.Decoder(_Input)
_seed_decoder = msgspec.json.Decoder(InputSeed)
_loose_seed_decoder = msgspec.json.Decoder(_LooseSeed)


class ReadableInput(NamedTuple):
    """A sound input and its seed."""

    stored: reads.StoredInput
    seed: InputSeed


def check_all(states: Iterable[pb.StoredInputState], field: str) -> tuple[InputDocument, ...]:
    """Check the inputs of a request; `field` is the path of one, with `{}` for its position.

    Raises:
        InputStateInvalid, InvalidRequest: as `check` does.
    """
    return tuple(check(state, field.format(position)) for position, state in enumerate(states))


def check(state: pb.StoredInputState, field: str) -> InputDocument:
    """Check the input document in `state`; `field` is its path in the request.

    Raises:
        InputStateInvalid: the envelope is bad, or the document is another input's.
        InvalidRequest: the id is no UUID.
    """
    input_id = uuid_field(state.input_id, f"{field}.input_id")
    body = state.state_json.encode()
    document = envelope(_decoder, body, InputStateInvalid, f"{field}.state_json")
    if canonical_uuid(document.input_id) != input_id:
        raise invalid(
            InputStateInvalid, f"{field}.state_json.input_id", f"must be the UUID of the field {field}.input_id"
        )
    return InputDocument(input_id, body, sha256(body).digest())


def seed_of(state_json: bytes, *, stored_id: str) -> InputSeed:
    """Read the seed of a stored document; what it lacks or holds in another type or range is absent."""
    try:
        seed = lenient(_seed_decoder, state_json)
    except msgspec.DecodeError:
        try:
            loose = lenient(_loose_seed_decoder, state_json)
        except msgspec.DecodeError:
            return InputSeed()
        seed = InputSeed(
            input_id=_or_default(loose.input_id, str, None),
            phase=_or_default(loose.current_state, str, ""),
            last_run_id=_or_default(loose.last_run_id, str, None),
            last_boundary_sequence=_or_default(loose.last_boundary_sequence, int, None),
            attempt_count=_or_default(loose.attempt_count, int, None),
        )
    if seed.input_id == stored_id and _is_in_form(seed):  # nearly always so
        return seed
    input_id, phase, last_run_id = (
        canonical_uuid(seed.input_id or ""),
        _short(seed.phase) or "",
        _short(seed.last_run_id),
    )
    sequence = _in_range(seed.last_boundary_sequence, UINT64_MAX)
    attempts = _in_range(seed.attempt_count, UINT32_MAX)
    return InputSeed(input_id, phase, last_run_id, sequence, attempts)


def load(tx: Connection, runtime: RuntimeKey, input_id: str) -> tuple[int, ReadableInput | None]:
    """Read the revision of a runtime and one of its inputs.

    Raises:
        StoredValueCorrupt: it is damaged, no input's document, or another input's.
    """
    revision, stored = reads.load_input_state(tx, runtime, input_id)
    return revision, _readable(runtime, stored) if stored is not None else None


def load_all(
    tx: Connection, runtime: RuntimeKey, *, skip_corrupt: bool
) -> tuple[int, list[ReadableInput | reads.CorruptInput]]:
    """Read the revision and all inputs of a runtime; corrupt ones among them only if asked for.

    Raises:
        StoredValueCorrupt: one is damaged, no input's document, or another input's, and none is to be skipped.
    """
    revision, found = reads.load_input_states(tx, runtime, skip_corrupt=skip_corrupt)
    checked: list[ReadableInput | reads.CorruptInput] = []
    for item in found:
        try:
            checked.append(item if isinstance(item, reads.CorruptInput) else _readable(runtime, item))
        except StoredValueCorrupt as refusal:
            if not skip_corrupt:
                raise
            checked.append(reads.CorruptInput(refusal.metadata["input_id"], refusal.message))
    return revision, checked


def message(found: ReadableInput) -> pb.StoredInputState:
    """Make the message of an input, with its seed."""
    return pb.StoredInputState.FromString(b"".join(_parts(found)))


def messages(revision: int, found: Iterable[ReadableInput | reads.CorruptInput]) -> Iterator[bytes]:
    """Make the messages of a runtime's inputs as they travel: about `MESSAGE_BYTES` each, at least one."""
    begin = pb.LoadInputStatesResponse(revision=revision).SerializeToString()
    several = False
    for batch in batches(found, pb.LoadInputStatesResponse.INPUT_STATES_FIELD_NUMBER, lambda _: begin):
        several = True
        yield batch
    if not several:
        yield begin


def batches(
    found: Iterable[ReadableInput | reads.CorruptInput], field: int, begin: Callable[[int], bytes]
) -> Iterator[bytes]:
    """Yield the inputs as they travel in this field of a message, which is repeated: about `MESSAGE_BYTES` at once.

    Behind what each such message is to `begin` with, where so many bytes follow; corrupt inputs stand where
    LoadInputStates has them.
    """
    batch: list[bytes] = []
    size_bytes = 0
    key = wire.key(field)
    for item in found:
        fields: tuple[bytes, ...]
        if isinstance(item, ReadableInput):
            before, document, after = _parts(item)
            length_bytes = len(before) + len(document) + len(after)
            length = varint(length_bytes)
            fields = key, length, before, document, after
            item_bytes = len(key) + len(length) + length_bytes  # of a small document, half is its id and its seed
        else:
            corrupt = pb.CorruptInput(input_id=item.input_id, description=item.description)
            fields = (pb.LoadInputStatesResponse(corrupt_inputs=[corrupt]).SerializeToString(),)
            item_bytes = len(fields[0])
        if size_bytes and size_bytes + item_bytes > wire.MESSAGE_BYTES:
            yield b"".join((begin(size_bytes), *batch))
            batch.clear()
            size_bytes = 0
        batch += fields
        size_bytes += item_bytes
    if batch:
        yield b"".join((begin(size_bytes), *batch))


def _parts(found: ReadableInput) -> tuple[bytes, bytes, bytes]:
    """Make the message of an input: what comes before its document, that, and what comes behind, its seed."""
    (input_id, state_json), seed = found
    if not state_json.isascii():
        state_json.decode()  # it travels as text, and what is none nobody could read
    name, phase, told = input_id.encode(), seed.phase.encode(), b""
    if phase:
        told = _PHASE + varint(len(phase)) + phase
    if seed.last_run_id is not None:
        run_id = seed.last_run_id.encode()
        told += _LAST_RUN_ID + varint(len(run_id)) + run_id
    if seed.last_boundary_sequence is not None:
        told += _LAST_BOUNDARY_SEQUENCE + varint(seed.last_boundary_sequence)
    if seed.attempt_count is not None:
        told += _ATTEMPT_COUNT + varint(seed.attempt_count)
    before = _INPUT_ID + varint(len(name)) + name + _STATE_JSON + varint(len(state_json))
    return before, state_json, _SEED + varint(len(told)) + told


def _readable(runtime: RuntimeKey, stored: reads.StoredInput) -> ReadableInput:
    seed = seed_of(stored.state_json, stored_id=stored.input_id)
    if seed.input_id == stored.input_id:
        return ReadableInput(stored, seed)
    what = "is no input's document" if seed.input_id is None else "has the id of another input"
    raise reads.corrupt("inputs", what, **runtime._asdict(), input_id=stored.input_id)


def _is_in_form(seed: InputSeed) -> bool:
    """Tell whether a seed can be told as the document has it."""
    run_id, sequence, attempts = seed.last_run_id, seed.last_boundary_sequence, seed.attempt_count
    return (
        canonical_uuid(seed.input_id or "") == seed.input_id
        and len(seed.phase) <= SEED_TEXT_MAX_CHARACTERS
        and (run_id is None or len(run_id) <= SEED_TEXT_MAX_CHARACTERS)
        and (sequence is None or 0 <= sequence <= UINT64_MAX)
        and (attempts is None or 0 <= attempts <= UINT32_MAX)
    )


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
