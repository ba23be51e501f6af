"""Session snapshots: their check, what stands before their bytes on the way out.

The stored form is the document as it was sent, byte for byte. It replaces the last good one, so what the runtimes' own
types could not read back is refused.
"""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING

import msgspec

from runtimestore.errors import FieldViolation, SessionKeyMismatch, SessionSnapshotInvalid
from runtimestore.v1 import runtime_store_pb2 as pb
from runtimestore_server.documents import growth, session_envelope, session_pieces, session_readback, wire
from runtimestore_server.documents.identifiers import bad_field, canonical_uuid
from runtimestore_server.documents.json import invalid, lenient
from runtimestore_server.documents.session_envelope import FIELD
from runtimestore_server.store.digests import SHA256_BYTES
from runtimestore_server.store.values import CheckedPrefix, SessionSnapshot, SnapshotEdits
from runtimestore_server.store.versions import edits
from runtimestore_server.store.versions.chains import load_session
from runtimestore_server.store.versions.rows import corrupt_version

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sqlalchemy.engine import Connection

    from runtimestore_server.documents.session_envelope import Session
    from runtimestore_server.store import RuntimeKey
    from runtimestore_server.store.versions.chains import StoredSession
    from runtimestore_server.store.versions.recent import RecentSession

EDITS_FIELD = "session_delta.snapshot_edits"


class _Id(msgspec.Struct):
    id: str


_id_decoder = msgspec.json.Decoder(_Id)


def check_delta(
    delta: pb.SessionDelta,
    base: RecentSession | None = None,
    document: Callable[[], bytes] | None = None,
    *,
    belongs_to: str | None = None,
) -> SessionSnapshot:
    """Check the session document of a request; `belongs_to` is the session that it must be, as a canonical UUID.

    `base` is what edits are made of. Where they are of another document nothing of them can be checked: they may only
    repeat a write that landed. A whole document is stored as edits of the base, if that is less. `document` takes
    a whole one that was left in the message, with nothing in its place; once.

    Raises:
        InvalidRequest: there is none, or its edits are none of this base.
        SessionSnapshotInvalid: its envelope is bad, or the edits come to another document than they should.
        SessionKeyMismatch: it is another session.
    """
    match delta.WhichOneof("delta"):
        case "session_snapshot":
            body = delta.session_snapshot if document is None else document()
            agreed_bytes = growth.agreed_bytes(body, base) if base is not None else 0
            snapshot = check(body, base, untouched_bytes=agreed_bytes)
            if base is not None and (encoded := _edits_between(base, body, agreed_bytes)) is not None:
                snapshot = snapshot._replace(edits=SnapshotEdits(base.sha256, encoded, required=False))
        case "snapshot_edits":
            snapshot = _edited(delta.snapshot_edits, base)
            if not snapshot.session_id:
                return snapshot
        case _:
            raise bad_field(FIELD, "is required")
    if belongs_to is not None:
        check_key(belongs_to, snapshot.session_id)
    return snapshot


def base_cost_bytes(delta: pb.SessionDelta, base: RecentSession) -> int:
    """Return how many bytes the base adds to the cost of checking a delta.

    Edits behind all that was checked before, as of a turn, leave that to be copied and nothing of it to be read.
    """
    found, checked = delta.snapshot_edits.edits, base.checked
    if checked is None or delta.WhichOneof("delta") != "snapshot_edits" or (found and found[0].start < checked.ends):
        return len(base.body)
    left_out_bytes = checked.ends - checked.opened  # what stands before the messages is read each time
    return len(base.body) - left_out_bytes + left_out_bytes // 16  # so many bytes are copied while one is checked


def check_key(belongs_to: str, session_id: str) -> None:
    """See that a snapshot is of the session that it must be of.

    Raises:
        SessionKeyMismatch: it is another session.
    """
    if belongs_to != session_id:
        raise SessionKeyMismatch(
            f"session_store_key {belongs_to} is not the snapshot's id {session_id}; send the snapshot of that "
            "session, or the key of this one",
            metadata={"expected": belongs_to, "actual": session_id},
            violations=[FieldViolation("session_store_key", "must be the id of the session snapshot")],
        )


def base_sha256(delta: pb.SessionDelta) -> bytes | None:
    """Return the digest of what the edits of a request are made of; None if it holds none.

    Raises:
        InvalidRequest: it is no digest.
    """
    if delta.WhichOneof("delta") != "snapshot_edits":
        return None
    for name in ("base_sha256", "sha256"):
        if len(getattr(delta.snapshot_edits, name)) != SHA256_BYTES:
            raise bad_field(f"{EDITS_FIELD}.{name}", f"must be the {SHA256_BYTES} bytes of a SHA-256")
    return delta.snapshot_edits.base_sha256


def _edits_between(base: RecentSession, body: bytes, agreed_bytes: int) -> bytes | None:
    """Return the edits that make a document of its base, in their stored form; None if they save too little.

    The two are known to begin with as many bytes that are the same.
    """
    encoded = edits.encode(edits.find(base.body, body, agreed=agreed_bytes))
    return encoded if len(encoded) <= len(body) // 2 else None


