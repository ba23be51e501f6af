"""Session snapshots: their check, what stands before their bytes on the way out, their limit.

The stored form is the document as it was sent, byte for byte. It replaces the last good one, so what the runtimes' own
types could not read back is refused.
"""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING, Annotated

import msgspec

from runtimestore.errors import SessionKeyMismatch, SessionSnapshotInvalid
from runtimestore.v1 import runtime_store_pb2 as pb
from runtimestore_server.documents import growth, readback
from runtimestore_server.documents.identifiers import bad_field, canonical_uuid
from runtimestore_server.documents.json import (
    OTHER_REPLACEMENT,
    document_uuid,
    envelope,
    invalid,
    lenient,
    without_halves,
)
from runtimestore_server.store.values import SessionSnapshot, SnapshotEdits
from runtimestore_server.store.versions import edits
from runtimestore_server.store.versions.chains import load_session
from runtimestore_server.store.versions.rows import SHA256_BYTES, corrupt_version

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy.engine import Connection

    from runtimestore.errors import InvalidField
    from runtimestore_server.store import RuntimeKey
    from runtimestore_server.store.versions.chains import StoredSession
    from runtimestore_server.store.versions.recent import RecentSession

FIELD = "session_delta.session_snapshot"
EDITS_FIELD = "session_delta.snapshot_edits"
LIMIT = "max_session_snapshot_bytes"
"""The setting that bounds one."""

CHUNK_BYTES = 1024 * 1024
"""A snapshot is sent in chunks, so that a client with gRPC's default limit of 4 MiB reads everything."""

UINT32_MAX = 2**32 - 1
UINT64_MAX = 2**64 - 1
NANOSECONDS = 10**9
INT64_MAX = 2**63 - 1
ID_STANDS_WITHIN_BYTES = 1024
USAGE = ("input_tokens", "output_tokens", "cache_creation_tokens", "cache_read_tokens")
"""What the runtimes' type names in the usage; the latter two may be absent or null, and are not listed."""
_HALF = "must hold no half of a surrogate pair: no runtime could read it back"
BATCH_BYTES = 64 * 1024
"""How much of the messages is asked about at once."""

_Unsigned = Annotated[int, msgspec.Meta(ge=0)]
_UInt32 = Annotated[int, msgspec.Meta(ge=0, le=UINT32_MAX)]


class _Timestamp(msgspec.Struct):
    secs_since_epoch: _Unsigned
    nanos_since_epoch: _UInt32

    def is_a_time(self) -> bool:
        """Whether Rust's `SystemTime` holds it: it counts signed seconds, to which whole ones of `nanos` are added."""
        return self.secs_since_epoch + self.nanos_since_epoch // NANOSECONDS <= INT64_MAX

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


class _Id(msgspec.Struct):
    id: str


_decoder = msgspec.json.Decoder(_Session)
_messages_decoder = msgspec.json.Decoder(list[msgspec.Raw])
_id_decoder = msgspec.json.Decoder(_Id)
_tokens_decoder = msgspec.json.Decoder(_Unsigned | None)
_readable = readback.Remembered()
"""Messages that were found readable: a session grows by a few at each turn, and all of it is sent again."""


def check_delta(
    delta: pb.SessionDelta, base: RecentSession | None = None, *, belongs_to: str | None = None
) -> SessionSnapshot:
    """Check the session document of a request; `belongs_to` is the session that it must be, as a canonical UUID.

    `base` is what edits are made of. Where they are of another document nothing of them can be checked: they may only
    repeat a write that landed. A whole document is stored as edits of the base, if that is less.

    Raises:
        InvalidRequest: there is none, or its edits are none of this base.
        SessionSnapshotInvalid: its envelope is bad, or the edits come to another document than they should.
        SessionKeyMismatch: it is another session.
    """
    match delta.WhichOneof("delta"):
        case "session_snapshot":
            snapshot = check(delta.session_snapshot, base)
            if base is not None and (encoded := _edits_between(base.body, snapshot.body)) is not None:
                snapshot = snapshot._replace(edits=SnapshotEdits(base.sha256, encoded, required=False))
        case "snapshot_edits":
            snapshot = _edited(delta.snapshot_edits, base)
            if not snapshot.session_id:
                return snapshot
        case _:
            raise bad_field(FIELD, "is required")
    if belongs_to is not None and belongs_to != snapshot.session_id:
        raise SessionKeyMismatch(
            f"session_store_key {belongs_to} is not the snapshot's id {snapshot.session_id}; send the snapshot of that "
            "session, or the key of this one",
            metadata={"expected": belongs_to, "actual": snapshot.session_id},
        )
    return snapshot


