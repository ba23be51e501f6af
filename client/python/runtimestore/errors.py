"""One exception class per refusal: raised in the store, caught, as the same class, at the client.

::

    RuntimeStoreError
    ├── SessionKeyMismatch          the key is not the snapshot's id
    ├── InvalidField                one field of the request is bad; `violations` name it
    │   ├── SessionSnapshotInvalid
    │   ├── InputStateInvalid
    │   ├── OpsSnapshotInvalid
    │   └── InvalidRequest
    ├── BoundaryReceiptExists       the boundary has its receipt already
    ├── RevisionMismatch            the runtime is not at `if_revision`
    ├── SnapshotBaseMismatch        the edits are not of the current snapshot
    ├── RequestIdReused             the id belongs to another request
    ├── Fenced                      another one drives the runtime now
    ├── OAuthFlowSnapshotChanged    the snapshot is not at `expected_version`
    ├── TryLater                    nothing is wrong with the request; `retry_after_seconds` says when
    │   ├── StoreUnavailable        the engine cannot be reached; nothing was committed
    │   ├── CommitOutcomeUnknown    it may or may not be committed; repeat with the same id
    │   └── Overloaded              too many calls wait; this one was not taken in
    ├── StoreFull                   the medium is full; nothing was committed
    ├── StoreReadOnly               the engine accepts no writes; nothing was committed
    ├── StoreForbidden              the engine's role lacks a right; nothing was committed
    ├── RevisionNotKept             the revision is older than what is kept
    ├── StoredValueCorrupt          a stored value fails its SHA-256 or cannot be decoded
    ├── Unauthenticated             no credential, or a wrong one
    ├── RealmNotAllowed             the credential does not open this realm
    ├── AccessNotAllowed            the credential opens methods of a lower access only
    ├── InternalError               a defect of the server; its log has the rest
    └── CallFailed                  gRPC itself failed; raised by the client only
        └── DeadlineExceeded        the answer did not come in time

The tree is one subject, so the file is longer than others: a class of it is looked up beside its siblings.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, NamedTuple

import grpc

from runtimestore.v1 import error_reason_pb2

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = [
    "DOMAIN",
    "REFUSALS",
    "AccessNotAllowed",
    "BoundaryReceiptExists",
    "CallFailed",
    "CommitOutcomeUnknown",
    "DeadlineExceeded",
    "Fenced",
    "FieldViolation",
    "InputStateInvalid",
    "InternalError",
    "InvalidField",
    "InvalidRequest",
    "OAuthFlowSnapshotChanged",
    "OpsSnapshotInvalid",
    "Overloaded",
    "RealmNotAllowed",
    "RequestIdReused",
    "RevisionMismatch",
    "RuntimeStoreError",
    "SessionKeyMismatch",
    "SessionSnapshotInvalid",
    "StoreForbidden",
    "StoreFull",
    "StoreReadOnly",
    "StoreUnavailable",
    "StoredValueCorrupt",
    "TryLater",
    "Unauthenticated",
]

DOMAIN = "runtimestore.v1"
"""The `domain` of every `google.rpc.ErrorInfo` of this service."""


class FieldViolation(NamedTuple):
    """A bad field of a request: its path, such as `input_updates[2].state_json.current_state`, and the cure."""

    field: str
    description: str


class RuntimeStoreError(Exception):
    """A call was refused or failed.

    `message` is for people; programs go by the class, by `reason` (a name of `ErrorReason`; empty where gRPC itself
    failed) and by `metadata`, which holds every variable part of the message. `store_error` is the variant of the
    Rust trait's error that this refusal is.
    """

    reason: ClassVar[str] = ""
    code: grpc.StatusCode = grpc.StatusCode.UNKNOWN
    default_store_error: ClassVar[str] = "write_failed"

    def __init__(
        self,
        message: str,
        *,
        metadata: Mapping[str, str] | None = None,
        violations: Sequence[FieldViolation] = (),
        retry_after_seconds: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.metadata: dict[str, str] = dict(metadata or {})
        self.violations: tuple[FieldViolation, ...] = tuple(violations)
        self.retry_after_seconds = retry_after_seconds

    @property
    def store_error(self) -> str:
        """The trait's error variant, such as `write_failed`."""
        return self.metadata.get("store_error", self.default_store_error)

    @property
    def request_id(self) -> str:
        """The request id of the write that failed, also one that the client chose; empty of a load."""
        return self.metadata.get("request_id", "")

    def _number(self, key: str) -> int:
        """Return the metadata value `key` as a number; 0 where an older server did not send it."""
        text = self.metadata.get(key, "")
        return int(text) if text.isdecimal() else 0


