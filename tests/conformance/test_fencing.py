"""Fences: who acquires a runtime holds back every writer that acquired it before."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from runtimestore import AsyncRuntimeStoreClient, Fenced, InvalidRequest, RetryPolicy, RuntimeState
from runtimestore.v1 import runtime_store_admin_pb2 as admin_pb
from runtimestore.v1 import runtime_store_admin_pb2_grpc, runtime_store_pb2_grpc
from support.checkers.clean_up import until
from support.checkers.refusals import is_refusal, refused
from support.generators.calls import NOTHING, RUNTIME_WRITES, RuntimeWrite, Store, everything, input_of
from support.generators.documents import new_id
from support.generators.requests import RUNTIME_WRITES as METHODS
from support.generators.requests import request_of
from support.servers.database import held_commits, statements
from support.servers.engines import DURABLE
from support.servers.server import in_process

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractAsyncContextManager

    from runtimestore_server.app import Application

every_write = pytest.mark.parametrize("write", RUNTIME_WRITES, ids=lambda write: write.__name__)


async def test_each_acquisition_answers_a_greater_fence_and_who_held_the_runtime_before(
    store: Store, runtime_id: str
) -> None:
    assert await store.acquire_runtime(runtime_id, "host-a/1") == (1, None)
    assert await store.acquire_runtime(runtime_id, "host-b/2") == (2, "host-a/1")
    assert await store.acquire_runtime(runtime_id, "host-b/2") == (3, "host-b/2")
    assert await store.acquire_runtime(f"{runtime_id}/other", "host-b/2") == (1, None)


async def test_an_acquisition_changes_neither_the_runtime_nor_its_revision(store: Store, runtime_id: str) -> None:
    await store.acquire_runtime(runtime_id, "a")
    assert await everything(store, runtime_id) == NOTHING

    assert await store.persist_input_state(runtime_id, input_of("a")) == (1, False)
    before = await everything(store, runtime_id)
    await store.acquire_runtime(runtime_id, "a")
    assert await everything(store, runtime_id) == before


@every_write
async def test_a_write_with_an_older_fence_is_refused_and_leaves_nothing(
    app: Application, store: Store, realm: str, runtime_id: str, write: RuntimeWrite
) -> None:
    async with AsyncRuntimeStoreClient(app.address, realm=realm) as other:
        await other.acquire_runtime(runtime_id, "the old one")
        await write(other, runtime_id, "a")
        assert (await store.acquire_runtime(runtime_id, "the new one")).fence == 2
        before = await everything(store, runtime_id)

        with pytest.raises(Fenced) as found:
            await write(other, runtime_id, "b")

        assert (found.value.fence, found.value.current_fence, found.value.owner) == (1, 2, "the new one")
        assert await everything(store, runtime_id) == before
        assert (await write(store, runtime_id, "c")).revision == 2
        # It may come back, and then the other one is held back.
        await other.acquire_runtime(runtime_id, "the old one")
        assert (await write(other, runtime_id, "d")).revision == 3
        with pytest.raises(Fenced):
            await write(store, runtime_id, "e")


@every_write
async def test_a_write_without_a_fence_goes_on_as_before(
    app: Application, store: Store, realm: str, runtime_id: str, write: RuntimeWrite
) -> None:
    async with AsyncRuntimeStoreClient(app.address, realm=realm) as other:
        await other.acquire_runtime(runtime_id, "another")

    assert (await write(store, runtime_id, "a")).revision == 1


async def test_a_repeat_is_recognised_whatever_fence_it_carries(
    app: Application, store: Store, realm: str, runtime_id: str
) -> None:
    request_id = new_id()
    await store.acquire_runtime(runtime_id, "before the crash")
    await store.persist_input_state(runtime_id, input_of("a"), request_id=request_id)
    await store.acquire_runtime(runtime_id, "after the crash")
    assert await store.persist_input_state(runtime_id, input_of("a"), request_id=request_id) == (1, True)

    async with AsyncRuntimeStoreClient(app.address, realm=realm) as other:
        await other.acquire_runtime(runtime_id, "another")
    # What landed has landed: its writer is told so even when it may not write any more.
    assert await store.persist_input_state(runtime_id, input_of("a"), request_id=request_id) == (1, True)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("fence", [0, 2, 2**63, 2**64 - 1])
async def test_a_fence_that_was_never_handed_out_is_refused(
    wire: runtime_store_pb2_grpc.RuntimeStoreAsyncStub,
    client: Store,
    realm: str,
    runtime_id: str,
    method: str,
    fence: int,
) -> None:
    await client.acquire_runtime(runtime_id, "somebody")

    found = await refused(getattr(wire, method)(request_of(method, realm=realm, runtime_id=runtime_id, fence=fence)))

    is_refusal(found, grpc.StatusCode.ABORTED, "FENCED", "write_failed")
    assert found.metadata["fence"] == str(fence)
    assert found.metadata["current_fence"] == "1"
    assert found.metadata["runtime_id"] == runtime_id


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("fence", [0, 1])
async def test_a_fence_for_a_runtime_that_nobody_acquired_is_refused(
    wire: runtime_store_pb2_grpc.RuntimeStoreAsyncStub, realm: str, runtime_id: str, method: str, fence: int
) -> None:
    request = request_of(method, realm=realm, runtime_id=runtime_id, fence=fence)

    found = await refused(getattr(wire, method)(request))

    is_refusal(found, grpc.StatusCode.ABORTED, "FENCED", "write_failed")
    assert (found.metadata["current_fence"], found.metadata["owner"]) == ("0", "")
    assert "nobody has acquired" in found.message


async def test_an_acquisition_with_one_request_id_is_made_once(
    channel: grpc.aio.Channel, client: Store, realm: str, runtime_id: str
) -> None:
    admin = runtime_store_admin_pb2_grpc.RuntimeStoreAdminStub(channel)
    request = admin_pb.AcquireRuntimeRequest(
        realm=realm, runtime_id=runtime_id, owner="me", request_id=new_id().upper()
    )
    first, second = await asyncio.gather(admin.AcquireRuntime(request), admin.AcquireRuntime(request))
    assert {(answer.fence, answer.replayed) for answer in (first, second)} == {(1, False), (1, True)}
    # An attempt that comes late does not hold back whoever made it, nor whoever acquired the runtime since.
    assert (await client.acquire_runtime(runtime_id, "another")).fence == 2
    late = await admin.AcquireRuntime(request)
    assert (late.fence, late.replayed, late.HasField("previous_owner")) == (1, True, False)
    assert (await client.persist_input_state(runtime_id, input_of("a"))).revision == 1

    request.owner = "somebody else"
    is_refusal(
        await refused(admin.AcquireRuntime(request)),
        grpc.StatusCode.ALREADY_EXISTS,
        "REQUEST_ID_REUSED",
        "write_failed",
    )
    write = request_of("PersistInputState", realm=realm, runtime_id=runtime_id, request_id=request.request_id)
    stub = runtime_store_pb2_grpc.RuntimeStoreStub(channel)
    is_refusal(
        await refused(stub.PersistInputState(write)),
        grpc.StatusCode.ALREADY_EXISTS,
        "REQUEST_ID_REUSED",
        "write_failed",
    )
    request.request_id = "no UUID"
    found = await refused(admin.AcquireRuntime(request))
    is_refusal(found, grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST", "internal")
    assert list(found.violations) == ["request_id"]


async def test_the_fences_of_one_realm_say_nothing_about_another(app: Application, runtime_id: str) -> None:
    async with (
        AsyncRuntimeStoreClient(app.address, realm=f"one-{new_id()}") as one,
        AsyncRuntimeStoreClient(app.address, realm=f"two-{new_id()}") as two,
    ):
        assert (await one.acquire_runtime(runtime_id, "a")).fence == 1
        assert (await two.acquire_runtime(runtime_id, "b")).fence == 1
        assert await one.persist_input_state(runtime_id, input_of("a")) == (1, False)


@pytest.mark.parametrize("owner", ["", "a\0b", "x" * 257, "ü" * 129])
async def test_an_owner_is_a_short_text(client: Store, runtime_id: str, owner: str) -> None:
    with pytest.raises(InvalidRequest) as found:
        await client.acquire_runtime(runtime_id, owner)

    assert [violation.field for violation in found.value.violations] == ["owner"]


@pytest.mark.parametrize(
    ("changed", "store_error"),
    [
        ({"realm": "NO REALM"}, "internal"),
        ({"runtime_id": ""}, "internal"),
        ({"runtime_id": "x" * 513}, "write_failed"),
    ],
    ids=["realm", "empty", "long"],
)
async def test_an_acquisition_names_a_realm_and_a_runtime(
    channel: grpc.aio.Channel, changed: dict[str, str], store_error: str
) -> None:
    stub: Any = runtime_store_admin_pb2_grpc.RuntimeStoreAdminStub(channel)

    found = await refused(
        stub.AcquireRuntime(admin_pb.AcquireRuntimeRequest(**{"runtime_id": "r", "owner": "o", **changed}))
    )

    is_refusal(found, grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST", store_error)
    assert list(found.violations) == list(changed)


async def _refused_with_fence_0(app: Application, runtime_id: str) -> None:
    async with grpc.aio.insecure_channel(app.address) as channel:
        stub = runtime_store_pb2_grpc.RuntimeStoreStub(channel)
        for method in METHODS:
            found = await refused(getattr(stub, method)(request_of(method, runtime_id=runtime_id, fence=0)))
            assert found.reason == "FENCED"


@every_write
async def test_a_server_that_requires_fences_refuses_a_write_without_one_and_says_what_to_do(
    serve: Callable[..., AbstractAsyncContextManager[Application]], runtime_id: str, write: RuntimeWrite
) -> None:
    async with serve(require_fence=True) as app, AsyncRuntimeStoreClient(app.address) as store:
        assert "fence_required" in (await store.get_server_info()).capabilities
        with pytest.raises(InvalidRequest, match="AcquireRuntime") as found:
            await write(store, runtime_id, "a")
        assert [violation.field for violation in found.value.violations] == ["fence"]
        assert await everything(store, runtime_id) == NOTHING

        await store.acquire_runtime(runtime_id, "a")
        assert (await write(store, runtime_id, "a")).revision == 1
        await _refused_with_fence_0(app, f"{runtime_id}/never-acquired")
        # What belongs to no runtime needs no fence.
        assert (await store.persist_auth_oauth_flow_snapshot(b"flow")).version == 1


async def test_fences_are_a_capability_and_required_only_where_they_are_set_to_be(client: Store) -> None:
    capabilities = (await client.get_server_info()).capabilities

    assert "fence" in capabilities
    assert "fence_required" not in capabilities


@pytest.mark.needs(DURABLE)
async def test_a_fence_survives_the_server(fresh_url: str, runtime_id: str) -> None:
    async with in_process(fresh_url) as app, AsyncRuntimeStoreClient(app.address) as store:
        await store.acquire_runtime(runtime_id, "before")
    async with in_process(fresh_url) as app, AsyncRuntimeStoreClient(app.address) as store:
        assert await store.acquire_runtime(runtime_id, "after") == (2, "before")


async def test_a_client_whose_write_waits_is_fenced_if_another_acquires_meanwhile(
    app: Application, client: Store, realm: str, runtime_id: str
) -> None:
    once = RetryPolicy(max_attempts=1)
    async with AsyncRuntimeStoreClient(app.address, realm=realm, retry=once) as other:
        await other.acquire_runtime(runtime_id, "slow")
        with held_commits(app) as go_on:
            # Three batches: one that is held, then the acquisition, then the write that came after it.
            first = asyncio.ensure_future(client.commit_machine_lifecycle(f"{runtime_id}/x", RuntimeState.IDLE))
            await until(lambda: app.store._committer.waiting_writes == 1)
            acquiring = asyncio.ensure_future(client.acquire_runtime(runtime_id, "fast"))
            await until(lambda: app.store._committer.waiting_writes == 2)
            go_on.set()
            await asyncio.gather(first, acquiring)
        with pytest.raises(Fenced):
            await other.persist_input_state(runtime_id, input_of("late"))

    assert await client.load_input_states_with_revision(runtime_id) == ([], 0)


async def test_writes_without_fences_pay_no_statement_for_them(
    app: Application, client: Store, runtime_id: str
) -> None:
    await client.persist_input_state(runtime_id, input_of("a"))
    with statements(app) as seen:
        await client.persist_input_state(runtime_id, input_of("b"))

    assert not [statement for statement, _ in seen if "fences" in statement]
