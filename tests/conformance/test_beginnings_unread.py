"""What LoadRuntime has read counts, and is held for its answer alone, while its caller reads the beginning slowly."""

from __future__ import annotations

import gc
from typing import Any, TypeVar

import grpc
import grpc.aio
import pytest

from runtimestore import RuntimeState
from runtimestore.v1 import runtime_store_admin_pb2 as admin_pb
from runtimestore.v1 import runtime_store_admin_pb2_grpc
from runtimestore_server.documents.recovery import Recovery
from runtimestore_server.store.versions.recent import RecentSession
from support.checkers.clean_up import until
from support.checkers.refusals import is_refusal, refused
from support.generators.calls import Store
from support.generators.documents import inputs, session
from support.servers.server import in_process

T = TypeVar("T")

MB = 1_000_000
BODY = session("x" * 20 * MB)
LITTLE = [("grpc.http2.bdp_probe", 0)]
"""Of a connection whose windows do not grow."""

pytestmark = pytest.mark.usefixtures("runner")


async def test_a_session_counts_while_the_inputs_before_it_are_read_and_one_that_finds_no_room_is_let_go_of(
    runtime_id: str,
) -> None:
    """Of a runtime with large inputs the session is there long before a slow reader comes to it."""
    before = inputs(4, "x" * MB)  # more than fits into the buffers of a connection
    inputs_bytes = sum(len(state.state_json) for state in before)
    gc.collect()  # what other tests left in circles
    async with (
        in_process("memory:", max_waiting_bytes=len(BODY) + 2 * inputs_bytes + MB, session_cache_bytes=0) as app,
        grpc.aio.insecure_channel(app.address, options=LITTLE) as channel,
        Store(app.address) as store,
    ):
        await store.commit_machine_lifecycle(runtime_id, RuntimeState.IDLE, before)
        await store.commit_session_snapshot(runtime_id, BODY)
        admin: Any = runtime_store_admin_pb2_grpc.RuntimeStoreAdminStub(channel)
        request = admin_pb.LoadRuntimeRequest(runtime_id=runtime_id)

        first = admin.LoadRuntime(request)
        await first.read()
        await until(lambda: app.sending.budget.bytes == inputs_bytes + len(BODY))
        assert _recoveries() == 1
        second = admin.LoadRuntime(request)
        await second.read()
        await until(lambda: app.workers.waiting == 0)
        await until(lambda: _recoveries() == 1)
        assert app.sending.budget.bytes == 2 * inputs_bytes + len(BODY)

        found = await refused(_read_on(second))
        is_refusal(found, grpc.StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED", "internal")
        await _read_on(first)
        await until(lambda: (app.sending.budget.bytes, app.sending.budget.items) == (0, 0))


async def test_what_a_load_was_compared_with_is_not_held_until_its_answer_was_read(runtime_id: str) -> None:
    def held() -> list[int]:
        """The revisions whose sessions are held, of this test: servers of others may not be let go of yet."""
        return [found.revision for found in _alive(RecentSession) if runtime_id.encode() in found.body]

    gc.collect()
    async with (
        in_process("memory:") as app,
        grpc.aio.insecure_channel(app.address, options=LITTLE) as channel,
        Store(app.address) as store,
    ):
        await store.commit_machine_lifecycle(runtime_id, RuntimeState.IDLE, inputs(4, "x" * MB))
        outcome = await store.commit_session_snapshot(runtime_id, session(runtime_id))
        admin: Any = runtime_store_admin_pb2_grpc.RuntimeStoreAdminStub(channel)

        unread = admin.LoadRuntime(admin_pb.LoadRuntimeRequest(runtime_id=runtime_id))
        await unread.read()
        await until(lambda: _recoveries() == 1)
        assert held() == [outcome.revision]
        newer = await store.commit_session_snapshot(runtime_id, session(f"another of {runtime_id}"))
        await until(lambda: held() == [newer.revision])
        await _read_on(unread)


async def _read_on(call: Any) -> None:
    while await call.read() is not grpc.aio.EOF:
        pass


def _recoveries() -> int:
    """How many runtimes are held that were read whole."""
    return len(_alive(Recovery))


def _alive(kind: type[T]) -> list[T]:
    return [found for found in gc.get_objects() if isinstance(found, kind)]