def base_sha256(delta: pb.SessionDelta) -> bytes | None:
    """The digest of what the edits of a request are made of; None if it holds none.

    Raises:
        InvalidRequest: it is no digest.
    """
    if delta.WhichOneof("delta") != "snapshot_edits":
        return None
    for name in ("base_sha256", "sha256"):
        if len(getattr(delta.snapshot_edits, name)) != SHA256_BYTES:
            raise bad_field(f"{EDITS_FIELD}.{name}", f"must be the {SHA256_BYTES} bytes of a SHA-256")
    return delta.snapshot_edits.base_sha256


def _edits_between(base: bytes, body: bytes) -> bytes | None:
    """The edits that make a document of its base, in their stored form; None if they save too little."""
    encoded = edits.encode(edits.find(base, body))
    return encoded if len(encoded) <= len(body) // 2 else None


def _edited(given: pb.SnapshotEdits, base: RecentSession | None) -> SessionSnapshot:
    """Check what edits come to; without their base only what is said of it is known."""
    if base is None or base.sha256 != given.base_sha256:
        unchecked = SnapshotEdits(given.base_sha256, None, required=True)
        return SessionSnapshot("", b"", given.sha256, 0, 0, 0, 0, unchecked)
    found = [edits.Edit(edit.start, edit.end, edit.replacement) for edit in given.edits]
    at = 0
    for position, edit in enumerate(found):
        if not at <= edit.start <= edit.end <= len(base.body):
            raise bad_field(
                f"{EDITS_FIELD}.edits[{position}]",
                "must begin behind the one before it and end within the base",
            )
        at = edit.end
    body = edits.applied(base.body, found)
    checked = check(body, base)
    if checked.sha256 != given.sha256:
        raise invalid(SessionSnapshotInvalid, f"{EDITS_FIELD}.sha256", "is not the SHA-256 of what the edits come to")
    return checked._replace(edits=SnapshotEdits(base.sha256, edits.encode(found), required=True))


def check(body: bytes, base: RecentSession | None = None) -> SessionSnapshot:
    """Check a session document and read what the projection lists of it; `base` is the one before it, if known.

    Raises:
        SessionSnapshotInvalid: its envelope is bad, or no runtime could read it back.
    """
    rest = growth.remainder(body, base) if base is not None else None
    if rest is not None:
        try:
            session, messages = _checked(rest.document)
        except SessionSnapshotInvalid:
            pass  # told by a check of the whole, which knows the places
        else:
            prefix = growth.longer_prefix(body, rest, messages, len(session.messages))
            return _projected(session, body, growth.digest_of(body, prefix))._replace(
                message_count=prefix.messages, checked=prefix
            )
    session, messages = _checked(body)
    first = growth.first_prefix(body, messages, len(session.messages))
    digest = growth.digest_of(body, first) if first else sha256(body).digest()
    return _projected(session, body, digest)._replace(checked=first)


def _checked(body: bytes) -> tuple[_Session, bytes]:
    """The session of a document in which nothing is wrong, and the list of its messages as it stands there."""
    session = envelope(_decoder, body, SessionSnapshotInvalid, FIELD)
    document_uuid(session.id, SessionSnapshotInvalid, f"{FIELD}.id")
    for name, number, largest in (
        ("version", session.version or 0, UINT32_MAX),
        ("usage.input_tokens", session.usage.input_tokens if session.usage else 0, UINT64_MAX),
        ("usage.output_tokens", session.usage.output_tokens if session.usage else 0, UINT64_MAX),
    ):
        if number > largest:
            raise _invalid(name, f"must be at most {largest}")
    for name, time in (("created_at", session.created_at), ("updated_at", session.updated_at)):
        if not time.is_a_time():
            raise _invalid(f"{name}.secs_since_epoch", "must be less than 2^63 seconds")
    return session, _check_readable(body, len(session.messages))


