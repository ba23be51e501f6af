"""Makes the exception of a failed gRPC call, of the class of its reason."""

from __future__ import annotations

from typing import TYPE_CHECKING

import grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

from runtimestore.errors import DOMAIN, REFUSALS, CallFailed, DeadlineExceeded, FieldViolation, RuntimeStoreError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from google.protobuf import any_pb2

    TrailingMetadata = Iterable[tuple[str, str | bytes]] | None

__all__ = ["refusal_of", "revision_of"]

_DETAILS_KEY = "grpc-status-details-bin"
_REVISION_KEY = "runtimestore-revision"


def refusal_of(code: grpc.StatusCode, message: str | None, trailing_metadata: TrailingMetadata) -> RuntimeStoreError:
    """Return the exception of a failed call: the class of its reason, else of its status code.

    The details are unpacked by hand, so that the thin install needs no grpcio-status.
    """
    message = message or code.name
    info = error_details_pb2.ErrorInfo()
    bad = error_details_pb2.BadRequest()
    retry = error_details_pb2.RetryInfo()
    retry_after_seconds: float | None = None
    for detail in _details(trailing_metadata):
        try:
            detail.Unpack(info)
            detail.Unpack(bad)
            if detail.Unpack(retry):
                retry_after_seconds = max(retry.retry_delay.seconds + retry.retry_delay.nanos / 1e9, 0.0)
        except DecodeError:
            continue  # a detail that is garbage says nothing; the others may
    metadata = dict(info.metadata)
    refusal = REFUSALS.get(info.reason) if info.domain == DOMAIN else None
    if refusal is not None:
        return refusal(
            message,
            metadata=metadata,
            violations=[FieldViolation(violation.field, violation.description) for violation in bad.field_violations],
            retry_after_seconds=retry_after_seconds,
        )
    if info.reason:
        metadata["reason"] = info.reason  # of a newer server, or of something in between
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return DeadlineExceeded(message, metadata=metadata)
    return CallFailed(message, code, metadata=metadata, retry_after_seconds=retry_after_seconds)


def revision_of(trailing_metadata: TrailingMetadata) -> int:
    """Return the runtime's revision in the trailing metadata of an empty stream; 0 if it is not told."""
    for key, value in trailing_metadata or ():
        if key == _REVISION_KEY and isinstance(value, str) and value.isdecimal():
            return int(value)
    return 0


def _details(trailing_metadata: TrailingMetadata) -> Iterable[any_pb2.Any]:
    for key, value in trailing_metadata or ():
        if key == _DETAILS_KEY and isinstance(value, bytes):
            try:
                details: Iterable[any_pb2.Any] = status_pb2.Status.FromString(value).details
            except DecodeError:
                return ()
            return details
    return ()