class SessionKeyMismatch(RuntimeStoreError):
    """`session_store_key` is not the `id` of the session snapshot; nothing was written."""

    reason = error_reason_pb2.ErrorReason.Name(error_reason_pb2.SESSION_KEY_MISMATCH)
    code = grpc.StatusCode.INVALID_ARGUMENT
    default_store_error = "session_key_mismatch"

    @property
    def expected(self) -> str:
        """The key that the request gave."""
        return self.metadata.get("expected", "")

    @property
    def actual(self) -> str:
        """The snapshot's own id."""
        return self.metadata.get("actual", "")


class InvalidField(RuntimeStoreError):
    """A field of the request is bad; `violations` name it and its cure. Nothing was written."""

    code = grpc.StatusCode.INVALID_ARGUMENT


class SessionSnapshotInvalid(InvalidField):
    """The session snapshot's envelope is bad."""

    reason = error_reason_pb2.ErrorReason.Name(error_reason_pb2.SESSION_SNAPSHOT_INVALID)


class InputStateInvalid(InvalidField):
    """An input document's envelope is bad."""

    reason = error_reason_pb2.ErrorReason.Name(error_reason_pb2.INPUT_STATE_INVALID)


class OpsSnapshotInvalid(InvalidField):
    """The ops document's envelope is bad."""

    reason = error_reason_pb2.ErrorReason.Name(error_reason_pb2.OPS_SNAPSHOT_INVALID)


class InvalidRequest(InvalidField):
    """The request is malformed or over a limit."""

    reason = error_reason_pb2.ErrorReason.Name(error_reason_pb2.INVALID_REQUEST)
    default_store_error = "internal"


class BoundaryReceiptExists(RuntimeStoreError):
    """The boundary (runtime, run, sequence) has its receipt already; nothing of this request was written."""

    reason = error_reason_pb2.ErrorReason.Name(error_reason_pb2.BOUNDARY_RECEIPT_EXISTS)
    code = grpc.StatusCode.ALREADY_EXISTS

    @property
    def run_id(self) -> str:
        """The run of the boundary."""
        return self.metadata.get("run_id", "")

    @property
    def sequence(self) -> int:
        """The number of the boundary within the run."""
        return self._number("sequence")


class RevisionMismatch(RuntimeStoreError):
    """The runtime is not at `if_revision`; nothing was written."""

    reason = error_reason_pb2.ErrorReason.Name(error_reason_pb2.REVISION_MISMATCH)
    code = grpc.StatusCode.ABORTED

    @property
    def if_revision(self) -> int:
        """The revision that the request named."""
        return self._number("if_revision")

    @property
    def current_revision(self) -> int:
        """The revision that the runtime is at."""
        return self._number("current_revision")


class SnapshotBaseMismatch(RuntimeStoreError):
    """The edits are not of the runtime's current session snapshot; nothing was written. Send the whole document."""

    reason = error_reason_pb2.ErrorReason.Name(error_reason_pb2.SNAPSHOT_BASE_MISMATCH)
    code = grpc.StatusCode.FAILED_PRECONDITION

    @property
    def current_sha256(self) -> bytes:
        """The digest of the current snapshot; empty where there is none."""
        return bytes.fromhex(self.metadata.get("current_sha256", ""))


class RequestIdReused(RuntimeStoreError):
    """The `request_id` was used for a request with other content; nothing was written."""

    reason = error_reason_pb2.ErrorReason.Name(error_reason_pb2.REQUEST_ID_REUSED)
    code = grpc.StatusCode.ALREADY_EXISTS


