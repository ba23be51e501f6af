"""Exceptions become statuses here and nowhere else, from their class.

Unknown ones become INTERNAL with one fixed sentence; the log has the rest.
"""

from __future__ import annotations

import time
from contextvars import ContextVar
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
MOST_OF_A_NAME = 512
"""In characters: how much of a realm or a runtime id the log shows."""

METADATA_VALUE_LIMIT = 1024
"""In bytes. Trailing metadata has to fit into 8 KiB by gRPC's default; no single value may fill it."""


_subject: ContextVar[tuple[str | None, str | None]] = ContextVar("subject", default=(None, None))
"""The realm and the runtime that the call of this task is about."""


def name_subject(request: Any) -> None:
    """Keep what the request of this task's call is about, for the log; the request itself may be megabytes."""
    _subject.set((getattr(request, "realm", None), getattr(request, "runtime_id", None)))


def refusal_of(error: Exception, *, method: str, started: float, peer: str) -> RuntimeStoreError:
    """What the caller is told of an error that ended its call, which began at `started`; the log is told as well."""
    realm, runtime = _subject.get()
    found = {"method": method, "realm": _shown(realm), "runtime": _shown(runtime), "peer": peer}
    about = {key: value for key, value in found.items() if value is not None}
    if isinstance(error, RuntimeStoreError):
        log = _log.warning if isinstance(error, InternalError) else _log.info
        if isinstance(error, (Unauthenticated, RealmNotAllowed, AccessNotAllowed)):
            log = _log.debug  # told where it was decided, at a rate that a log can bear
        seconds = round(time.perf_counter() - started, 6)
        if field := error.metadata.get("field"):
            about["field"] = field
        log("refused", **about, reason=error.reason, seconds=seconds)
        return error
    # The frames and the class, but not the message: it may quote what a caller sent, and that may be a secret.
    _log.error("call failed", **about, error=type(error).__name__, traceback=frames(error))
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


def _shown(name: str | None) -> str | None:
    """A name as the log shows it: a refused one may be of any length, and anything at all."""
    return name if name is None or len(name) <= MOST_OF_A_NAME else f"{name[:MOST_OF_A_NAME]}…"


def _told(value: object) -> str:
    """What goes onto the wire of a part of a refusal: it may come from a damaged row, and must not end the call."""
    text = str(value).encode(errors="backslashreplace")
    return text[:METADATA_VALUE_LIMIT].decode(errors="ignore")
