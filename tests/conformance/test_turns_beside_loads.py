"""A turn of a long session waits for no load: little of its edits is to be checked, which needs no worker."""

from __future__ import annotations

import asyncio
import threading
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest

from runtimestore import AsyncRuntimeStoreClient
from runtimestore.v1 import runtime_store_pb2 as pb
from runtimestore_server.documents import session
from runtimestore_server.services.runtime_store import LARGE_REQUEST_BYTES
from runtimestore_server.settings import Settings
from support.generators.documents import new_id
from support.generators.edits import edited, grown, load_session
from support.servers.engines import DURABLE
from support.servers.listening import listening
from support.servers.server import in_process

if TYPE_CHECKING:
    from runtimestore.v1.runtime_store_pb2_grpc import RuntimeStoreAsyncStub as Wire
    from runtimestore_server.app import Application

TURNS = 400
TEXT = "x" * 2_000


@pytest.mark.needs(DURABLE)  # in memory there is one connection, which loads and commits take in turn
async def test_a_turn_of_a_long_session_is_committed_while_every_worker_is_at_a_load(
    app: Application, client: AsyncRuntimeStoreClient, wire: Wire, realm: str, runtime_id: str
) -> None:
    bodies = [grown(turns, TEXT) for turns in (TURNS, TURNS + 1, TURNS + 2)]
    assert len(bodies[0]) > 2 * LARGE_REQUEST_BYTES
    await client.commit_session_snapshot(runtime_id, bodies[0])
    loading, go_on = threading.Semaphore(0), threading.Event()

    def before(*_: Any) -> None:
        loading.release()
        go_on.wait(30)

    with listening(app.store.database.readers, before_cursor_execute=before):
        asked = pb.LoadRuntimeStateRequest(realm=realm, runtime_id=runtime_id)
        loads = [asyncio.ensure_future(wire.LoadRuntimeState(asked)) for _ in range(Settings().reader_threads)]
        try:
            for _ in loads:
                assert await asyncio.to_thread(loading.acquire, timeout=30)
            for base, result in pairwise(bodies):
                request = pb.AtomicApplyRequest(
                    realm=realm,
                    runtime_id=runtime_id,
                    session_delta=edited(base, result),
                    receipt=pb.RunBoundaryReceipt(run_id=new_id(), boundary=pb.RUN_APPLY_BOUNDARY_RUN_START),
                )
                await wire.AtomicApply(request, timeout=20)
            assert not any(load.done() for load in loads)
        finally:
            go_on.set()
        await asyncio.gather(*loads)

    assert (await load_session(wire, realm, runtime_id))[1] == bodies[-1]


async def test_what_stands_before_the_messages_is_read_at_each_turn_and_by_a_worker_where_it_is_large(
    monkeypatch: pytest.MonkeyPatch, runtime_id: str
) -> None:
    threads: list[int] = []
    check = session.check

    def seen(*arguments: Any, **named: Any) -> Any:
        threads.append(threading.get_ident())
        return check(*arguments, **named)

    monkeypatch.setattr(session, "check", seen)
    head = f'{{"head":"{"x" * 4 * LARGE_REQUEST_BYTES}",'.encode()

    async with in_process("memory:") as app, AsyncRuntimeStoreClient(app.address) as store:
        for turns in (1, 2, 3):
            await store.commit_session_snapshot(runtime_id, head + grown(turns, TEXT)[1:])

    assert len(threads) == 3
    assert threading.get_ident() not in threads
