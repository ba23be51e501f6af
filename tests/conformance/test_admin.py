"""GetServerInfo, health and reflection: what a server tells of itself."""

from __future__ import annotations

import asyncio
import re
from importlib.metadata import version
from typing import TYPE_CHECKING

import grpc
import grpc.aio
import pytest
from google.protobuf import descriptor_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from runtimestore import AsyncRuntimeStoreClient, RevisionMismatch, RuntimeStoreClient
from runtimestore.v1 import runtime_store_admin_pb2, runtime_store_admin_pb2_grpc
from runtimestore.v1 import runtime_store_pb2 as pb
from runtimestore_server.store.schema import HEAD
from support.checkers.clean_up import until
from support.checkers.refusals import is_refusal, refused
from support.generators.calls import Store, input_of
from support.generators.documents import new_id
from support.servers.database import held_commits
from support.servers.engines import DURABLE
from support.servers.server import in_process

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from contextlib import AbstractAsyncContextManager

    from runtimestore_server.app import Application
    from support.servers.engines import Engine

    Serve = Callable[..., AbstractAsyncContextManager[Application]]

STORE, ADMIN = "runtimestore.v1.RuntimeStore", "runtimestore.v1.RuntimeStoreAdmin"
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


async def test_get_server_info_tells_version_engine_schema_and_capabilities(app: Application, store: Store) -> None:
    info = await store.get_server_info()

    assert info.server_version == version("runtimestore")
    assert info.engine == app.store.database.name
    assert info.schema_revision == HEAD
    assert info.capabilities >= {"request_replay", "if_revision"}
    assert info.limits.max_message_bytes > info.limits.max_session_snapshot_bytes > info.limits.max_document_bytes


async def test_get_server_info_counts_writes_refusals_replays_and_transactions(serve: Serve, runtime_id: str) -> None:
    async with serve() as app, Store(app.address) as store:
        request_id = new_id()
        assert (await store.get_server_info()).commits.transactions == 0
        await store.persist_input_state(runtime_id, input_of("a"), request_id=request_id)
        await store.persist_input_state(runtime_id, input_of("a"), request_id=request_id)
        await store.persist_auth_oauth_flow_snapshot(b"{}")
        with pytest.raises(RevisionMismatch):
            await store.persist_input_state(runtime_id, input_of("a"), if_revision=9)
        await store.load_input_states(runtime_id)
        counted = (await store.get_server_info()).commits

    assert (counted.writes, counted.refusals, counted.replays) == (2, 1, 1)
    assert counted.transactions == 2  # a refusal or a replay alone is none


async def test_get_server_info_is_the_same_for_every_realm_but_a_bad_one(channel: grpc.aio.Channel) -> None:
    admin: runtime_store_admin_pb2_grpc.RuntimeStoreAdminAsyncStub
    admin = runtime_store_admin_pb2_grpc.RuntimeStoreAdminStub(channel)

    answers = [
        await admin.GetServerInfo(runtime_store_admin_pb2.GetServerInfoRequest(realm=realm)) for realm in ("", "a")
    ]
    assert answers[0] == answers[1]
    found = await refused(admin.GetServerInfo(runtime_store_admin_pb2.GetServerInfoRequest(realm="A")))
    is_refusal(found, grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST", "internal")


async def test_no_document_passes_through_get_server_info_or_the_repr_of_a_snapshot(store: Store) -> None:
    await store.persist_auth_oauth_flow_snapshot(b"pkce-verifier")

    assert "verifier" not in repr(await store.load_auth_oauth_flow_snapshot_with_version())
    assert "verifier" not in repr(await store.get_server_info())


@pytest.mark.parametrize("service", ["", STORE, ADMIN])
async def test_health_is_serving_for_the_server_and_for_each_service(channel: grpc.aio.Channel, service: str) -> None:
    answer = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service=service))

    assert answer.status == SERVING


@pytest.mark.parametrize("service", ["", STORE, ADMIN])
async def test_health_can_be_watched(channel: grpc.aio.Channel, service: str) -> None:
    watching = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(service=service))

    assert (await watching.read()).status == SERVING
    watching.cancel()


async def test_the_health_of_an_unknown_service_is_not_found(channel: grpc.aio.Channel) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service="nobody"))

    assert failed.value.code() is grpc.StatusCode.NOT_FOUND


@pytest.mark.needs(DURABLE)
async def test_a_server_is_ready_only_while_the_engine_answers(serve: Serve, engine: Engine) -> None:
    async with serve(health_interval_seconds=0.05) as app, grpc.aio.insecure_channel(app.address) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        watching = health.Watch(health_pb2.HealthCheckRequest(service=STORE))
        assert (await watching.read()).status == SERVING
        with engine.unreachable(app.store.database):
            assert (await asyncio.wait_for(watching.read(), 10)).status == NOT_SERVING
            for service in ("", STORE, ADMIN):
                answer = await health.Check(health_pb2.HealthCheckRequest(service=service))
                assert answer.status == NOT_SERVING
        assert (await asyncio.wait_for(watching.read(), 10)).status == SERVING
        watching.cancel()


