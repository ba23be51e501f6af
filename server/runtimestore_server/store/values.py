"""Defines what writes consist of and what becomes of them: plain values, checked before they come here.

Documents are kept as the bytes that were sent; nothing in this package parses, trims or re-serialises them.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from hashlib import _Hash as Hash


class RuntimeKey(NamedTuple):
    """One runtime of one realm."""

    realm: str
    runtime_id: str


class CheckedPrefix(NamedTuple):
    """The beginning of a session document up to the end of a message, in which nothing was wrong."""

    opened: int
    """Where the list of messages is open."""
    ends: int
    """Where the last message ends."""
    messages: int
    """How many there are."""
    digest: Hash
    """The SHA-256 so far."""


class SnapshotEdits(NamedTuple):
    """How a session snapshot comes about from the one before it."""

    base_sha256: bytes
    """The digest of the one before it."""
    encoded: bytes | None
    """The edits in their stored form; None where the base was not at hand, so that nothing could be checked."""
    required: bool
    """Whether the request came so: it is refused if the base is not the current snapshot. Else the whole is written."""


class SessionSnapshot(NamedTuple):
    """A session document and what the session projection lists of it."""

    session_id: str
    body: bytes
    sha256: bytes
    created_at_ms: int
    updated_at_ms: int
    message_count: int
    total_tokens: int
    edits: SnapshotEdits | None = None
    checked: CheckedPrefix | None = None
    packed: bytes | None = None
    """The document as it is stored where it is stored whole, if it is large."""

    @property
    def stored_bytes(self) -> int:
        """About how many bytes are written for it."""
        if self.edits is not None and self.edits.encoded is not None:
            return len(self.edits.encoded)
        return len(self.body) if self.packed is None else len(self.packed)

    @property
    def held_bytes(self) -> int:
        """About how many bytes of the document are held in memory: edits may be larger than all that they come to."""
        encoded = None if self.edits is None else self.edits.encoded
        return max(len(self.body), len(encoded or b"")) + len(self.packed or b"")


class InputDocument(NamedTuple):
    """One input's state document."""

    input_id: str
    state_json: bytes
    sha256: bytes


class ReceiptDocument(NamedTuple):
    """A boundary receipt: its key within the runtime and its stored form."""

    run_id: str
    sequence: int
    receipt: bytes
    sha256: bytes


class OpsDocument(NamedTuple):
    """A registry of background operations."""

    epoch_id: str
    snapshot_json: bytes
    sha256: bytes


class Outcome(NamedTuple):
    """A write that landed: the runtime's revision, the OAuth snapshot's version, or the fence, after it."""

    revision: int
    replayed: bool = False
    previous_owner: str | None = None
    """Of an acquisition: who held the runtime before, if anybody did."""
    as_edits: bool = False
    """Of a session snapshot: whether it was stored as edits of the one before it."""


class Deferred(enum.Enum):
    """No decision yet: another session holds a row that this write needs. Nothing of it is there; try it again."""

    DEFERRED = enum.auto()


DEFERRED = Deferred.DEFERRED