def _edited(given: pb.SnapshotEdits, base: RecentSession | None) -> SessionSnapshot:
    """Check the document that edits result in; without their base, only what the request says of it is known."""
    if base is None or base.sha256 != given.base_sha256:
        unchecked = SnapshotEdits(given.base_sha256, None, required=True)
        return SessionSnapshot("", b"", given.sha256, 0, 0, 0, 0, unchecked)
    found = [edits.Edit(edit.start, edit.end, edit.replacement) for edit in given.edits]
    at = 0
    for position, edit in enumerate(found):
        if not at <= edit.start <= edit.end <= len(base.body):
            raise bad_field(
                f"{EDITS_FIELD}.edits[{position}]", "must begin behind the one before it and end within the base"
            )
        at = edit.end
    body = edits.applied(base.body, found)
    checked = check(body, base, untouched_bytes=found[0].start if found else len(base.body))
    if checked.sha256 != given.sha256:
        raise invalid(SessionSnapshotInvalid, f"{EDITS_FIELD}.sha256", "is not the SHA-256 of what the edits come to")
    return checked._replace(edits=SnapshotEdits(base.sha256, edits.encode(found), required=True))


def check(body: bytes, base: RecentSession | None = None, *, untouched_bytes: int = 0) -> SessionSnapshot:
    """Check a session document and read what the projection lists of it; `base` is the one before it, if known.

    So many bytes at its beginning, `untouched_bytes`, are known to be those of `base`.

    Raises:
        SessionSnapshotInvalid: its envelope is bad, or no runtime could read it back.
    """
    rest = growth.remainder(body, base, untouched_bytes) if base is not None else None
    if rest is not None:
        try:
            found = _checked_remainder(body, rest)
        except SessionSnapshotInvalid:
            pass  # told by a check of the whole, which knows the places
        else:
            prefix = growth.longer_prefix(body, rest, found.ends, found.messages)
            return _with_prefix(found.session, found.session_id, body, prefix)
    if len(body) >= session_pieces.LEAST_BYTES and (pieces := session_pieces.check(body)) is not None:
        prefix = CheckedPrefix(pieces.opened, pieces.ends, pieces.messages, sha256(memoryview(body)[: pieces.ends]))
        return _with_prefix(pieces.session, pieces.session_id, body, prefix)
    session, session_id = session_envelope.read_in_range(body)
    count = len(session.messages)
    if first := growth.first_prefix(body, session_readback.check(body, count), count):
        return _with_prefix(session, session_id, body, first)
    return _projected(session, session_id, body, sha256(body).digest(), messages=count)


def _checked_remainder(body: bytes, rest: growth.Remainder) -> session_pieces.Checked:
    """Check what is left of a document.

    Raises:
        SessionSnapshotInvalid: as `check` does.
    """
    if len(body) - rest.start >= session_pieces.LEAST_BYTES and (found := session_pieces.check(body, rest)):
        return found
    document = rest.document(body)
    session, session_id = session_envelope.read_in_range(document)
    count = len(session.messages)
    ends = rest.end_of_last(session_readback.check(document, count))
    return session_pieces.Checked(session, session_id, rest.left_out.opened, ends, count)


def read(body: bytes) -> SessionSnapshot:
    """Read what the projection lists of a stored session document, which an older server may have checked less.

    Raises:
        SessionSnapshotInvalid: it is no session document.
    """
    session, session_id = session_envelope.read(body)
    return _projected(session, session_id, body, sha256(body).digest(), messages=len(session.messages))


def _with_prefix(session: Session, session_id: str, body: bytes, prefix: CheckedPrefix) -> SessionSnapshot:
    """Make the snapshot of a document that was checked up to the end of its last message."""
    digest = growth.digest_of(body, prefix)
    return _projected(session, session_id, body, digest, messages=prefix.messages, checked=prefix)


def _projected(
    session: Session,
    session_id: str,
    body: bytes,
    digest: bytes,
    *,
    messages: int,
    checked: CheckedPrefix | None = None,
) -> SessionSnapshot:
    return SessionSnapshot(
        session_id=session_id,
        body=body,
        sha256=digest,
        created_at_ms=session.created_at.milliseconds(),
        updated_at_ms=session.updated_at.milliseconds(),
        message_count=messages,
        total_tokens=session.total_tokens,
        checked=checked,
    )


def load(
    tx: Connection,
    runtime: RuntimeKey,
    *,
    as_of_revision: int | None = None,
    known_sha256: bytes | None = None,
    held: RecentSession | None = None,
) -> tuple[int, StoredSession | None]:
    """Read the revision and the session snapshot of a runtime; that of `known_sha256` without its bytes.

    What is `held` in memory is compared, and not digested again.

    Raises:
        StoredValueCorrupt: it is damaged, or the stored session id is not the document's.
        RevisionNotKept: it is older than what is kept.
    """
    revision, stored = load_session(tx, runtime, as_of_revision=as_of_revision, known_sha256=known_sha256, held=held)
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


def chunks(stored: StoredSession, field: int) -> Iterator[bytes]:
    """Yield the bytes of a stored snapshot, if they were asked for, as messages that have a piece of it in a field."""
    with memoryview(stored.body or b"") as body:
        for start in range(0, len(body), wire.MESSAGE_BYTES):
            yield wire.message(field, body[start : start + wire.MESSAGE_BYTES])


def _is_of(body: bytes, session_id: str) -> bool:
    """Tell whether a stored session document has this id."""
    if not isinstance(session_id, str) or canonical_uuid(session_id) != session_id:
        return False  # damaged: SQLite even keeps values of another type
    # Nearly always the id stands near the beginning, spelt as it is stored: no need to parse megabytes to find it.
    if session_id.encode() in body[:1024]:
        return True
    try:
        return canonical_uuid(lenient(_id_decoder, body).id) == session_id
    except msgspec.DecodeError:
        return False
