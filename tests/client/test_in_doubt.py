"""What a caller is told of a write that was tried several times: the truth about all attempts, not about the last."""

from __future__ import annotations

import asyncio
import contextlib
import time
import uuid
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from runtimestore import (
    AsyncRuntimeStoreClient,
    CallFailed,
    Commit,
    CommitOutcomeUnknown,
    RetryPolicy,
    RuntimeStoreClient,
)
from runtimestore._retry import Attempts, Deadline
from runtimestore.errors import REFUSALS, RuntimeStoreError, StoreUnavailable
from runtimestore.types import InputState
from runtimestore.v1 import runtime_store_admin_pb2 as admin_pb
from runtimestore.v1 import runtime_store_pb2 as pb
from support.checkers.clean_up import until
from support.checkers.threaded import threaded
from support.servers.scripted_store import Failure, Script, refusal, scripted_store

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

RUNTIME = "rt:session:1"
INPUT = InputState("0189f7a0-0000-7000-8000-000000000001", "{}")
LOST = Failure(grpc.StatusCode.UNAVAILABLE, "Socket closed")
CANCELLED = Failure(grpc.StatusCode.CANCELLED, "CANCELLED")
UNKNOWN = refusal("COMMIT_OUTCOME_UNKNOWN", grpc.StatusCode.UNAVAILABLE, retry_after_seconds=0.0)
AT_ONCE = RetryPolicy(initial_backoff_seconds=0.0, max_backoff_seconds=0.0, max_attempts=2)

DECIDED = {
    "BOUNDARY_RECEIPT_EXISTS",
    "REQUEST_ID_REUSED",
    "REVISION_MISMATCH",
    "FENCED",
    "OAUTH_FLOW_SNAPSHOT_CHANGED",
    "SESSION_KEY_MISMATCH",
}
"""What is true of every attempt of one request."""


async def _call(kind: str, address: str, call: Callable[[Any], Any], **settings: Any) -> Any:
    """What a call through either client comes to: its answer, or its error."""
    settings = {"retry": AT_ONCE, "timeout_seconds": 20.0, **settings}
    if kind == "aio":
        async with AsyncRuntimeStoreClient(address, **settings) as store:
            return (await asyncio.gather(call(store), return_exceptions=True))[0]

    def calling() -> Any:
        with RuntimeStoreClient(address, **settings) as store:
            try:
                return call(store)
            except RuntimeStoreError as error:
                return error

    return await asyncio.to_thread(calling)


@contextlib.asynccontextmanager
async def _opened(kind: str, address: str) -> AsyncIterator[AsyncRuntimeStoreClient]:
    """Either client, with methods to await."""
    if kind == "aio":
        async with AsyncRuntimeStoreClient(address) as store:
            yield store
    else:
        with RuntimeStoreClient(address) as store:
            yield threaded(store)


def _told(kind: str, *answers: Any, method: str = "PersistInputState", call: Any = None, **settings: Any) -> Any:
    async def scenario() -> Any:
        script = Script()
        script.answer(method, *answers)
        async with scripted_store(script) as address:
            found = await _call(
                kind, address, call or (lambda store: store.persist_input_state(RUNTIME, INPUT)), **settings
            )
        assert len(script.requests[method]) == len(answers)
        return found

    return asyncio.run(scenario())


@pytest.mark.parametrize("kind", ["aio", "sync"])
@pytest.mark.parametrize("first", [LOST, CANCELLED, UNKNOWN], ids=["lost", "cancelled", "unknown"])
@pytest.mark.parametrize("last", REFUSALS)
def test_that_nothing_was_committed_is_not_told_of_a_write_whose_earlier_attempt_may_have_been(
    kind: str, first: Failure, last: str
) -> None:
    told = _told(kind, first, refusal(last, grpc.StatusCode.UNAVAILABLE, metadata={"store_error": "write_failed"}))

    assert type(told) is (REFUSALS[last] if last in DECIDED else CommitOutcomeUnknown)
    assert uuid.UUID(told.request_id)  # with which the caller can find out
    if type(told) is not REFUSALS[last]:
        assert told.metadata["last_reason"] == last
        assert "scripted" in told.message  # what the last attempt said


