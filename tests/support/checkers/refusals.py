"""What a refused call carries on the wire, unpacked without the client, and what it left behind."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio
import pytest
from google.rpc import error_details_pb2, status_pb2

from runtimestore.v1 import runtime_store_pb2 as pb

if TYPE_CHECKING:
    from runtimestore.v1 import runtime_store_pb2_grpc

DESCRIBED = {"field", "description"}
PROMISED: dict[str, set[str]] = {
    "SESSION_KEY_MISMATCH": {"expected", "actual"},
    "SESSION_SNAPSHOT_INVALID": DESCRIBED,
    "INPUT_STATE_INVALID": DESCRIBED,
    "OPS_SNAPSHOT_INVALID": DESCRIBED,
    "BOUNDARY_RECEIPT_EXISTS": {"run_id", "sequence"},
    "REVISION_MISMATCH": {"if_revision", "current_revision"},
    "OAUTH_FLOW_SNAPSHOT_CHANGED": {"expected_version", "current_version"},
    "STORED_VALUE_CORRUPT": {"table"},
    "INVALID_REQUEST": DESCRIBED,
    "FENCED": {"runtime_id", "fence", "current_fence", "owner"},
    "STORE_FORBIDDEN": {"table", "right"},
    "ACCESS_NOT_ALLOWED": {"access"},
    "SNAPSHOT_BASE_MISMATCH": {"current_sha256"},
    "REVISION_NOT_KEPT": {"oldest_revision"},
}
"""The metadata of each reason, as error_reason.proto has them."""
OF_A_LIMIT = {"field", "size_bytes", "limit_bytes", "limit"}
"""Those of a request over a limit that is set."""


@dataclass(frozen=True)
class WireRefusal:
    """A status with its details; absent ones are None, absent violations are an empty dictionary."""

    code: grpc.StatusCode
    message: str
    reason: str
    domain: str
    metadata: dict[str, str]
    violations: dict[str, str]
    retry_delay_seconds: float | None

    @property
    def store_error(self) -> str:
        """The trait's error variant."""
        return self.metadata["store_error"]


def but_for_its_id(found: WireRefusal) -> Any:
    """What a refusal says of what was asked: not the id by which its line in the log is found, new for each."""
    uuid.UUID(found.metadata["request_id"])
    metadata = {name: value for name, value in found.metadata.items() if name != "request_id"}
    return found.code, found.message, found.reason, found.domain, metadata, found.violations, found.retry_delay_seconds


async def refused(call: Any) -> WireRefusal:
    """How a call, unary or streaming, was refused; fails if it was not."""
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await _finished(call)
    return details(failed.value)


def details(error: grpc.aio.AioRpcError) -> WireRefusal:
    """What the error of a call carries."""
    trailing = dict(error.trailing_metadata() or ())
    status = status_pb2.Status.FromString(trailing.get("grpc-status-details-bin", b""))
    info = error_details_pb2.ErrorInfo()
    bad = error_details_pb2.BadRequest()
    retry = error_details_pb2.RetryInfo()
    retry_delay_seconds = None
    for detail in status.details:
        detail.Unpack(info)
        detail.Unpack(bad)
        if detail.Unpack(retry):
            retry_delay_seconds = retry.retry_delay.seconds + retry.retry_delay.nanos / 1e9
    if status.details:
        assert status.code == error.code().value[0]
        assert status.message == error.details()
    promised = OF_A_LIMIT if "limit" in info.metadata else PROMISED.get(info.reason, set())
    assert promised <= {*info.metadata}, info
    return WireRefusal(
        code=error.code(),
        message=error.details() or "",
        reason=info.reason,
        domain=info.domain,
        metadata=dict(info.metadata),
        violations={violation.field: violation.description for violation in bad.field_violations},
        retry_delay_seconds=retry_delay_seconds,
    )


async def _finished(call: Any) -> None:
    if hasattr(call, "__aiter__"):
        async for _ in call:
            pass
    else:
        await call


DOMAIN = "runtimestore.v1"

NEVER_SHOWN = ("select", "insert", "sqlite", "psycopg", "sqlalchemy", "traceback", ".py", ".db", "/", "a-caller-sent")
"""No message tells SQL, a path or a stored value."""


def is_refusal(found: WireRefusal, code: grpc.StatusCode, reason: str, store_error: str) -> None:
    """Check what every refusal must carry, and must not."""
    assert (found.code, found.reason, found.domain) == (code, reason, DOMAIN)
    assert found.store_error == store_error
    assert found.message
    told = f"{found.message} {found.metadata} {found.violations}".lower()
    assert [word for word in NEVER_SHOWN if word in told] == []


def is_invalid(found: WireRefusal, reason: str, field: str) -> None:
    """Check that a write is refused for what it carries, and that the field is named, with its cure."""
    assert found.code is grpc.StatusCode.INVALID_ARGUMENT
    assert found.reason == reason
    assert found.store_error == "write_failed"
    (named,) = found.violations
    assert named.startswith(field), named
    assert found.violations[named]
    assert found.metadata["field"] == named


async def nothing_there(wire: runtime_store_pb2_grpc.RuntimeStoreAsyncStub, realm: str, runtime_id: str) -> None:
    """Check that nothing was written to a runtime."""
    answer = await wire.LoadRuntimeState(pb.LoadRuntimeStateRequest(realm=realm, runtime_id=runtime_id))
    assert answer.revision == 0
