from __future__ import annotations

import grpc
import pytest

from runtimestore import CallFailed, DeadlineExceeded, FieldViolation, InvalidRequest, Overloaded, errors
from runtimestore._status import refusal_of, revision_of
from runtimestore.v1 import error_reason_pb2
from support.servers.scripted_store import DETAILS_KEY, Failure, refusal

REASONS = [name for name, number in error_reason_pb2.ErrorReason.items() if number]


def read(failure: Failure) -> errors.RuntimeStoreError:
    return refusal_of(failure.code, failure.message, failure.trailing_metadata)


@pytest.mark.parametrize("reason", REASONS)
def test_every_reason_has_its_own_class(reason: str) -> None:
    expected = errors.REFUSALS[reason]

    error = read(refusal(reason, expected.code, metadata={"store_error": "unsupported", "n": "1"}, message="why"))

    assert type(error) is expected
    assert (error.reason, error.message, error.metadata["n"]) == (reason, "why", "1")
    assert error.store_error == "unsupported"
    assert str(error) == "why"


def test_no_two_reasons_share_a_class() -> None:
    assert len({errors.REFUSALS[reason] for reason in REASONS}) == len(REASONS)


@pytest.mark.parametrize(
    ("reason", "metadata"),
    [
        ("SESSION_KEY_MISMATCH", {"expected": "a", "actual": "b"}),
        ("BOUNDARY_RECEIPT_EXISTS", {"run_id": "r", "sequence": 2**64 - 1}),
        ("REVISION_MISMATCH", {"if_revision": 3, "current_revision": 4}),
        ("OAUTH_FLOW_SNAPSHOT_CHANGED", {"expected_version": 0, "current_version": 9}),
    ],
)
def test_the_variable_parts_of_a_refusal_are_attributes(reason: str, metadata: dict[str, str | int]) -> None:
    code = errors.REFUSALS[reason].code
    error = read(refusal(reason, code, metadata={key: str(value) for key, value in metadata.items()}))

    assert {key: getattr(error, key) for key in metadata} == metadata


def test_bad_fields_are_named() -> None:
    error = read(refusal("INVALID_REQUEST", grpc.StatusCode.INVALID_ARGUMENT, violations=[("realm", "lower case")]))

    assert isinstance(error, InvalidRequest)
    assert error.violations == (FieldViolation("realm", "lower case"),)


def test_the_time_to_come_back_is_read() -> None:
    error = read(refusal("OVERLOADED", grpc.StatusCode.RESOURCE_EXHAUSTED, retry_after_seconds=1.25))

    assert isinstance(error, Overloaded)
    assert error.retry_after_seconds == 1.25


@pytest.mark.parametrize(
    "failure",
    [
        Failure(grpc.StatusCode.INTERNAL),
        Failure(grpc.StatusCode.INTERNAL, trailing_metadata=((DETAILS_KEY, b"\xff\xff garbage"),)),
        refusal("TOMORROWS_REASON", grpc.StatusCode.INTERNAL),
        refusal("STORE_FULL", grpc.StatusCode.INTERNAL, domain="proxy.example"),
    ],
    ids=["no details", "garbage", "unknown reason", "another domain"],
)
def test_without_a_known_reason_the_status_code_counts(failure: Failure) -> None:
    error = read(failure)

    assert type(error) is CallFailed
    assert error.code is grpc.StatusCode.INTERNAL


def test_a_deadline_is_a_class_of_its_own() -> None:
    assert type(read(Failure(grpc.StatusCode.DEADLINE_EXCEEDED))) is DeadlineExceeded


def test_a_status_without_a_message_has_the_name_of_its_code() -> None:
    assert str(refusal_of(grpc.StatusCode.ABORTED, None, None)) == "ABORTED"


@pytest.mark.parametrize(
    ("trailing_metadata", "revision"),
    [((("runtimestore-revision", "12"),), 12), ((), 0), (None, 0), ((("runtimestore-revision", "x"),), 0)],
)
def test_the_revision_of_an_empty_stream_stands_in_its_trailing_metadata(
    trailing_metadata: tuple[tuple[str, str | bytes], ...] | None, revision: int
) -> None:
    assert revision_of(trailing_metadata) == revision