@pytest.mark.parametrize("kind", ["aio", "sync"])
@pytest.mark.parametrize("reason", ["STORE_UNAVAILABLE", "STORE_FULL", "STORE_READ_ONLY", "OVERLOADED"])
def test_a_write_of_which_every_attempt_was_refused_is_told_as_what_it_was(kind: str, reason: str) -> None:
    away = refusal("STORE_UNAVAILABLE", grpc.StatusCode.UNAVAILABLE, retry_after_seconds=0.0)

    assert type(_told(kind, away, refusal(reason, grpc.StatusCode.UNAVAILABLE))) is REFUSALS[reason]


@pytest.mark.parametrize("kind", ["aio", "sync"])
def test_a_write_in_doubt_for_whose_repeat_no_time_is_left_is_told_as_such(kind: str) -> None:
    later = refusal("STORE_UNAVAILABLE", grpc.StatusCode.UNAVAILABLE, retry_after_seconds=3600)
    policy = RetryPolicy(initial_backoff_seconds=0.0, max_backoff_seconds=0.0)

    assert type(_told(kind, LOST, later, retry=policy)) is CommitOutcomeUnknown


@pytest.mark.parametrize("kind", ["aio", "sync"])
def test_a_load_is_never_in_doubt(kind: str) -> None:
    told = _told(
        kind,
        LOST,
        refusal("STORE_UNAVAILABLE", grpc.StatusCode.UNAVAILABLE),
        method="LoadRuntimeState",
        call=lambda store: store.load_runtime_state(RUNTIME),
    )

    assert type(told) is REFUSALS["STORE_UNAVAILABLE"]


@pytest.mark.parametrize("kind", ["aio", "sync"])
def test_a_repeated_acquisition_keeps_its_request_id(kind: str) -> None:
    async def scenario() -> list[Any]:
        script = Script()
        script.answer("AcquireRuntime", LOST, admin_pb.AcquireRuntimeResponse(fence=1, replayed=True))
        async with scripted_store(script) as address:
            assert (await _call(kind, address, lambda store: store.acquire_runtime(RUNTIME, "me"))).fence == 1
        return script.requests["AcquireRuntime"]

    first, second = asyncio.run(scenario())
    assert uuid.UUID(first.request_id)
    assert first == second


def test_of_two_acquisitions_at_once_the_newer_fence_is_held_and_a_later_one_always() -> None:
    fences: list[int | None] = []

    async def acquired(request: Any, _context: object) -> Any:
        fence, seconds = {"slow": (1, 0.3), "fast": (2, 0.0), "of a restored store": (1, 0.0)}[request.owner]
        await asyncio.sleep(seconds)
        return admin_pb.AcquireRuntimeResponse(fence=fence)

    async def written(request: Any, _context: object) -> Any:
        fences.append(request.fence if request.HasField("fence") else None)
        return pb.PersistInputStateResponse(revision=1)

    async def scenario() -> None:
        script = Script()
        script.answer("AcquireRuntime", acquired, acquired, acquired)
        script.answer("PersistInputState", written, written, written)
        async with scripted_store(script) as address, AsyncRuntimeStoreClient(address) as store:
            assert await store.persist_input_state(RUNTIME, INPUT) == Commit(1, replayed=False)
            await asyncio.gather(store.acquire_runtime(RUNTIME, "slow"), store.acquire_runtime(RUNTIME, "fast"))
            await store.persist_input_state(RUNTIME, INPUT)
            await store.acquire_runtime(RUNTIME, "of a restored store")
            await store.persist_input_state(RUNTIME, INPUT)

    asyncio.run(scenario())
    assert fences == [None, 2, 1]


def test_a_write_in_doubt_whose_deadline_passes_in_a_pause_is_told_as_such() -> None:
    policy = RetryPolicy(initial_backoff_seconds=0.0, max_backoff_seconds=0.0)
    attempts = Attempts(policy, Deadline(0.05), "an id")
    attempts.next_timeout_seconds()
    attempts.pause_after(CommitOutcomeUnknown("lost"))
    attempts.pause_after(StoreUnavailable("nothing was committed"))
    time.sleep(0.06)

    with pytest.raises(CommitOutcomeUnknown):
        attempts.next_timeout_seconds()


