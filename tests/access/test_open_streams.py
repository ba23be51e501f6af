"""Streams that were let in end, soon and with a reason, once their principal would not be let in any more."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from runtimestore import AsyncRuntimeStoreClient
from runtimestore.v1 import runtime_store_pb2 as pb
from runtimestore_server.access import open_streams
from runtimestore_server.rpc import watches
from support.checkers.clean_up import until
from support.checkers.refusals import WireRefusal, details
from support.generators.documents import input_state, session
from support.generators.garbage import SERVICE
from support.generators.requests import request_of
from support.servers.access import (
    access_file,
    bearer,
    ca,
    credentials,
    entry,
    have_an_hour_pass,
    in_an_hour,
    new_token,
    server_files,
)
from support.servers.server import in_process

if TYPE_CHECKING:
    from pathlib import Path

    from runtimestore_server.access.authorization import Authorization
    from runtimestore_server.app import Application

WAIT_SECONDS = 20
RUNTIME = "rt:session:x"
PART = "x" * 4_000_000
LOADS = {"LoadSessionSnapshot": pb.LoadSessionSnapshotRequest, "LoadInputStates": pb.LoadInputStatesRequest}
SMALL_WINDOW = [("grpc.http2.bdp_probe", 0)]
"""Else what nobody has asked for is sent, and a load is over for the server before anything changes."""

STREAMS = ("Watch", "ServerReflectionInfo", *LOADS)


@pytest.fixture(autouse=True)
def looks_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody has to wait a second for each look."""
    monkeypatch.setattr(open_streams, "LOOK_SECONDS", 0.05)


def asked_by(app: Application) -> Authorization:
    """What asks the callers of a server."""
    assert app.authorization is not None
    return app.authorization


async def fill(client: AsyncRuntimeStoreClient) -> None:
    """Store what takes many messages to load."""
    await client.commit_session_snapshot(RUNTIME, session(4 * PART))
    for _ in range(4):
        await client.persist_input_state(RUNTIME, input_state(PART))


async def opened(
    channel: Any, stream: str, metadata: Any = None, *, service: str = "runtimestore.v1.RuntimeStore"
) -> Any:
    """A stream that was let in: its first message is read, and the next is not asked for."""
    options = {"metadata": metadata, "timeout": WAIT_SECONDS}
    if stream == "Watch":
        request = health_pb2.HealthCheckRequest(service=service).SerializeToString()
        call = channel.unary_stream("/grpc.health.v1.Health/Watch")(request, **options)
    elif stream == "ServerReflectionInfo":
        call = channel.stream_stream("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo")(**options)
        await call.write(reflection_pb2.ServerReflectionRequest(list_services="*").SerializeToString())
    else:
        request = LOADS[stream](runtime_id=RUNTIME).SerializeToString()
        call = channel.unary_stream(f"{SERVICE}{stream}")(request, **options)
    assert await call.read()
    return call


async def ended(call: Any) -> WireRefusal:
    """How a stream ended, read to its last message."""

    async def read_on() -> None:
        while await call.read() is not grpc.aio.EOF:
            pass

    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await read_on()
    return details(failed.value)


@pytest.mark.parametrize("by", ["token", "certificate"])
async def test_every_stream_of_a_principal_that_is_taken_out_ends_and_those_of_others_go_on(
    tmp_path: Path, by: str
) -> None:
    owner, token = new_token(), new_token()
    stays = entry("owner", owner)
    goes = entry("goes", token) if by == "token" else entry("goes", certificate_sans=["goes.test"])
    path = access_file(tmp_path / "access.toml", [stays, goes])
    files: Any = server_files(tmp_path, client_ca=True)
    shown = credentials(ca().issue_cert("goes.test" if by == "certificate" else "nobody.test"))
    async with (
        in_process("memory:", access_file=path, **files) as app,
        grpc.aio.secure_channel(app.address, shown, SMALL_WINDOW) as channel,
    ):
        await fill(AsyncRuntimeStoreClient(channel=channel, token=owner))
        its_own = bearer(token) if by == "token" else None
        streams = {stream: await opened(channel, stream, its_own) for stream in STREAMS}
        others = [await opened(channel, "Watch", bearer(owner)), await opened(channel, "Watch", None, service="")]
        authorization = asked_by(app)
        by_certificate = by == "certificate"  # then it is shown with the last one, too, that strangers may have
        assert len(authorization.streams) == len(STREAMS) + 1 + by_certificate

        access_file(path, [stays])
        await until(lambda: len(authorization.streams) == 1)  # before anybody reads on

        refusals = {stream: await ended(call) for stream, call in streams.items()}
        assert {(one.code.name, one.reason) for one in refusals.values()} == {("UNAUTHENTICATED", "UNAUTHENTICATED")}
        assert not any(call.done() for call in others)
        assert authorization.failures_by_kind == {"unknown": len(STREAMS)}
        for call in others:
            call.cancel()
        await until(lambda: len(authorization.streams) == 0)
        assert app.sending.budget.bytes == 0