class Fenced(RuntimeStoreError):
    """The runtime was acquired anew and the write's fence is not the newest; nothing was written."""

    reason = error_reason_pb2.ErrorReason.Name(error_reason_pb2.FENCED)
    code = grpc.StatusCode.ABORTED

    @property
    def fence(self) -> int:
        """The fence that the request carried."""
        return self._number("fence")

    @property
    def current_fence(self) -> int:
        """The newest fence of the runtime; 0 if it was never acquired."""
        return self._number("current_fence")

    @property
    def owner(self) -> str:
        """Who holds the newest fence."""
        return self.metadata.get("owner", "")


class OAuthFlowSnapshotChanged(RuntimeStoreError):
    """The OAuth flow snapshot is not at `expected_version`; nothing was written."""

    reason = error_reason_pb2.ErrorReason.Name(error_reason_pb2.OAUTH_FLOW_SNAPSHOT_CHANGED)
    code = grpc.StatusCode.ABORTED

    @property
    def expected_version(self) -> int:
        """The version that the request named."""
        return self._number("expected_version")

    @property
    def current_version(self) -> int:
        """The version that the snapshot is at."""
        return self._number("current_version")


class TryLater(RuntimeStoreError):
    """Nothing is wrong with the request: try again after `retry_after_seconds`, with the same `request_id`."""

    default_retry_after_seconds: ClassVar[float] = 0.1

    def __init__(
        self,
        message: str,
        *,
        metadata: Mapping[str, str] | None = None,
        violations: Sequence[FieldViolation] = (),
        retry_after_seconds: float | None = None,
    ) -> None:
        super().__init__(
            message,
            metadata=metadata,
            violations=violations,
            retry_after_seconds=(
                self.default_retry_after_seconds if retry_after_seconds is None else retry_after_seconds
            ),
        )


class StoreUnavailable(TryLater):
    """The storage engine cannot be reached; nothing was committed."""

    reason = error_reason_pb2.ErrorReason.Name(error_reason_pb2.STORE_UNAVAILABLE)
    code = grpc.StatusCode.UNAVAILABLE


class CommitOutcomeUnknown(TryLater):
    """The connection died during COMMIT: the write may or may not be there. Repeat it with the same `request_id`."""

    reason = error_reason_pb2.ErrorReason.Name(error_reason_pb2.COMMIT_OUTCOME_UNKNOWN)
    code = grpc.StatusCode.UNAVAILABLE


class Overloaded(TryLater):
    """Too many calls are waiting; this one was not taken in."""

    reason = error_reason_pb2.ErrorReason.Name(error_reason_pb2.OVERLOADED)
    code = grpc.StatusCode.RESOURCE_EXHAUSTED
    default_store_error = "internal"


class StoreFull(RuntimeStoreError):
    """The storage medium is full; nothing was committed."""

    reason = error_reason_pb2.ErrorReason.Name(error_reason_pb2.STORE_FULL)
    code = grpc.StatusCode.RESOURCE_EXHAUSTED


class StoreReadOnly(RuntimeStoreError):
    """The storage engine accepts no writes; nothing was committed."""

    reason = error_reason_pb2.ErrorReason.Name(error_reason_pb2.STORE_READ_ONLY)
    code = grpc.StatusCode.FAILED_PRECONDITION


class StoreForbidden(RuntimeStoreError):
    """The storage engine's role lacks a right; nothing was committed."""

    reason = error_reason_pb2.ErrorReason.Name(error_reason_pb2.STORE_FORBIDDEN)
    code = grpc.StatusCode.FAILED_PRECONDITION

    @property
    def table(self) -> str:
        """The table, or the schema, that the right is missing on; `unknown` where that cannot be seen."""
        return self.metadata.get("table", "")

    @property
    def right(self) -> str:
        """The right that is missing, such as INSERT; `unknown` where that cannot be seen."""
        return self.metadata.get("right", "")


