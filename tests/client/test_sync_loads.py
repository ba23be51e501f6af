"""What the client for threads makes of the answers to loads, whole, broken or from another version."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from runtimestore import CallFailed, RetryPolicy, StoredValueCorrupt
from runtimestore.v1 import runtime_store_pb2 as pb
from support.faults.fake_wire import WAIT_SECONDS
from support.generators.arguments import RUNTIME
from support.servers.scripted_store import GONE, Failure

if TYPE_CHECKING:
    from support.faults.fake_wire import Wire


def stream(
    wire: Wire, parts: list[Any], *, end: Failure | None = None, trailing: tuple[tuple[str, str], ...] = ()
) -> None:
    """Answer the next load of the session snapshot with these messages."""
    _, rpc = wire.take("LoadSessionSnapshot")
    for part in parts:
        rpc.send_response(part)
    if end is None:
        rpc.terminate(trailing, grpc.StatusCode.OK, "")
    else:
        rpc.terminate(end.trailing_metadata, end.code, end.message)


def info(data: bytes, *, size_bytes: int | None = None) -> pb.LoadSessionSnapshotResponse:
    return pb.LoadSessionSnapshotResponse(
        info=pb.SessionSnapshotInfo(
            session_id="s",
            size_bytes=len(data) if size_bytes is None else size_bytes,
            sha256=hashlib.sha256(data).digest(),
            revision=3,
        )
    )


def chunk(data: bytes) -> pb.LoadSessionSnapshotResponse:
    return pb.LoadSessionSnapshotResponse(chunk=data)


def test_the_chunks_of_a_snapshot_are_joined(wire: Wire) -> None:
    loading = wire.calling(lambda: wire.client().load_session_snapshot_with_revision(RUNTIME))
    stream(wire, [info(b"onetwo"), chunk(b"one"), chunk(b"two")])

    assert loading.result(WAIT_SECONDS) == (b"onetwo", 3)


def test_an_empty_stream_is_no_snapshot_at_the_revision_of_the_trailing_metadata(wire: Wire) -> None:
    loading = wire.calling(lambda: wire.client().load_session_snapshot_with_revision(RUNTIME))
    stream(wire, [], trailing=(("runtimestore-revision", "9"),))

    assert loading.result(WAIT_SECONDS) == (None, 9)


def test_a_stream_that_breaks_half_way_is_read_from_its_start(wire: Wire, at_once: RetryPolicy) -> None:
    loading = wire.calling(lambda: wire.client(retry=at_once).load_session_snapshot(RUNTIME))
    stream(wire, [info(b"older!"), chunk(b"old")], end=GONE)
    stream(wire, [info(b"newer!"), chunk(b"new"), chunk(b"er!")])

    assert loading.result(WAIT_SECONDS) == b"newer!"


@pytest.mark.parametrize(
    ("parts", "what"),
    [
        ([info(b"onetwo"), chunk(b"one")], "3 of its 6 bytes arrived"),
        ([info(b"onetwo"), chunk(b"one"), chunk(b"twoo")], "more than its 6 bytes arrived"),
        ([info(b"onetwo"), chunk(b"one"), chunk(b"tow")], "do not match its SHA-256"),
        ([info(b"onetwo")], "0 of its 6 bytes arrived"),
    ],
    ids=["too short", "too long", "other bytes", "no bytes"],
)
def test_a_snapshot_that_does_not_match_its_description_is_not_returned(
    wire: Wire, parts: list[Any], what: str
) -> None:
    loading = wire.calling(lambda: wire.client().load_session_snapshot(RUNTIME))
    stream(wire, parts)

    error = loading.exception(WAIT_SECONDS)
    assert isinstance(error, StoredValueCorrupt)
    assert what in error.message


@pytest.mark.parametrize("parts", [[chunk(b"one"), info(b"one")], [info(b"one"), info(b"one"), chunk(b"one")]])
def test_a_stream_that_is_no_snapshot_s_fails_the_call(wire: Wire, parts: list[Any]) -> None:
    loading = wire.calling(lambda: wire.client().load_session_snapshot(RUNTIME))
    stream(wire, parts)

    assert isinstance(loading.exception(WAIT_SECONDS), CallFailed)


def test_inputs_without_the_message_that_is_always_sent_are_not_read_as_none(wire: Wire) -> None:
    loading = wire.calling(lambda: wire.client().load_input_states(RUNTIME))
    _, rpc = wire.take("LoadInputStates")
    rpc.terminate((), grpc.StatusCode.OK, "")

    assert isinstance(loading.exception(WAIT_SECONDS), CallFailed)


def test_a_state_that_this_client_does_not_know_fails_the_call(wire: Wire) -> None:
    loading = wire.calling(lambda: wire.client().load_runtime_state(RUNTIME))
    wire.answer("LoadRuntimeState", pb.LoadRuntimeStateResponse(state=99))  # type: ignore[arg-type]  # of a later version

    assert isinstance(loading.exception(WAIT_SECONDS), CallFailed)