async def test_a_stream_ends_when_the_time_of_its_token_is_over_though_the_file_does_not_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = access_file(tmp_path / "access.toml", [entry("agents", token := new_token(), until=in_an_hour())])
    async with (
        in_process("memory:", access_file=path) as app,
        grpc.aio.insecure_channel(app.address) as channel,
    ):
        watch = await opened(channel, "Watch", bearer(token))
        await asyncio.sleep(3 * open_streams.LOOK_SECONDS)
        assert not watch.done()
        have_an_hour_pass(monkeypatch)
        refusal = await ended(watch)
    assert refusal.reason == "UNAUTHENTICATED"


async def test_a_load_ends_when_its_realm_is_taken_from_its_principal(tmp_path: Path) -> None:
    path = access_file(tmp_path / "access.toml", [entry("agents", token := new_token())])
    async with (
        in_process("memory:", access_file=path) as app,
        grpc.aio.insecure_channel(app.address) as channel,
    ):
        await fill(AsyncRuntimeStoreClient(channel=channel, token=token))
        load = await opened(channel, "LoadSessionSnapshot", bearer(token))
        watch = await opened(channel, "Watch", bearer(token))
        access_file(path, [entry("agents", token, realms=["elsewhere"])])
        authorization = asked_by(app)
        await until(lambda: len(authorization.streams) == 1)
        refusal = await ended(load)
        assert not watch.done()
        watch.cancel()
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.PERMISSION_DENIED, "REALM_NOT_ALLOWED")


async def test_streams_go_on_while_a_file_is_broken_and_when_another_principal_changes(tmp_path: Path) -> None:
    kept = entry("agents", token := new_token())
    path = access_file(tmp_path / "access.toml", [kept, entry("other", new_token())])
    async with (
        in_process("memory:", access_file=path) as app,
        grpc.aio.insecure_channel(app.address) as channel,
    ):
        watch = await opened(channel, "Watch", bearer(token))
        authorization = asked_by(app)
        access_file(path, ["x"])
        await until(lambda: authorization.unusable is not None)  # it is looked at though nobody calls
        access_file(path, [kept, entry("new", new_token())])
        await until(lambda: authorization.unusable is None)
        await asyncio.sleep(3 * open_streams.LOOK_SECONDS)
        assert not watch.done()
        watch.cancel()


@pytest.mark.parametrize("by", ["taken out", "its time is over"])
async def test_a_watch_that_strangers_may_have_too_is_one_of_theirs_once_its_principal_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, by: str
) -> None:
    monkeypatch.setattr(watches, "MOST_WATCHES", 4)
    monkeypatch.setattr(watches, "MOST_WATCHES_OF_STRANGERS", 2)
    stays = entry("stays", owner := new_token())
    ends = {"until": in_an_hour()} if by == "its time is over" else {}
    path = access_file(tmp_path / "access.toml", [stays, entry("goes", token := new_token(), **ends)])
    async with (
        in_process("memory:", access_file=path) as app,
        grpc.aio.insecure_channel(app.address) as channel,
    ):
        known, strangers = app.limiters.watches.known, app.limiters.watches.strangers
        kept = await opened(channel, "Watch", bearer(owner), service="")
        its_own = [await opened(channel, "Watch", bearer(token), service="") for _ in range(3)]
        assert (known.items, strangers.items) == (4, 0)
        if ends:
            have_an_hour_pass(monkeypatch)
        else:
            access_file(path, [stays])
        await until(lambda: (known.items, strangers.items) == (1, 2))
        assert len(asked_by(app).streams) == 1

        await until(lambda: sum(call.done() for call in its_own) == 1)  # there was room for two
        refusal = await ended(next(call for call in its_own if call.done()))
        assert (refusal.code, refusal.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED")
        assert not kept.done()
        others = [await opened(channel, "Watch", bearer(owner), service="") for _ in range(3)]  # the places are free
        for call in (kept, *its_own, *others):
            call.cancel()
        await until(lambda: (known.items, strangers.items) == (0, 0))


async def test_a_message_that_comes_after_its_sender_was_taken_out_is_refused(tmp_path: Path) -> None:
    path = access_file(tmp_path / "access.toml", [entry("agents", token := new_token()), entry("o", new_token())])
    async with (
        in_process("memory:", access_file=path) as app,
        grpc.aio.insecure_channel(app.address) as found,
    ):
        channel: Any = found
        write = channel.stream_unary(f"{SERVICE}CommitMachineLifecycle")(metadata=bearer(token), timeout=WAIT_SECONDS)
        await write.wait_for_connection()
        await until(lambda: app.limiters.writes.slots.received == 1)  # it was let in, and its message is waited for
        access_file(path, [entry("o", new_token())])
        authorization = asked_by(app)
        await until(lambda: len(authorization.file.current.entries) == 1)
        await write.write(request_of("CommitMachineLifecycle").SerializeToString())
        await write.done_writing()
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await write
    assert details(failed.value).reason == "UNAUTHENTICATED"
