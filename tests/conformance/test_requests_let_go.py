"""No request stays in memory when its call is over, whatever ended it."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import tracemalloc
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio
import pytest
from grpc_reflection.v1alpha import reflection_pb2

from runtimestore.v1 import runtime_store_pb2 as pb
from runtimestore_server.rpc import undecoded_documents
from runtimestore_server.rpc.small_messages import MOST_BYTES
from support.checkers.clean_up import until
from support.checkers.refusals import refused
from support.faults.uploads import REFLECTION, WAIT_SECONDS, connections, done, ended, sent
from support.generators.documents import session
from support.generators.garbage import unknown_field
from support.generators.requests import WRITES
from support.servers.database import held_commits
from support.servers.server import in_process

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(autouse=True)
def _left_in_their_messages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small documents, too."""
    monkeypatch.setattr(undecoded_documents, "LEAST_BYTES", 1)


@contextlib.contextmanager
def _no_garbage_collector() -> Iterator[None]:
    gc.collect()
    gc.freeze()  # `_Requests` need not go through all that was there before, which thousands of tests have grown
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


class _Requests:
    """The requests that are alive, but for those that were before: other tests keep some for good."""

    def __init__(self) -> None:
        self._kinds = (
            *(getattr(pb, f"{method}Request") for method in WRITES),
            reflection_pb2.ServerReflectionRequest,
        )
        self._before: list[object] = []
        self._before = self._found()

    def alive(self) -> list[str]:
        """The names of their messages."""
        return [type(found).__name__ for found in self._found()]

    def _found(self) -> list[object]:
        known = {id(found) for found in self._before}
        return [found for found in gc.get_objects() if self._is_one(found) and id(found) not in known]

    def _is_one(self, found: object) -> bool:
        """Whether it is a request, or the document of one in its message."""
        left = isinstance(found, undecoded_documents.UndecodedDocument) and found._message
        return bool(left) or isinstance(found, self._kinds)


async def test_no_request_stays_in_memory_when_its_call_is_over(realm: str) -> None:
    deep = session().replace(b'"messages": [', b'"messages": [1, ')
    refusals: dict[str, dict[str, Any]] = {
        "CommitSessionSnapshot": {"session_delta": pb.SessionDelta(session_snapshot=deep)},
        "PersistInputState": {"if_revision": 7},
        "PersistOpsLifecycle": {"snapshot": pb.PersistedOpsSnapshot(snapshot_json="{}")},
        "AtomicApply": {"session_store_key": "x"},
        "UpdateAuthOAuthFlowSnapshot": {"expected_version": 7},
        "CommitMachineLifecycle": {"fence": 7},
        "PersistAuthOAuthFlowSnapshot": {"request_id": "x"},
    }
    assert set(refusals) == set(WRITES)
    async with in_process("memory:", max_waiting_bytes=1000) as app, grpc.aio.insecure_channel(app.address) as channel:
        with _no_garbage_collector():
            requests = _Requests()
            for method, changed in refusals.items():
                await refused(sent(channel, method, realm=realm, **changed))
                await until(lambda: not requests.alive())
                await sent(channel, method, realm=realm)
                await until(lambda: not requests.alive())
            with held_commits(app) as go_on:
                delta = pb.SessionDelta(session_snapshot=session("x" * 600))
                large = {"realm": realm, "session_delta": delta}
                waiting = asyncio.ensure_future(done(sent(channel, "CommitSessionSnapshot", **large)))
                await until(lambda: app.store._committer.waiting_writes == 1)
                found = await refused(sent(channel, "CommitSessionSnapshot", **large))
                assert found.metadata["waiting_bytes"]  # they leave room as it arrives, but not for this one
                await until(lambda: not requests.alive())
                go_on.set()
                await waiting
            await until(lambda: not requests.alive())


@pytest.mark.parametrize("method", WRITES)
async def test_no_request_stays_in_memory_while_its_write_waits(realm: str, method: str) -> None:
    async with in_process("memory:") as app, connections(app.address, 1) as (channel,):
        with _no_garbage_collector():
            requests = _Requests()
            with held_commits(app) as go_on:
                waiting = asyncio.ensure_future(done(sent(channel, method, realm=realm)))
                await until(lambda: app.store._committer.waiting_writes == 1)
                await until(lambda: not requests.alive())
                go_on.set()
                await waiting


async def test_no_request_stays_in_memory_when_its_caller_gives_up(realm: str) -> None:
    async with in_process("memory:") as app, connections(app.address, 1) as (channel,):
        with _no_garbage_collector():
            requests = _Requests()
            with held_commits(app) as go_on:
                given_up = sent(channel, "PersistInputState", realm=realm)
                await until(lambda: app.store._committer.waiting_writes == 1)
                await ended(given_up)
                go_on.set()
            await until(lambda: not requests.alive())

            reads_little = [("grpc.max_receive_message_length", MOST_BYTES // 4)]
            async with grpc.aio.insecure_channel(app.address, reads_little) as other:
                exchange: Any = other.stream_stream(REFLECTION)(timeout=WAIT_SECONDS)
                await exchange.write(unknown_field(MOST_BYTES // 2))  # it comes back, larger than this client reads
                with pytest.raises(grpc.aio.AioRpcError, match="larger than max"):
                    await exchange.read()
            await until(lambda: not app.limiters.exchanges.slots.received)
            await until(lambda: not requests.alive())


async def test_no_message_of_an_exchange_that_is_refused_stays_in_memory() -> None:
    cut_off, exchanges = unknown_field(1024 * 1024)[:-1], 20
    async with in_process("memory:") as app, connections(app.address, 1) as (channel,):
        with _no_garbage_collector(), _memory_traced():
            for _ in range(exchanges):
                exchange = channel.stream_stream(REFLECTION)(timeout=WAIT_SECONDS)
                await exchange.write(cut_off)
                assert (await refused(exchange)).reason == "INVALID_REQUEST"
            await until(lambda: not app.limiters.exchanges.slots.received)
            await until(lambda: tracemalloc.get_traced_memory()[0] < exchanges // 4 * len(cut_off))


@contextlib.contextmanager
def _memory_traced() -> Iterator[None]:
    tracemalloc.start()
    try:
        yield
    finally:
        tracemalloc.stop()
