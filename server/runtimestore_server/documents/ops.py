"""Ops documents, the registries of background operations: their check, their epoch, their message.

The stored form is the document as it was sent, byte for byte.
"""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING

import msgspec

from runtimestore.errors import OpsSnapshotInvalid
from runtimestore.v1 import runtime_store_pb2 as pb
from runtimestore_server.documents.identifiers import canonical_uuid
from runtimestore_server.documents.json import document_uuid, envelope, lenient
from runtimestore_server.store import reads
from runtimestore_server.store.values import OpsDocument

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

    from runtimestore_server.store import RuntimeKey

FIELD = "snapshot.snapshot_json"


class _Ops(msgspec.Struct):
    epoch_id: str


_decoder = msgspec.json.Decoder(_Ops)


def check(snapshot: pb.PersistedOpsSnapshot) -> OpsDocument:
    """Check the ops document in `snapshot`.

    Raises:
        OpsSnapshotInvalid: the envelope is bad.
    """
    body = snapshot.snapshot_json.encode()
    document = envelope(_decoder, body, OpsSnapshotInvalid, FIELD)
    named = document_uuid(document.epoch_id, OpsSnapshotInvalid, f"{FIELD}.epoch_id")
    return OpsDocument(named, body, sha256(body).digest())


def epoch_id(snapshot_json: bytes) -> str | None:
    """Read the epoch of a stored ops document; None if it names none."""
    try:
        return canonical_uuid(lenient(_decoder, snapshot_json).epoch_id)
    except msgspec.DecodeError:
        return None


def load(tx: Connection, runtime: RuntimeKey) -> tuple[int, reads.StoredOps | None]:
    """Read the revision and the ops document of a runtime.

    Raises:
        StoredValueCorrupt: it is damaged, no ops document, or its epoch is not the stored one.
    """
    revision, stored = reads.load_ops_lifecycle(tx, runtime)
    if stored is not None and epoch_id(stored.snapshot_json) != stored.epoch_id:
        raise reads.corrupt("ops_snapshots", "has the epoch_id of another ops document", **runtime._asdict())
    return revision, stored


def message(stored: reads.StoredOps) -> pb.PersistedOpsSnapshot:
    """Make the message of an ops document, with its epoch."""
    return pb.PersistedOpsSnapshot(snapshot_json=stored.snapshot_json.decode(), epoch_id=stored.epoch_id)