class RevisionNotKept(RuntimeStoreError):
    """`as_of_revision` is older than what is kept of the session."""

    reason = error_reason_pb2.ErrorReason.Name(error_reason_pb2.REVISION_NOT_KEPT)
    code = grpc.StatusCode.NOT_FOUND
    default_store_error = "read_failed"

    @property
    def oldest_revision(self) -> int:
        """The oldest revision that can be read."""
        return self._number("oldest_revision")


class StoredValueCorrupt(RuntimeStoreError):
    """A stored value fails its SHA-256 or cannot be decoded; metadata names its `table` and key."""

    reason = error_reason_pb2.ErrorReason.Name(error_reason_pb2.STORED_VALUE_CORRUPT)
    code = grpc.StatusCode.DATA_LOSS
    default_store_error = "read_failed"

    @property
    def next_page_token(self) -> str:
        """Of a page of a list: what asks for the page past the damage; else empty."""
        return self.metadata.get("next_page_token", "")


class Unauthenticated(RuntimeStoreError):
    """No credential, or one that is unknown, ended or malformed; nothing was received."""

    reason = error_reason_pb2.ErrorReason.Name(error_reason_pb2.UNAUTHENTICATED)
    code = grpc.StatusCode.UNAUTHENTICATED
    default_store_error = "internal"


class RealmNotAllowed(RuntimeStoreError):
    """The credential does not open this realm."""

    reason = error_reason_pb2.ErrorReason.Name(error_reason_pb2.REALM_NOT_ALLOWED)
    code = grpc.StatusCode.PERMISSION_DENIED
    default_store_error = "internal"


class AccessNotAllowed(RuntimeStoreError):
    """The credential opens methods of a lower access only; nothing was received."""

    reason = error_reason_pb2.ErrorReason.Name(error_reason_pb2.ACCESS_NOT_ALLOWED)
    code = grpc.StatusCode.PERMISSION_DENIED
    default_store_error = "internal"

    @property
    def access(self) -> str:
        """What the method needs: `read`, `write` or `admin`."""
        return self.metadata.get("access", "")


class InternalError(RuntimeStoreError):
    """A defect of the server; its log has the rest."""

    reason = error_reason_pb2.ErrorReason.Name(error_reason_pb2.INTERNAL)
    code = grpc.StatusCode.INTERNAL
    default_store_error = "internal"


class CallFailed(RuntimeStoreError):
    """gRPC itself failed, with `code`: the server is not there, a message is too large, the call was cancelled."""

    default_store_error = "internal"

    def __init__(
        self,
        message: str,
        # Exceptions are copied and pickled by their message alone; the rest follows with the attributes.
        code: grpc.StatusCode = grpc.StatusCode.UNKNOWN,
        *,
        metadata: Mapping[str, str] | None = None,
        retry_after_seconds: float | None = None,
    ) -> None:
        super().__init__(message, metadata=metadata, retry_after_seconds=retry_after_seconds)
        self.code = code


class DeadlineExceeded(CallFailed):
    """The answer did not come in time. A write may have been committed: repeat it with the same `request_id`."""

    def __init__(self, message: str, *, metadata: Mapping[str, str] | None = None) -> None:
        super().__init__(message, grpc.StatusCode.DEADLINE_EXCEEDED, metadata=metadata)


REFUSALS: Mapping[str, type[RuntimeStoreError]] = {
    refusal.reason: refusal
    for refusal in (
        SessionKeyMismatch,
        SessionSnapshotInvalid,
        InputStateInvalid,
        OpsSnapshotInvalid,
        InvalidRequest,
        BoundaryReceiptExists,
        RevisionMismatch,
        SnapshotBaseMismatch,
        RequestIdReused,
        Fenced,
        OAuthFlowSnapshotChanged,
        StoreUnavailable,
        CommitOutcomeUnknown,
        Overloaded,
        StoreFull,
        StoreReadOnly,
        StoreForbidden,
        RevisionNotKept,
        StoredValueCorrupt,
        Unauthenticated,
        RealmNotAllowed,
        AccessNotAllowed,
        InternalError,
    )
}
"""The class of every reason that the server sends."""
