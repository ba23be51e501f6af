"""Reads the envelope of a session document: the members that are listed of it, checked in type and range."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import msgspec

from runtimestore.errors import SessionSnapshotInvalid
from runtimestore_server.documents.json import document_uuid, envelope, invalid
from runtimestore_server.integers import INT64_MAX, UINT32_MAX, UINT64_MAX

if TYPE_CHECKING:
    from runtimestore.errors import InvalidField

FIELD = "session_delta.session_snapshot"

Unsigned = Annotated[int, msgspec.Meta(ge=0)]


class Timestamp(msgspec.Struct):
    """Rust's `SystemTime` as serde writes it."""

    secs_since_epoch: Unsigned
    nanos_since_epoch: Annotated[int, msgspec.Meta(ge=0, le=UINT32_MAX)]

    def is_a_time(self) -> bool:
        """Tell whether Rust's `SystemTime` holds it: it counts signed seconds, to which those in `nanos` are added."""
        return self.secs_since_epoch + self.nanos_since_epoch // 10**9 <= INT64_MAX

    def milliseconds(self) -> int:
        """Count milliseconds since the epoch, capped at what a bigint column holds."""
        return min(self.secs_since_epoch * 1000 + self.nanos_since_epoch // 1_000_000, INT64_MAX)


class _Message(msgspec.Struct):
    role: str


class _Usage(msgspec.Struct):
    input_tokens: Unsigned
    output_tokens: Unsigned


class Session(msgspec.Struct):
    """The members of a session document that are listed, or that make it one."""

    id: str
    messages: list[_Message]
    created_at: Timestamp
    updated_at: Timestamp
    version: Unsigned | msgspec.UnsetType = msgspec.UNSET
    metadata: dict[str, msgspec.Raw] | msgspec.UnsetType = msgspec.UNSET
    usage: _Usage | msgspec.UnsetType = msgspec.UNSET

    @property
    def total_tokens(self) -> int:
        """Of input and output, capped at what a bigint column holds; 0 where nothing is said of them."""
        return min(self.usage.input_tokens + self.usage.output_tokens, INT64_MAX) if self.usage else 0


_decoder = msgspec.json.Decoder(Session)


def read(body: bytes) -> tuple[Session, str]:
    """Return the envelope of a document, and the session's id in its canonical form.

    Raises:
        SessionSnapshotInvalid: it is no session document.
    """
    session = envelope(_decoder, body, SessionSnapshotInvalid, FIELD)
    return session, document_uuid(session.id, SessionSnapshotInvalid, f"{FIELD}.id")


def read_in_range(body: bytes) -> tuple[Session, str]:
    """Read as `read` does, and see that the runtimes' own types hold every number.

    Raises:
        SessionSnapshotInvalid: it is no session document, or a number is out of range.
    """
    session, session_id = read(body)
    if session.version and session.version > UINT32_MAX:
        raise bad_member("version", f"must be at most {UINT32_MAX}")
    if usage := session.usage:
        for name, number in (("input_tokens", usage.input_tokens), ("output_tokens", usage.output_tokens)):
            if number > UINT64_MAX:
                raise bad_member(f"usage.{name}", f"must be at most {UINT64_MAX}")
    for name, time in (("created_at", session.created_at), ("updated_at", session.updated_at)):
        if not time.is_a_time():
            raise bad_member(f"{name}.secs_since_epoch", "must be less than 2^63 seconds")
    return session, session_id


def bad_member(name: str, description: str) -> InvalidField:
    """Make the refusal of a member of the document; `description` says the cure."""
    return invalid(SessionSnapshotInvalid, f"{FIELD}.{name}", description)
