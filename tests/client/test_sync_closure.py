"""The closure loop of the client for threads: on the bytes that are there, and never twice on its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import grpc

from runtimestore import DeadlineExceeded, OAuthCommit, RetryPolicy
from runtimestore.v1 import runtime_store_pb2 as pb
from support.faults.fake_wire import WAIT_SECONDS
from support.servers.scripted_store import GONE, refusal

if TYPE_CHECKING:
    import pytest

    from support.faults.fake_wire import Wire

CHANGED = refusal("OAUTH_FLOW_SNAPSHOT_CHANGED", grpc.StatusCode.ABORTED)


def load_then(wire: Wire, snapshot_json: bytes | None, version: int, update: Any) -> Any:
    """Answer one round of the closure loop: its load, then its write; returns the write's request."""
    wire.answer(
        "LoadAuthOAuthFlowSnapshot",
        pb.LoadAuthOAuthFlowSnapshotResponse(snapshot_json=snapshot_json, version=version),
    )
    return wire.answer("UpdateAuthOAuthFlowSnapshot", update)


def test_the_closure_runs_again_on_the_new_bytes_when_another_came_first(wire: Wire, at_once: RetryPolicy) -> None:
    seen: list[bytes | None] = []

    def update(current: bytes | None) -> bytes:
        seen.append(current)
        return (current or b"") + b"+"

    updating = wire.calling(lambda: wire.client(retry=at_once).update_auth_oauth_flow_snapshot(update))
    first = load_then(wire, None, 0, CHANGED)
    second = load_then(wire, b"theirs", 4, pb.UpdateAuthOAuthFlowSnapshotResponse(version=5))

    assert updating.result(WAIT_SECONDS) == OAuthCommit(5, replayed=False)
    assert seen == [None, b"theirs"]
    assert (first.expected_version, first.snapshot_json) == (0, b"+")
    assert (second.expected_version, second.snapshot_json) == (4, b"theirs+")
    assert first.request_id != second.request_id


def test_the_closure_does_not_run_again_on_its_own_write_when_an_answer_is_lost(
    wire: Wire, at_once: RetryPolicy
) -> None:
    runs: list[bytes | None] = []

    def update(current: bytes | None) -> bytes:
        runs.append(current)
        return b"new"

    updating = wire.calling(lambda: wire.client(retry=at_once).update_auth_oauth_flow_snapshot(update))
    first = load_then(wire, b"old", 1, GONE)
    second = wire.answer(
        "UpdateAuthOAuthFlowSnapshot", pb.UpdateAuthOAuthFlowSnapshotResponse(version=2, replayed=True)
    )

    assert updating.result(WAIT_SECONDS) == OAuthCommit(2, replayed=True)
    assert runs == [b"old"]
    assert second == first


def test_an_error_of_the_closure_reaches_the_caller_unchanged_and_nothing_is_written(wire: Wire) -> None:
    mine = KeyError("already consumed")

    def update(_current: bytes | None) -> bytes:
        raise mine

    updating = wire.calling(lambda: wire.client().update_auth_oauth_flow_snapshot(update))
    wire.answer("LoadAuthOAuthFlowSnapshot", pb.LoadAuthOAuthFlowSnapshotResponse())

    assert updating.exception(WAIT_SECONDS) is mine
    assert mine.__cause__ is None


def test_the_closure_loop_ends_with_the_deadline_of_the_call(wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("random.uniform", lambda _least, most: most)
    client = wire.client(timeout_seconds=1.0)

    def update(_current: bytes | None) -> bytes:
        wire.clock.pass_by(0.1)  # so long does each round take
        return b"mine"

    updating = wire.calling(lambda: client.update_auth_oauth_flow_snapshot(update))
    for version in range(3):  # pauses of two and four rounds' time; the next, of six, would end too late
        load_then(wire, b"theirs", version + 1, CHANGED)

    error = updating.exception(WAIT_SECONDS)
    assert isinstance(error, DeadlineExceeded)
    assert "nothing was written" in error.message
    assert wire.clock.pauses == [0.2, 0.4]


def test_no_pause_between_the_rounds_is_longer_than_the_policy_has_it(
    wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("random.uniform", lambda _least, most: most)
    client = wire.client(retry=RetryPolicy(initial_backoff_seconds=0.1, max_backoff_seconds=1.5), timeout_seconds=60.0)

    def update(_current: bytes | None) -> bytes:
        wire.clock.pass_by(0.5)
        return b"mine"

    updating = wire.calling(lambda: client.update_auth_oauth_flow_snapshot(update))
    for version in range(3):
        load_then(wire, b"theirs", version + 1, CHANGED)
    load_then(wire, b"theirs", 4, pb.UpdateAuthOAuthFlowSnapshotResponse(version=5))

    assert updating.result(WAIT_SECONDS) == OAuthCommit(5, replayed=False)
    assert wire.clock.pauses == [1.0, 1.5, 1.5]
