"""OAuth flow snapshots: opaque bytes, so there is nothing to check."""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING

from runtimestore_server.documents.identifiers import realm_field, request_id_field
from runtimestore_server.store import OAuthFlowWrite

if TYPE_CHECKING:
    from runtimestore.v1 import runtime_store_pb2 as pb


def write(
    request: pb.PersistAuthOAuthFlowSnapshotRequest | pb.UpdateAuthOAuthFlowSnapshotRequest,
    *,
    expected_version: int | None,
) -> OAuthFlowWrite:
    """Make the write of a request; `expected_version` is the version that must be there.

    Raises:
        InvalidRequest: the realm or the request id is none.
    """
    snapshot_json = request.snapshot_json
    return OAuthFlowWrite(
        realm=realm_field(request.realm),
        request_id=request_id_field(request.request_id),
        snapshot_json=snapshot_json,
        sha256=sha256(snapshot_json).digest(),
        expected_version=expected_version,
    )
