"""Exceptions become statuses here and nowhere else, from their class.

Unknown ones become INTERNAL with one fixed sentence; the log has the rest.
"""

from __future__ import annotations

import contextlib
import re
import time
import uuid
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import structlog
from google.protobuf import any_pb2, duration_pb2
from google.rpc import error_details_pb2, status_pb2

from runtimestore.errors import DOMAIN, CommitOutcomeUnknown, InternalError, InvalidRequest, RuntimeStoreError
from runtimestore_server.access.failures import NotLetIn
from runtimestore_server.documents.identifiers import bad_field, canonical_uuid
from runtimestore_server.logs import UNFORESEEN, frames
from runtimestore_server.rpc.call_ends import CANCELLED, DEADLINE_EXCEEDED, code_of_end
from runtimestore_server.telemetry.counts import CallEnd

if TYPE_CHECKING:
    from runtimestore_server.store.values import Outcome
    from runtimestore_server.telemetry.lines import LineLimit

_log = structlog.get_logger(__name__)

STATUS_DETAILS_KEY = "grpc-status-details-bin"
MOST_OF_A_NAME = 512
"""In characters: how much of a realm or a runtime id the log shows."""

UNKNOWN_METHOD = "unknown"
"""What every method is called that the server does not have."""

METADATA_VALUE_LIMIT = 1024
"""In bytes. Trailing metadata has to fit into 8 KiB by gRPC's default; no single value may fill it."""


_REQUEST_ID = re.compile(r"[0-9A-Za-z-]{1,64}")
_TRACE = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(-.*)?")
"""The header `traceparent`: W3C Trace Context, "Traceparent Header"."""

_subject: ContextVar[tuple[str | None, str | None, str | None]] = ContextVar("subject", default=(None, None, None))
"""The realm and the runtime that the call of this task is about, and its request id."""

_principal: ContextVar[str | None] = ContextVar("principal", default=None)
"""Who makes the call of this task, where that is known."""


_trace: ContextVar[str | None] = ContextVar("trace", default=None)
"""The trace that this server records of the call of this task."""

_refusal: ContextVar[tuple[str, str, str] | None] = ContextVar("refusal", default=None)
"""With which code, reason and call id the call of this task was refused."""


def name_trace(trace_id: str | None) -> None:
    """Keep the trace of this task's call, for the log; without one, the caller's `traceparent` names it."""
    _trace.set(trace_id)


def end_of_call(context: Any, started: float, error: BaseException | None = None) -> CallEnd:
    """Tell how the call of this task, which began at `started`, ended: by `error` or by its answer. Never raises."""
    realm, runtime, request_id = _subject.get()
    code, reason = "OK", None
    if refusal := _refusal.get():
        code, reason, request_id = refusal
    elif error is not None:
        code = code_of_end(context, error, started)
    request_id = request_id if request_id and _REQUEST_ID.fullmatch(request_id) else None
    return CallEnd(code, reason, _principal.get(), _shown(realm), _shown(runtime), request_id)


def name_caller(principal: str) -> None:
    """Keep who makes this task's call, for the log."""
    _principal.set(principal)


def name_subject(request: Any) -> None:
    """Keep what the request of this task's call is about, for the log; the request itself may be megabytes.

    The request id in the store's own form: one id is found by one name, however its caller spells it.
    """
    given = getattr(request, "request_id", None)
    request_id = (canonical_uuid(given) or given) if given else given
    _subject.set((getattr(request, "realm", None), getattr(request, "runtime_id", None), request_id))


def realm_of_call() -> str | None:
    """Tell the realm in the request of this task's call, though it be empty; None if there is none, or no request."""
    return _subject.get()[0]


def id_of_call() -> str:
    """Return what the log and the caller of a refused call know it by: its request id, or one that is minted for it."""
    given = _subject.get()[2]
    return given if given and _REQUEST_ID.fullmatch(given) else str(uuid.uuid4())


def log_served(context: Any, *, method: str, started: float, at_info: bool) -> None:
    """Write the line of a call that was answered: to the log that people read only if they asked for it."""
    seconds = round(time.perf_counter() - started, 6)
    if at_info:
        _log.info("served", **_about(context, method, _subject.get()[2] or None), seconds=seconds)
    else:
        _log.debug("served", method=method, seconds=seconds)


def log_ended(context: Any, code: str, *, method: str, started: float, lines: LineLimit) -> None:
    """Write the line of a call that was neither answered nor refused: given up, or ended by gRPC itself. Never raises.

    Lines are bounded by method and code: whoever gives up one method's calls takes no line of another's.
    """
    with contextlib.suppress(Exception):
        if not lines.lets_through(f"{code} {method}"):
            return
        about = _about(context, method, _subject.get()[2] or None)
        if (left_seconds := context.time_remaining()) is not None and code in (CANCELLED, DEADLINE_EXCEEDED):
            about["left_seconds"] = round(left_seconds, 3)
        _log.info("ended unanswered", **about, code=code, seconds=round(time.perf_counter() - started, 6))


def log_unknown(context: Any, *, started: float, lines: LineLimit) -> None:
    """Write the line of a call of a method that the server does not have. Never raises.

    It has one name for all of them: what its caller called it may be anything, of any length, and a secret.
    """
    with contextlib.suppress(Exception):
        if lines.lets_through(f"UNIMPLEMENTED {UNKNOWN_METHOD}"):
            seconds = round(time.perf_counter() - started, 6)
            _log.info("unknown method", **_about(context, UNKNOWN_METHOD, None), code="UNIMPLEMENTED", seconds=seconds)


