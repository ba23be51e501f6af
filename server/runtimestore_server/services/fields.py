"""Reads the fields that requests about a runtime have in common."""

from __future__ import annotations

from typing import Any

from runtimestore_server.documents.identifiers import bad_field, realm_field, request_id_field, runtime_id_field
from runtimestore_server.store import PartialInputs, RuntimeKey
from runtimestore_server.store.digests import SHA256_BYTES


def runtime_key(request: Any, *, store_error: str = "read_failed") -> RuntimeKey:
    """Read which runtime a request is about; `store_error` is the trait's error where its id is too long.

    Raises:
        InvalidRequest: the realm or the runtime id is none.
    """
    return RuntimeKey(realm_field(request.realm), runtime_id_field(request.runtime_id, store_error=store_error))


def of_every_write(request: Any) -> dict[str, Any]:
    """Read what every write to a runtime carries, as arguments of `Write`.

    Raises:
        InvalidRequest: the realm, the runtime id or the request id is none.
    """
    return {
        "runtime": runtime_key(request, store_error="write_failed"),
        "request_id": request_id_field(request.request_id),
        "if_revision": request.if_revision if request.HasField("if_revision") else None,
        "fence": request.fence if request.HasField("fence") else None,
    }


def optional_digest(request: Any, field: str) -> bytes | None:
    """Read a SHA-256 that a request may carry.

    Raises:
        InvalidRequest: it is none.
    """
    if not request.HasField(field):
        return None
    digest: bytes = getattr(request, field)
    if len(digest) != SHA256_BYTES:
        raise bad_field(field, f"must be a SHA-256: {SHA256_BYTES} bytes")
    return digest


def partial_inputs(request: Any) -> PartialInputs | None:
    """Read what a write says of the inputs that it does not carry.

    Raises:
        InvalidRequest: it says nothing of use, or not at which revision the store has them.
    """
    if not request.HasField("partial_inputs"):
        return None
    partial = request.partial_inputs
    if len(partial.all_sha256) != SHA256_BYTES:
        raise bad_field("partial_inputs.all_sha256", f"must be a SHA-256: {SHA256_BYTES} bytes")
    if not request.HasField("if_revision"):
        raise bad_field(
            "if_revision", "is required with partial_inputs: the revision at which the store has the others"
        )
    own = partial.if_revision if partial.HasField("if_revision") else None
    if own not in (None, request.if_revision):
        raise bad_field("partial_inputs.if_revision", "must be absent or equal to if_revision")
    return PartialInputs(partial.all_sha256, own)


def required(request: Any, field: str) -> Any:
    """Read a message that a request must carry.

    Raises:
        InvalidRequest: it is absent.
    """
    if not request.HasField(field):
        raise bad_field(field, "is required")
    return getattr(request, field)