async def test_a_server_is_ready_only_while_the_schema_is_current(serve: Serve) -> None:
    async with serve(health_interval_seconds=0.05) as app, grpc.aio.insecure_channel(app.address) as channel:
        watching = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(service=STORE))
        assert (await watching.read()).status == SERVING

        def set_revision(revision: str) -> None:
            with app.store.database.writers.begin() as connection:
                connection.exec_driver_sql(f"UPDATE alembic_version SET version_num = '{revision}'")  # noqa: S608  (the test's own text)

        await asyncio.to_thread(set_revision, "9999")
        assert (await asyncio.wait_for(watching.read(), 10)).status == NOT_SERVING
        await asyncio.to_thread(set_revision, HEAD)
        assert (await asyncio.wait_for(watching.read(), 10)).status == SERVING
        watching.cancel()


async def test_a_server_that_stops_says_not_serving_first_and_finishes_what_is_in_flight(
    engine: Engine, runtime_id: str
) -> None:
    url = engine.fresh_url()
    stop = asyncio.Event()
    ready: asyncio.Future[Application] = asyncio.get_running_loop().create_future()

    async def run() -> None:
        async with in_process(url) as app:
            ready.set_result(app)
            await stop.wait()

    running = asyncio.create_task(run())
    app = await ready
    try:
        async with grpc.aio.insecure_channel(app.address) as channel, Store(app.address) as store:
            watching = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(service=STORE))
            assert (await watching.read()).status == SERVING
            with held_commits(app) as go_on:
                writing = asyncio.create_task(store.persist_input_state(runtime_id, input_of("a")))
                await until(lambda: app.store._committer.waiting_writes == 1)
                stop.set()
                assert (await asyncio.wait_for(watching.read(), 10)).status == NOT_SERVING
                assert not writing.done()
                go_on.set()
                assert await writing == (1, False)
            watching.cancel()
    finally:
        stop.set()
        await running
    engine.drop(url)


async def test_reflection_lists_every_service_and_describes_the_fifteen_methods(channel: grpc.aio.Channel) -> None:
    async def questions() -> AsyncIterator[reflection_pb2.ServerReflectionRequest]:
        yield reflection_pb2.ServerReflectionRequest(list_services="")
        yield reflection_pb2.ServerReflectionRequest(file_containing_symbol=STORE)

    stream = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(questions())
    listed, described = [answer async for answer in stream]

    services = {service.name for service in listed.list_services_response.service}
    assert services >= {STORE, ADMIN, "grpc.health.v1.Health"}
    files = [
        descriptor_pb2.FileDescriptorProto.FromString(file)
        for file in described.file_descriptor_response.file_descriptor_proto
    ]
    (service,) = [service for file in files for service in file.service if service.name == "RuntimeStore"]
    assert [_snake(method.name) for method in service.method] == [
        "auth_authority_key",
        "persist_auth_oauth_flow_snapshot",
        "load_auth_oauth_flow_snapshot",
        "update_auth_oauth_flow_snapshot",
        "commit_session_snapshot",
        "atomic_apply",
        "load_input_states",
        "load_boundary_receipt",
        "load_session_snapshot",
        "persist_input_state",
        "load_input_state",
        "load_runtime_state",
        "commit_machine_lifecycle",
        "persist_ops_lifecycle",
        "load_ops_lifecycle",
    ]
    streaming = [method.name for method in service.method if method.server_streaming]
    assert streaming == ["LoadInputStates", "LoadSessionSnapshot"]
    assert not any(method.client_streaming for method in service.method)


def test_every_request_names_its_realm_first_and_its_runtime_second() -> None:
    service = pb.DESCRIPTOR.services_by_name["RuntimeStore"]
    for method in service.methods:
        fields = {field.number: field.name for field in method.input_type.fields}
        assert fields[1] == "realm"
        if "Auth" not in method.name:
            assert fields[2] == "runtime_id"


def test_both_clients_have_every_method_of_the_trait() -> None:
    for method in pb.DESCRIPTOR.services_by_name["RuntimeStore"].methods:
        for client in (AsyncRuntimeStoreClient, RuntimeStoreClient):
            assert callable(getattr(client, _snake(method.name)))


def _snake(name: str) -> str:
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name.replace("OAuth", "Oauth")).lower()


async def test_a_server_stops_though_it_was_just_telling_its_health(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    telling = asyncio.Event()

    async def tell_slowly(*_: object) -> None:
        telling.set()
        await asyncio.sleep(60)

    async def serve_until_it_tells() -> None:
        async with serve(health_interval_seconds=0.01) as app:
            monkeypatch.setattr(app.health, "set", tell_slowly)
            await telling.wait()

    await asyncio.wait_for(serve_until_it_tells(), 30)