def log_unanswered(lines: LineLimit, decision: Outcome | RuntimeStoreError) -> None:
    """Write the line of a write that was decided when its call was over, in the context of that call. Never raises."""
    with contextlib.suppress(Exception):
        found: dict[str, Any] = _named(_subject.get()[2] or None)
        if isinstance(decision, RuntimeStoreError):
            found |= {"outcome": "unknown" if isinstance(decision, CommitOutcomeUnknown) else "refused"}
            found |= {"reason": decision.reason}
        else:
            found |= {"outcome": "replayed" if decision.replayed else "committed", "revision": decision.revision}
        if lines.lets_through(f"unanswered {found['outcome']}"):
            _log.info("decided unanswered", **found)


def _named(call_id: str | None) -> dict[str, Any]:
    """Return what a line tells of the call of this task, as far as the call itself is not needed for it."""
    realm, runtime, _ = _subject.get()
    found = {
        "principal": _principal.get(),
        "realm": _shown(realm),
        "runtime": _shown(runtime),
        "request_id": _shown(call_id),
        "trace_id": _trace.get(),
    }
    return {key: value for key, value in found.items() if value is not None}


def _about(context: Any, method: str, call_id: str | None) -> dict[str, Any]:
    """Return what a line tells of the call of this task."""
    found = {"method": method, "peer": context.peer(), **_named(call_id)}
    if "trace_id" not in found and (trace_id := _trace_id(context)) is not None:
        found["trace_id"] = trace_id
    return found


def _trace_id(context: Any) -> str | None:
    for key, value in context.invocation_metadata() or ():
        if key == "traceparent" and isinstance(value, str) and (found := _TRACE.fullmatch(value)):
            return found[1]
    return None


def refusal_of(
    error: Exception, context: Any, *, method: str, started: float, call_id: str, lines: LineLimit
) -> RuntimeStoreError:
    """Tell the log of an error that ended a call, which began at `started`; return what its caller is told."""
    refusal = error if isinstance(error, RuntimeStoreError) else InternalError(UNFORESEEN)
    _refusal.set((refusal.code.name, refusal.reason, call_id))
    if not lines.lets_through(refusal.reason):
        return refusal
    about = _about(context, method, call_id)
    if isinstance(error, RuntimeStoreError):
        log, event = (_log.warning if isinstance(error, InternalError) else _log.info), "refused"
        if isinstance(cause := error.__cause__, NotLetIn):
            log, event, about["why"] = _log.warning, cause.event, cause.why
        if field := error.metadata.get("field"):
            about["field"] = field
        log(event, **about, reason=error.reason, seconds=round(time.perf_counter() - started, 6))
        return refusal
    # The frames and the class, but not the message: it may quote what a caller sent, and that may be a secret.
    _log.error(
        "call failed",
        **about,
        reason=refusal.reason,
        seconds=round(time.perf_counter() - started, 6),
        error=type(error).__name__,
        traceback=frames(error),
    )
    return refusal


def status_of(refusal: RuntimeStoreError, call_id: str) -> status_pb2.Status:
    """Return the `google.rpc.Status` of a refusal, with its details: ErrorInfo, BadRequest and RetryInfo.

    The metadata of ErrorInfo name the call as its line in the log does, so that one is found by the other.
    """
    metadata = {"request_id": call_id} | {key: _cut(value) for key, value in refusal.metadata.items()}
    info = error_details_pb2.ErrorInfo(
        reason=refusal.reason, domain=DOMAIN, metadata=metadata | {"store_error": _cut(refusal.store_error)}
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
    status = status_pb2.Status(code=refusal.code.value[0], message=_cut(refusal.message))
    for detail in details:
        packed = any_pb2.Any()
        packed.Pack(detail)
        status.details.append(packed)
    return status


def message_and_details(refusal: RuntimeStoreError, call_id: str) -> tuple[str, tuple[tuple[str, bytes], ...]]:
    """Return what a caller is told of a refusal beside its code: the sentence, and the metadata with the details."""
    status = status_of(refusal, call_id)
    return status.message, ((STATUS_DETAILS_KEY, status.SerializeToString()),)


def malformed() -> InvalidRequest:
    """Make the refusal of a request that is no message of its method."""
    return bad_field(
        "request",
        "must be a valid protobuf message of this method: a field has another wire type, a string is not UTF-8, or "
        "bytes are missing; generate the client from the same proto files",
    )


def missing() -> InvalidRequest:
    """Make the refusal of a call that ended without a message."""
    return bad_field("request", "must be one message of this method: the call ended without one")


def _shown(name: str | None) -> str | None:
    """Return a name as the log shows it: a refused one may be of any length, and anything at all."""
    return name if name is None or len(name) <= MOST_OF_A_NAME else f"{name[:MOST_OF_A_NAME]}…"


def _cut(value: object) -> str:
    """Cut a part of a refusal for the wire: it may come from a damaged row, and must not end the call."""
    text = str(value).encode(errors="backslashreplace")
    return text[:METADATA_VALUE_LIMIT].decode(errors="ignore")
