"""The thin clients of RuntimeStore, the durable store of agent runtimes.

::

    async with AsyncRuntimeStoreClient("127.0.0.1:50051") as store:
        await store.commit_machine_lifecycle("rt:session:…", RuntimeState.IDLE)

`RuntimeStoreClient` is the same without `await`. The server is the extra `runtimestore[server]`.
"""

from importlib import metadata as _metadata

from runtimestore._credentials import Tls
from runtimestore._retry import RetryPolicy
from runtimestore.aio import AsyncRuntimeStoreClient
from runtimestore.errors import (
    AccessNotAllowed,
    BoundaryReceiptExists,
    CallFailed,
    CommitOutcomeUnknown,
    DeadlineExceeded,
    Fenced,
    FieldViolation,
    InputStateInvalid,
    InternalError,
    InvalidField,
    InvalidRequest,
    OAuthFlowSnapshotChanged,
    OpsSnapshotInvalid,
    Overloaded,
    RealmNotAllowed,
    RequestIdReused,
    RevisionMismatch,
    RevisionNotKept,
    RuntimeStoreError,
    SessionKeyMismatch,
    SessionSnapshotInvalid,
    SnapshotBaseMismatch,
    StoredValueCorrupt,
    StoreForbidden,
    StoreFull,
    StoreReadOnly,
    StoreUnavailable,
    TryLater,
    Unauthenticated,
)
from runtimestore.sync import RuntimeStoreClient
from runtimestore.types import (
    Acquisition,
    Commit,
    CommitCounters,
    CorruptInput,
    InputState,
    InputStateSeed,
    Limits,
    Loaded,
    LoadedRuntime,
    OAuthCommit,
    OAuthFlowSnapshot,
    ReadableInputStates,
    RunApplyBoundary,
    RunBoundaryReceipt,
    RuntimeState,
    ServerInfo,
    SessionVersion,
    SessionVersions,
)

__all__ = [
    "AccessNotAllowed",
    "Acquisition",
    "AsyncRuntimeStoreClient",
    "BoundaryReceiptExists",
    "CallFailed",
    "Commit",
    "CommitCounters",
    "CommitOutcomeUnknown",
    "CorruptInput",
    "DeadlineExceeded",
    "Fenced",
    "FieldViolation",
    "InputState",
    "InputStateInvalid",
    "InputStateSeed",
    "InternalError",
    "InvalidField",
    "InvalidRequest",
    "Limits",
    "Loaded",
    "LoadedRuntime",
    "OAuthCommit",
    "OAuthFlowSnapshot",
    "OAuthFlowSnapshotChanged",
    "OpsSnapshotInvalid",
    "Overloaded",
    "ReadableInputStates",
    "RealmNotAllowed",
    "RequestIdReused",
    "RetryPolicy",
    "RevisionMismatch",
    "RevisionNotKept",
    "RunApplyBoundary",
    "RunBoundaryReceipt",
    "RuntimeState",
    "RuntimeStoreClient",
    "RuntimeStoreError",
    "ServerInfo",
    "SessionKeyMismatch",
    "SessionSnapshotInvalid",
    "SessionVersion",
    "SessionVersions",
    "SnapshotBaseMismatch",
    "StoreForbidden",
    "StoreFull",
    "StoreReadOnly",
    "StoreUnavailable",
    "StoredValueCorrupt",
    "Tls",
    "TryLater",
    "Unauthenticated",
]

try:
    __version__ = _metadata.version("runtimestore")
except _metadata.PackageNotFoundError:  # imported from a source tree that is not installed
    __version__ = "0+unknown"