@pytest.mark.parametrize("kind", ["aio", "sync"])
def test_an_acquisition_that_is_asked_for_again_does_not_take_the_place_of_a_newer_one(kind: str) -> None:
    fences: list[int] = []

    async def written(request: Any, _context: object) -> Any:
        fences.append(request.fence)
        return pb.PersistInputStateResponse(revision=1)

    async def scenario() -> None:
        script = Script()
        script.answer(
            "AcquireRuntime",
            *(
                admin_pb.AcquireRuntimeResponse(fence=fence, replayed=replayed)
                for fence, replayed in ((1, False), (2, False), (1, True), (1, False))
            ),
        )
        script.answer("PersistInputState", written, written, written)
        mine = str(uuid.uuid4())
        async with scripted_store(script) as address, _opened(kind, address) as store:
            await store.acquire_runtime(RUNTIME, "me", request_id=mine)
            await store.acquire_runtime(RUNTIME, "me")
            await store.persist_input_state(RUNTIME, INPUT)
            assert (await store.acquire_runtime(RUNTIME, "me", request_id=mine)).fence == 1
            await store.persist_input_state(RUNTIME, INPUT)
            # Of a store that was restored, which counts from there.
            await store.acquire_runtime(RUNTIME, "me", request_id=str(uuid.uuid4()))
            await store.persist_input_state(RUNTIME, INPUT)

    asyncio.run(scenario())
    assert fences == [2, 2, 1]


@pytest.mark.parametrize("kind", ["aio", "sync"])
def test_a_deadline_in_the_far_future_is_not_over_already(kind: str) -> None:
    answer = pb.PersistInputStateResponse(revision=1)

    assert _told(kind, answer, timeout_seconds=1e300) == Commit(1, replayed=False)


def _closed_while_writing(kind: str, answer: Any, *, after_seconds: float = 0.0) -> tuple[Any, str]:
    """What a write is told whose client is closed so long after the server had its request, and the request's id."""

    async def scenario() -> tuple[Any, str]:
        script = Script()
        script.answer("PersistInputState", answer)
        async with scripted_store(script) as address, _opened(kind, address) as store:
            writing = asyncio.ensure_future(store.persist_input_state(RUNTIME, INPUT))
            await until(lambda: bool(script.requests["PersistInputState"]))
            await asyncio.sleep(after_seconds)
            await store.close()
            (told,) = await asyncio.gather(writing, return_exceptions=True)
        return told, script.requests["PersistInputState"][0].request_id

    return asyncio.run(scenario())


@pytest.mark.parametrize("kind", ["aio", "sync"])
def test_a_client_that_is_closed_before_the_next_attempt_tells_of_the_last(kind: str) -> None:
    unknown = refusal("COMMIT_OUTCOME_UNKNOWN", grpc.StatusCode.UNAVAILABLE, retry_after_seconds=0.5)

    told, request_id = _closed_while_writing(kind, unknown, after_seconds=0.2)

    assert type(told) is CommitOutcomeUnknown
    assert told.metadata["request_id"] == request_id


@pytest.mark.parametrize("kind", ["aio", "sync"])
def test_a_client_that_is_closed_during_a_write_names_its_request(kind: str) -> None:
    async def hanging(_request: object, _context: object) -> Any:
        await asyncio.sleep(60)

    told, request_id = _closed_while_writing(kind, hanging)

    assert type(told) is CallFailed
    assert told.metadata["request_id"] == request_id


@pytest.mark.parametrize("kind", ["aio", "sync"])
@pytest.mark.parametrize(("named", "decided"), [(4, True), (6, False)])
@pytest.mark.parametrize(
    ("reason", "of_request", "of_store"),
    [("REVISION_MISMATCH", "if_revision", "current_revision"), ("FENCED", "fence", "current_fence")],
)
def test_a_refusal_of_what_is_ahead_of_the_store_says_nothing_of_an_earlier_attempt(
    kind: str, reason: str, of_request: str, of_store: str, named: int, decided: bool
) -> None:
    # The first attempt may be on its way still, and land when others have brought the store to where it expects it.
    last = refusal(reason, grpc.StatusCode.ABORTED, metadata={of_request: str(named), of_store: "5"})

    told = _told(kind, LOST, last)

    assert type(told) is (REFUSALS[reason] if decided else CommitOutcomeUnknown)
