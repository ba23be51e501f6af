"""Limits are settings, are told by GetServerInfo, and are refused by name; what is within them is readable."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio
import pytest

from runtimestore import CallFailed, InvalidRequest, RuntimeState
from runtimestore.v1 import runtime_store_pb2 as pb
from support.generators.calls import NOTHING, Store, everything
from support.generators.documents import input_state, new_id, ops, receipt, session
from support.servers.engines import DURABLE
from support.servers.server import in_process

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator
    from contextlib import AbstractAsyncContextManager

    from runtimestore.v1 import runtime_store_pb2_grpc
    from runtimestore_server.app import Application

    Wire = runtime_store_pb2_grpc.RuntimeStoreAsyncStub
    Serve = Callable[..., AbstractAsyncContextManager[Application]]

MIB = 1024 * 1024
DOCUMENT = 2_000
SNAPSHOT = 5_000


def _session(size_bytes: int) -> bytes:
    return session().ljust(size_bytes)


def _input(size_bytes: int) -> Any:
    state = input_state()
    return type(state)(state.input_id, state.state_json.ljust(size_bytes))


def _calls(store: Store, runtime_id: str, excess: int) -> Iterator[tuple[Awaitable[Any], str, str]]:
    size, snapshot = DOCUMENT + excess, SNAPSHOT + excess
    field = "session_delta.session_snapshot"
    name, snapshot_name = "max_document_bytes", "max_session_snapshot_bytes"
    idle = RuntimeState.IDLE
    yield store.commit_session_snapshot(runtime_id, _session(snapshot)), field, snapshot_name
    yield store.atomic_apply(runtime_id, _session(snapshot), receipt()), field, snapshot_name
    yield store.persist_input_state(runtime_id, _input(size)), "state.state_json", name
    many = [_input(300), _input(size)]
    yield store.atomic_apply(runtime_id, None, receipt(), many), "input_updates[1].state_json", name
    yield store.commit_machine_lifecycle(runtime_id, idle, many), "input_states[1].state_json", name
    yield store.persist_ops_lifecycle(runtime_id, ops().ljust(size)), "snapshot.snapshot_json", name
    yield store.persist_auth_oauth_flow_snapshot(b"x" * size), "snapshot_json", name
    yield store.update_auth_oauth_flow_snapshot(lambda _: b"y" * size), "snapshot_json", name


async def test_what_is_as_large_as_the_limit_is_accepted_and_what_is_one_byte_larger_is_refused_by_name(
    serve: Serve, runtime_id: str
) -> None:
    limits = {"max_document_bytes": DOCUMENT, "max_session_snapshot_bytes": SNAPSHOT}
    async with serve(**limits) as app, Store(app.address) as store:
        for call, field, limit in _calls(store, runtime_id, 1):
            with pytest.raises(InvalidRequest) as refused:
                await call
            assert [violation.field for violation in refused.value.violations] == [field]
            assert refused.value.metadata["limit"] == limit
            assert refused.value.metadata["limit_bytes"] == str(limits[limit])
            assert refused.value.metadata["size_bytes"] == str(limits[limit] + 1)
            assert refused.value.store_error == "write_failed"
            assert f"raise {limit} of the server" in refused.value.message
        assert await everything(store, runtime_id) == NOTHING
        assert await store.load_auth_oauth_flow_snapshot() is None

        for call, _, _ in _calls(store, runtime_id, 0):
            assert not (await call).replayed
        stored = await everything(store, runtime_id)
        assert len(stored["session"]) == SNAPSHOT
        assert len(stored["ops"]) == DOCUMENT
        assert sum(len(state.state_json) == DOCUMENT for state in stored["inputs"]) == 2
        assert await store.load_auth_oauth_flow_snapshot() == b"y" * DOCUMENT


async def test_a_receipt_that_is_too_large_is_refused(serve: Serve, runtime_id: str) -> None:
    async with serve(max_document_bytes=DOCUMENT) as app, Store(app.address) as store:
        for large in (
            receipt(digest="x" * DOCUMENT),
            receipt(contributing=tuple(new_id() for _ in range(DOCUMENT // 30))),
        ):
            with pytest.raises(InvalidRequest) as refused:
                await store.atomic_apply(runtime_id, receipt=large)
            assert [violation.field for violation in refused.value.violations] == ["receipt"]
        assert await everything(store, runtime_id) == NOTHING


async def test_get_server_info_tells_the_limits_that_are_set(serve: Serve) -> None:
    limits = {
        "max_message_bytes": 3_000_000,
        "max_session_snapshot_bytes": 2_000_000,
        "max_document_bytes": 1_000_000,
        "max_waiting_writes": 7,
        "max_waiting_bytes": 9_000_000,
        "max_waiting_reads": 11,
        "request_retention_seconds": 13,
    }
    async with serve(**limits) as app, Store(app.address) as store:
        told = (await store.get_server_info()).limits

    assert {name: getattr(told, name) for name in limits} == limits


async def test_a_message_that_is_too_large_as_a_whole_is_resource_exhausted_and_the_server_lives_on(
    serve: Serve, runtime_id: str
) -> None:
    async with serve(max_message_bytes=1_000_000) as app, Store(app.address) as store:
        with pytest.raises(CallFailed) as failed:
            await store.commit_session_snapshot(runtime_id, session("x" * 1_000_000))
        assert failed.value.code is grpc.StatusCode.RESOURCE_EXHAUSTED

        assert await everything(store, runtime_id) == NOTHING
        assert await store.commit_session_snapshot(runtime_id, session("x" * 900_000)) == (1, False)


@pytest.mark.needs(DURABLE)
async def test_what_was_accepted_stays_readable_whatever_the_limits_are_later(fresh_url: str, runtime_id: str) -> None:
    state, body, secret = _input(900_000), session("x" * 1_500_000), bytes(800_000)
    async with in_process(fresh_url) as app, Store(app.address) as store:
        await store.persist_input_state(runtime_id, state)
        await store.commit_session_snapshot(runtime_id, body)
        await store.persist_auth_oauth_flow_snapshot(secret)

    async with (
        in_process(fresh_url, max_message_bytes=1000, max_document_bytes=1000) as app,
        Store(app.address) as store,
    ):
        assert await store.load_input_state(runtime_id, state.input_id) == state
        assert await store.load_input_states(runtime_id) == [state]
        assert await store.load_session_snapshot(runtime_id) == body
        assert await store.load_auth_oauth_flow_snapshot() == secret


@pytest.mark.slow
async def test_the_largest_session_at_the_default_limits_is_accepted_and_read_with_grpcs_default_limit(
    app: Application, wire: Wire, realm: str
) -> None:
    limits = app.settings.max_session_snapshot_bytes, app.settings.max_message_bytes
    assert limits[0] + MIB < limits[1]  # room for one that is too large, so that it is refused by its limit's name
    body, proof = _session(limits[0]), receipt()
    async with Store(app.address, realm=realm, timeout_seconds=120) as store:
        await store.atomic_apply("rt", body, proof, [input_state()])

        assert await store.load_session_snapshot("rt") == body
        assert await store.load_boundary_receipt("rt", proof.run_id, 0) == proof

    digest, size_bytes = hashlib.sha256(), 0
    async for message in wire.LoadSessionSnapshot(pb.LoadSessionSnapshotRequest(realm=realm, runtime_id="rt")):
        assert message.ByteSize() < 4 * MIB
        digest.update(message.chunk)
        size_bytes += len(message.chunk)
    assert (size_bytes, digest.digest()) == (len(body), hashlib.sha256(body).digest())


async def test_a_session_of_very_many_small_messages_is_accepted(store: Store, runtime_id: str) -> None:
    body = session(messages=[{"role": "user", "content": number} for number in range(200_000)])
    await store.commit_session_snapshot(runtime_id, body)

    assert json.loads(await store.load_session_snapshot(runtime_id) or b"") == json.loads(body)
