"""Session snapshots: their check, what stands before their bytes on the way out, their limit.

The stored form is the document as it was sent, byte for byte.
"""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING, Annotated

import msgspec

from runtimestore.errors import SessionKeyMismatch, SessionSnapshotInvalid
from runtimestore.v1 import runtime_store_pb2 as pb
from runtimestore_server.documents.identifiers import bad_field, canonical_uuid
from runtimestore_server.documents.json import document_uuid, envelope, invalid, lenient
from runtimestore_server.store import reads
from runtimestore_server.store.values import SessionSnapshot

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy.engine import Connection

    from runtimestore_server.store import RuntimeKey

FIELD = "session_delta.session_snapshot"
LIMIT = "max_session_snapshot_bytes"
"""The setting that bounds one."""

CHUNK_BYTES = 1024 * 1024
"""A snapshot is sent in chunks, so that a client with gRPC's default limit of 4 MiB reads everything."""

UINT64_MAX = 2**64 - 1
INT64_MAX = 2**63 - 1
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


class _Id(msgspec.Struct):
    id: str


_decoder = msgspec.json.Decoder(_Session)
_id_decoder = msgspec.json.Decoder(_Id)


def check_delta(delta: pb.SessionDelta, *, belongs_to: str | None = None) -> SessionSnapshot:
    """Check the session document of a request; `belongs_to` is the session that it must be, as a canonical UUID.

    Raises:
        InvalidRequest: there is none.
        SessionSnapshotInvalid: its envelope is bad.
        SessionKeyMismatch: it is another session.
    """
    if delta.WhichOneof("delta") is None:
        raise bad_field(FIELD, "is required")
    snapshot = check(delta.session_snapshot)
    if belongs_to is not None and belongs_to != snapshot.session_id:
        raise SessionKeyMismatch(
            f"session_store_key {belongs_to} is not the snapshot's id {snapshot.session_id}; send the snapshot of that "
            "session, or the key of this one",
            metadata={"expected": belongs_to, "actual": snapshot.session_id},
        )
    return snapshot


def check(body: bytes) -> SessionSnapshot:
    """Check a session document and read what the projection lists of it.

    Raises:
        SessionSnapshotInvalid: its envelope is bad.
    """
    session = envelope(_decoder, body, SessionSnapshotInvalid, FIELD)
    session_id = document_uuid(session.id, SessionSnapshotInvalid, f"{FIELD}.id")
    for name, number in (
        ("version", session.version),
        ("created_at.secs_since_epoch", session.created_at.secs_since_epoch),
        ("updated_at.secs_since_epoch", session.updated_at.secs_since_epoch),
        ("usage.input_tokens", session.usage.input_tokens if session.usage else 0),
        ("usage.output_tokens", session.usage.output_tokens if session.usage else 0),
    ):
        if number and number > UINT64_MAX:
            raise invalid(SessionSnapshotInvalid, f"{FIELD}.{name}", "must fit into an unsigned 64-bit number")
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


def load(tx: Connection, runtime: RuntimeKey) -> tuple[int, reads.StoredSnapshot | None]:
    """Read the revision and the session snapshot of a runtime.

    Raises:
        StoredValueCorrupt: it is damaged, or the stored session id is not the document's.
    """
    revision, stored = reads.load_session_snapshot(tx, runtime)
    if stored is not None and not _is_of(stored.body, stored.session_id):
        raise reads.corrupt("session_snapshots", "has the id of another session", **runtime._asdict())
    return revision, stored


def messages(revision: int, stored: reads.StoredSnapshot) -> Iterator[pb.LoadSessionSnapshotResponse]:
    """Make the messages of a stored snapshot: its description, then its bytes in chunks."""
    yield pb.LoadSessionSnapshotResponse(
        info=pb.SessionSnapshotInfo(
            session_id=stored.session_id, size_bytes=len(stored.body), sha256=stored.sha256, revision=revision
        )
    )
    for start in range(0, len(stored.body), CHUNK_BYTES):
        yield pb.LoadSessionSnapshotResponse(chunk=stored.body[start : start + CHUNK_BYTES])


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