def read(body: bytes) -> SessionSnapshot:
    """Read what the projection lists of a stored session document, which an older server may have checked less.

    Raises:
        SessionSnapshotInvalid: it is no session document.
    """
    session = envelope(_decoder, body, SessionSnapshotInvalid, FIELD)
    return _projected(session, body, sha256(body).digest())


def _projected(session: _Session, body: bytes, digest: bytes) -> SessionSnapshot:
    tokens = session.usage.input_tokens + session.usage.output_tokens if session.usage else 0
    return SessionSnapshot(
        session_id=document_uuid(session.id, SessionSnapshotInvalid, f"{FIELD}.id"),
        body=body,
        sha256=digest,
        created_at_ms=session.created_at.milliseconds(),
        updated_at_ms=session.updated_at.milliseconds(),
        message_count=len(session.messages),
        total_tokens=min(tokens, INT64_MAX),
    )


def _check_readable(body: bytes, count: int) -> bytes:
    """Refuse what no runtime could read back of the members that its types name; all else passes.

    Returns the list of messages as it stands in the document.
    """
    try:
        members = readback.members(body)
    except msgspec.DecodeError:  # for half of a surrogate pair: another one in its place shows where it is
        body, other = without_halves(body), without_halves(body, OTHER_REPLACEMENT)
        members = readback.members(body)
        _check_halves(members, readback.members(other))
    except RecursionError:
        raise invalid(SessionSnapshotInvalid, FIELD, "is nested too deeply to be read") from None
    if name := readback.given_twice(members, _Session.__struct_fields__):
        raise _invalid(name, "must be given once")
    parts = dict(members)
    _check_parts(parts, count)
    return bytes(parts["messages"])


def _check_parts(parts: dict[str, msgspec.Raw], count: int) -> None:
    if "version" in parts:
        _check_sign(parts["version"], "version")
    for name in ("created_at", "updated_at"):
        members = readback.members(parts[name])
        _check_members(members, _Timestamp.__struct_fields__, name)
        if len(members) > len(_Timestamp.__struct_fields__):
            raise _invalid(name, "must have no members but secs_since_epoch and nanos_since_epoch")
    if "usage" in parts:
        members = readback.members(parts["usage"])
        _check_members(members, USAGE, "usage")
        _check_cache_tokens(dict(members))
    _check_messages(parts["messages"], count)
    if "metadata" in parts:
        metadata = bytes(parts["metadata"])
        if readback.may_have_large_number(metadata) or readback.may_be_deep(metadata, level=2):
            _check_value(metadata, "metadata", level=2)


def _check_members(members: list[tuple[str, msgspec.Raw]], names: tuple[str, ...], of: str) -> None:
    """Check an object of the envelope whose members are unsigned numbers."""
    if twice := readback.given_twice(members, names):
        raise _invalid(f"{of}.{twice}", "must be given once")
    for name, value in members:
        if name in names:
            _check_sign(value, f"{of}.{name}")


def _check_sign(number: msgspec.Raw, name: str) -> None:
    """Refuse -0, which msgspec takes for 0 and serde_json for a float."""
    if bytes(number) == b"-0":
        raise _invalid(name, "must be an unsigned integer, not -0")


def _check_cache_tokens(usage: dict[str, msgspec.Raw]) -> None:
    for name in USAGE:
        try:
            tokens = _tokens_decoder.decode(usage.get(name, b"null"))
        except msgspec.DecodeError:
            tokens = UINT64_MAX + 1
        if tokens is not None and tokens > UINT64_MAX:
            raise _invalid(f"usage.{name}", f"must be an unsigned integer of at most {UINT64_MAX}")


def _check_messages(messages: msgspec.Raw, count: int) -> None:
    """Check the messages that are not remembered."""
    remembered = count <= _readable.most  # more of them would only drive out one another, and those of other sessions
    if not remembered and not _may_be_unreadable(bytes(messages), count):
        return
    batch: list[tuple[int, bytes]] = []
    size_bytes = 0
    for position, message in enumerate(map(bytes, _messages_decoder.decode(messages))):
        if remembered and _readable.knows(message):
            continue
        batch.append((position, message))
        size_bytes += len(message)
        if size_bytes >= BATCH_BYTES:
            _check_batch(batch, remembered=remembered)
            batch, size_bytes = [], 0
    if batch:
        _check_batch(batch, remembered=remembered)


