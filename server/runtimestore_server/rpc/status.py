"""Exceptions become statuses here and nowhere else, from their class.

Unknown ones become INTERNAL with one fixed sentence; the log has the rest.
"""

from __future__ import annotations

import time
from typing import Any

import structlog
from google.protobuf import any_pb2, duration_pb2
from google.rpc import error_details_pb2, status_pb2

from runtimestore.errors import (
    DOMAIN,
    AccessNotAllowed,
    FieldViolation,
    InternalError,
    InvalidRequest,
    RealmNotAllowed,
    RuntimeStoreError,
    Unauthenticated,
)
from runtimestore_server.logs import UNFORESEEN, frames

_log = structlog.get_logger(__name__)

STATUS_DETAILS_KEY = "grpc-status-details-bin"
METADATA_VALUE_LIMIT = 1024
"""In bytes. Trailing metadata has to fit into 8 KiB by gRPC's default; no single value may fill it."""


def refusal_of(error: Exception, *, method: str, started: float) -> RuntimeStoreError:
    """What the caller is told of an error that ended its call, which began at `started`; the log is told as well."""
    if isinstance(error, RuntimeStoreError):
        log = _log.warning if isinstance(error, InternalError) else _log.info
        if isinstance(error, (Unauthenticated, RealmNotAllowed, AccessNotAllowed)):
            log = _log.debug  # told where it was decided, at a rate that a log can bear
        log("refused", method=method, reason=error.reason, seconds=round(time.perf_counter() - started, 6))
        return error
    # The frames and the class, but not the message: it may quote what a caller sent, and that may be a secret.
    _log.error("call failed", method=method, error=type(error).__name__, traceback=frames(error))
    return InternalError(UNFORESEEN)


def status_of(refusal: RuntimeStoreError) -> status_pb2.Status:
    """The `google.rpc.Status` of a refusal, with its details: ErrorInfo, BadRequest and RetryInfo."""
    metadata = {key: _told(value) for key, value in refusal.metadata.items()}
    info = error_details_pb2.ErrorInfo(
        reason=refusal.reason, domain=DOMAIN, metadata=metadata | {"store_error": _told(refusal.store_error)}
    )
    details: list[Any] = [info]
    if refusal.violations:
        details.append(
            error_details_pb2.BadRequest(
                field_violations=[
                    error_details_pb2.BadRequest.FieldViolation(field=field, description=description)
                    for field, description in refusal.violations
                ]
            )
        )
    if refusal.retry_after_seconds is not None:
        delay = duration_pb2.Duration()
        delay.FromMilliseconds(int(refusal.retry_after_seconds * 1000))
        details.append(error_details_pb2.RetryInfo(retry_delay=delay))
    status = status_pb2.Status(code=refusal.code.value[0], message=_told(refusal.message))
    for detail in details:
        packed = any_pb2.Any()
        packed.Pack(detail)
        status.details.append(packed)
    return status


def malformed() -> InvalidRequest:
    """The refusal of a request that is no message of its method."""
    return InvalidRequest(
        "the request is not a valid protobuf message of this method: a field has another wire type, a string is not "
        "UTF-8, or bytes are missing; generate the client from the same proto files",
        metadata={"field": "request"},
        violations=[FieldViolation("request", "must be a valid protobuf message of this method")],
    )


def missing() -> InvalidRequest:
    """The refusal of a call that ended without a message."""
    return InvalidRequest(
        "the call ended without a message; send one message of this method",
        metadata={"field": "request"},
        violations=[FieldViolation("request", "must be one message")],
    )


def _told(value: object) -> str:
    """What goes onto the wire of a part of a refusal: it may come from a damaged row, and must not end the call."""
    text = str(value).encode(errors="backslashreplace")
    return text[:METADATA_VALUE_LIMIT].decode(errors="ignore")