def _may_be_unreadable(messages: bytes, count: int) -> bool:
    return (
        readback.may_have_twice(messages, b"role", count)
        or readback.may_have_large_number(messages)
        or readback.may_be_deep(messages, level=2, besides=count)
    )


def _check_batch(batch: list[tuple[int, bytes]], *, remembered: bool) -> None:
    """Check some messages at their positions: first all at once, for asked one by one small ones cost most."""
    together = b",".join([message for _, message in batch])
    twice_a_role = readback.may_have_twice(together, b"role", len(batch))
    large = readback.may_have_large_number(together)
    for position, message in batch:
        if twice_a_role and readback.given_twice(readback.members(message), ("role",)):
            raise _invalid(f"messages[{position}].role", "must be given once")
        if (large and readback.may_have_large_number(message)) or readback.may_be_deep(message, level=3):
            _check_value(message, f"messages[{position}]", level=3)
        if remembered:
            _readable.add(message)


def _check_value(value: bytes, name: str, *, level: int) -> None:
    if why := readback.unreadable(value, level):
        raise _invalid(name, why)


def _check_halves(found: list[tuple[str, msgspec.Raw]], others: list[tuple[str, msgspec.Raw]]) -> None:
    """Refuse half of a surrogate pair in what the types read: `others` holds another character in its place.

    They read the names of members too, also of those that they skip.
    """
    if _names(found) != _names(others):
        raise invalid(SessionSnapshotInvalid, FIELD, f"a member's name {_HALF}")
    ours, theirs = dict(found), dict(others)
    messages = zip(*map(_messages_decoder.decode, (ours["messages"], theirs["messages"])), strict=True)
    for position, (one, another) in enumerate(messages):
        if bytes(one) != bytes(another):
            raise _invalid(f"messages[{position}]", _HALF)
    if "metadata" in ours and bytes(ours["metadata"]) != bytes(theirs["metadata"]):
        raise _invalid("metadata", _HALF)
    if "usage" in ours and _names(readback.members(ours["usage"])) != _names(readback.members(theirs["usage"])):
        raise _invalid("usage", f"a member's name {_HALF}")


def _names(members: list[tuple[str, msgspec.Raw]]) -> list[str]:
    return [name for name, _ in members]


def _invalid(name: str, description: str) -> InvalidField:
    return invalid(SessionSnapshotInvalid, f"{FIELD}.{name}", description)


def load(
    tx: Connection, runtime: RuntimeKey, *, as_of_revision: int | None = None, known_sha256: bytes | None = None
) -> tuple[int, StoredSession | None]:
    """Read the revision and the session snapshot of a runtime; that of `known_sha256` without its bytes.

    Raises:
        StoredValueCorrupt: it is damaged, or the stored session id is not the document's.
        RevisionNotKept: it is older than what is kept.
    """
    revision, stored = load_session(tx, runtime, as_of_revision=as_of_revision, known_sha256=known_sha256)
    if stored is not None and stored.body is not None and not _is_of(stored.body, stored.session_id):
        raise corrupt_version(runtime, stored.revision, "has the id of another session")
    return revision, stored


def info(revision: int, stored: StoredSession) -> pb.SessionSnapshotInfo:
    """Make the description of a stored snapshot."""
    return pb.SessionSnapshotInfo(
        session_id=stored.session_id,
        size_bytes=stored.size_bytes,
        sha256=stored.sha256,
        revision=revision,
        unchanged=stored.body is None,
        committed_revision=stored.revision,
    )


def chunks(stored: StoredSession) -> Iterator[bytes]:
    """The bytes of a stored snapshot, if they were asked for, a message's worth at a time."""
    body = stored.body or b""
    for start in range(0, len(body), CHUNK_BYTES):
        yield body[start : start + CHUNK_BYTES]


def _is_of(body: bytes, session_id: str) -> bool:
    """Whether a stored session document has this id, as far as its nesting lets it be read here."""
    if not isinstance(session_id, str) or canonical_uuid(session_id) != session_id:
        return False  # damaged: SQLite even keeps values of another type
    # Nearly always the id stands near the beginning, spelt as it is stored: no need to parse megabytes to find it.
    if session_id.encode() in body[:ID_STANDS_WITHIN_BYTES]:
        return True
    try:
        return canonical_uuid(lenient(_id_decoder, body).id) == session_id
    except msgspec.DecodeError:
        return False
    except RecursionError:
        return True
