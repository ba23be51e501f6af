"""What strangers can do to a server that asks who calls: nothing is received, and the log stays readable."""

from __future__ import annotations

import asyncio
import contextlib
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio
import pytest
import trustme
from grpc_health.v1.health_pb2 import HealthCheckRequest

from runtimestore_server.access import authorization
from runtimestore_server.access.peers import host_of
from runtimestore_server.rpc import admission, watches
from support.checkers.clean_up import until
from support.checkers.footprint import most_resident_bytes
from support.checkers.refusals import but_for_its_id, details, refused
from support.checkers.scraping import LISTEN, value
from support.faults.http2 import call_headers, frame, preface
from support.faults.uploads import WAIT_SECONDS, connections, stalled
from support.generators.garbage import SERVICE
from support.generators.requests import request_of
from support.servers.access import access_file, bearer, ca, credentials, entry, new_token, server_files
from support.servers.server import ServerProcess, in_process

if TYPE_CHECKING:
    from pathlib import Path

    from runtimestore_server.budget import Budget

RESOURCE_EXHAUSTED = grpc.StatusCode.RESOURCE_EXHAUSTED
CHECK = "/grpc.health.v1.Health/Check"
MIB = 1024 * 1024
LARGEST = 128 * MIB - 1024


async def test_the_largest_messages_of_strangers_fill_nothing(tmp_path: Path) -> None:
    path = access_file(tmp_path / "access.toml", [entry("agents", new_token())])
    options = [("grpc.max_send_message_length", -1), ("grpc.use_local_subchannel_pool", 1)]
    large = bytes(LARGEST)
    with ServerProcess("memory:", access_file=str(path)) as server:
        async with grpc.aio.insecure_channel(server.address, options) as channel:
            method: Any = channel.unary_unary(f"{SERVICE}AtomicApply")
            with pytest.raises(grpc.aio.AioRpcError):
                await method(b"", timeout=WAIT_SECONDS)  # all that a call needs is loaded
            before = most_resident_bytes(server.pid)
            for _ in range(3):
                calls = [refused(method(large, timeout=WAIT_SECONDS)) for _ in range(4)]
                answers = await asyncio.gather(*calls)
                assert [one.reason for one in answers] == ["UNAUTHENTICATED"] * 4
            grown = most_resident_bytes(server.pid) - before
    assert grown < 16 * MIB


async def test_strangers_are_refused_though_their_message_never_comes_and_hold_no_place_of_others(
    tmp_path: Path,
) -> None:
    path = access_file(tmp_path / "access.toml", [entry("agents", token := new_token())])
    async with in_process("memory:", access_file=path) as app, connections(app.address, 4) as (channel, *others):
        for _ in range(50):
            assert (await refused(stalled(channel))).reason == "UNAUTHENTICATED"
        assert app.limiters.writes.slots.received == 0
        assert app.authorization is not None
        assert app.authorization.failures_by_kind == {"none": 50}
        # Those who ask for health and send no message wait among themselves.
        waiting: list[Any] = [stalled(other, "/grpc.health.v1.Health/Check") for other in others for _ in range(8)]
        slots = app.limiters.strangers.slots, app.limiters.others.slots
        await until(lambda: sum(one.waiting for one in slots) > 0)
        load = channel.unary_unary(f"{SERVICE}LoadRuntimeState")
        request = request_of("LoadRuntimeState").SerializeToString()
        await asyncio.wait_for(load(request, metadata=bearer(token)), 0.5)
        for call in waiting:
            call.cancel()


async def test_a_host_whose_messages_do_not_come_keeps_no_other_host_from_asking_for_health(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for patience in ("PATIENCE", "LONGEST"):
        monkeypatch.setattr(admission, f"OTHERS_{patience}_SECONDS", 1000.0)
    path = access_file(tmp_path / "access.toml", [entry("agents", new_token())])
    async with in_process("memory:", access_file=path, **LISTEN) as app, contextlib.AsyncExitStack() as stack:
        host, _, port = app.address.rpartition(":")
        for _ in range(2 * admission.STRANGERS):
            _, writer = await asyncio.open_connection(host, int(port), local_addr=("127.0.0.2", 0))
            stack.callback(writer.close)
            writer.write(preface() + frame(1, 4, 1, call_headers(app.address, CHECK.encode())))
        slots = app.limiters.strangers.slots
        await until(lambda: slots.received + slots.waiting == 2 * admission.STRANGERS)
        async with connections(app.address, 1) as (channel,):
            assert await channel.unary_unary(CHECK)(b"", timeout=WAIT_SECONDS)
        shown = await asyncio.to_thread(value, app.telemetry.address, "runtimestore_uploads_waiting", kind="strangers")
        assert shown == slots.waiting > 0


@pytest.mark.parametrize(
    ("peer", "host"),
    [
        ("ipv4:10.0.0.7:4711", "ipv4:10.0.0.7"),
        ("ipv6:%5Bfe80::1%5D:4711", "ipv6:fe80::/64"),
        ("ipv6:[fe80::1]:4711", "ipv6:fe80::/64"),
        ("ipv6:%5B2001:db8:0:1:2:3:4:5%25eth0%5D:4711", "ipv6:2001:db8:0:1::/64"),
        ("ipv6:%5B::ffff:10.0.0.7%5D:4711", "ipv4:10.0.0.7"),
        ("ipv6:%5B::1%5D:4711", "ipv6:::/64"),
        ("unix:/run/x:1", "unix:/run/x:1"),
        ("", ""),
    ],
)
def test_a_host_is_what_its_connections_have_in_common(peer: str, host: str) -> None:
    assert host_of(peer) == host


@pytest.mark.parametrize(
    "sent",
    [
        "",
        "Bearer",
        "Bearer ",
        "Bearer rst_",
        "Basic eDp5",
        "{token}",
        "Bearer {token}x",
        "Bearer  {token}",
        "Bearer {token} ",
        "Bearer {token},Bearer {token}",
        "bearer Bearer {token}",
        "Bearer " + "x" * 4000,
    ],
)
async def test_what_is_no_credential_is_refused_in_the_same_words_as_none(tmp_path: Path, sent: str) -> None:
    path = access_file(tmp_path / "access.toml", [entry("agents", token := new_token())])
    async with in_process("memory:", access_file=path) as app, grpc.aio.insecure_channel(app.address) as channel:
        info: Any = channel.unary_unary("/runtimestore.v1.RuntimeStoreAdmin/GetServerInfo")
        await info(b"", metadata=(("authorization", f"bearer {token}"),), timeout=WAIT_SECONDS)
        none = but_for_its_id(await refused(info(b"", timeout=WAIT_SECONDS)))
        given = (("authorization", sent.format(token=token)),)
        assert but_for_its_id(await refused(info(b"", metadata=given, timeout=WAIT_SECONDS))) == none
        twice = bearer(token) * 2
        assert but_for_its_id(await refused(info(b"", metadata=twice, timeout=WAIT_SECONDS))) == none


async def test_a_refusal_is_the_same_whether_what_was_asked_for_exists_or_not(tmp_path: Path) -> None:
    owner, other = new_token(), new_token()
    entries = [entry("owner", owner), entry("other", other, realms=["elsewhere"])]
    path = access_file(tmp_path / "access.toml", entries)
    async with in_process("memory:", access_file=path) as app, grpc.aio.insecure_channel(app.address) as channel:

        async def told(token: str | None, runtime_id: str) -> Any:
            load: Any = channel.unary_unary(f"{SERVICE}LoadRuntimeState")
            request = request_of("LoadRuntimeState", runtime_id=runtime_id).SerializeToString()
            with pytest.raises(grpc.aio.AioRpcError) as failed:
                await load(request, metadata=bearer(token) if token else None, timeout=WAIT_SECONDS)
            return but_for_its_id(details(failed.value))

        write: Any = channel.unary_unary(f"{SERVICE}CommitMachineLifecycle")
        await write(request_of("CommitMachineLifecycle").SerializeToString(), metadata=bearer(owner))
        for token in (None, new_token(), other):
            there = await told(token, "rt:session:x")
            assert there == await told(token, "rt:session:nowhere") == await told(token, "")


async def test_a_flood_of_strangers_leaves_a_few_lines_in_the_log(tmp_path: Path) -> None:
    path = access_file(tmp_path / "access.toml", [entry("agents", new_token())])
    with ServerProcess("memory:", access_file=str(path)) as server:
        async with grpc.aio.insecure_channel(server.address) as channel:
            info: Any = channel.unary_unary("/runtimestore.v1.RuntimeStoreAdmin/GetServerInfo")
            for _ in range(20):
                await asyncio.gather(*(refused(info(b"", timeout=WAIT_SECONDS)) for _ in range(25)))
        lines = [line for line in server.log.splitlines() if "UNAUTHENTICATED" in line]
    assert 0 < len(lines) < 100
    assert all("peer=" in line or "lines left out" in line for line in lines)


async def test_with_a_ca_of_clients_nobody_connects_without_a_certificate_that_it_signed(tmp_path: Path) -> None:
    path = access_file(tmp_path / "access.toml", [entry("agents", token := new_token())])
    files: Any = server_files(tmp_path, client_ca=True)
    foreign = trustme.CA().issue_cert("agents.test")
    async with in_process("memory:", access_file=path, **files) as app:
        for certificate in (None, foreign):
            async with grpc.aio.secure_channel(app.address, credentials(certificate)) as channel:
                check: Any = channel.unary_unary("/grpc.health.v1.Health/Check")
                with pytest.raises(grpc.aio.AioRpcError) as failed:
                    await check(b"", metadata=bearer(token), timeout=5)
                assert failed.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_a_token_that_is_sent_decides_whatever_certificate_is_shown(tmp_path: Path) -> None:
    token = new_token()
    entries = [entry("worker", certificate_sans=["worker.test"], access="admin"), entry("reader", token, access="read")]
    files: Any = server_files(tmp_path, client_ca=True)
    shown = credentials(ca().issue_cert("worker.test"))
    path = access_file(tmp_path / "access.toml", entries)
    async with (
        in_process("memory:", access_file=path, **files) as app,
        grpc.aio.secure_channel(app.address, shown) as channel,
    ):
        write: Any = channel.unary_unary(f"{SERVICE}CommitMachineLifecycle")
        request = request_of("CommitMachineLifecycle").SerializeToString()
        await write(request, timeout=WAIT_SECONDS)
        lower = await refused(write(request, metadata=bearer(token), timeout=WAIT_SECONDS))
        unknown = await refused(write(request, metadata=bearer(new_token()), timeout=WAIT_SECONDS))
    assert (lower.reason, lower.metadata["access"]) == ("ACCESS_NOT_ALLOWED", "write")
    assert unknown.reason == "UNAUTHENTICATED"


async def test_a_certificate_with_the_names_of_two_principals_is_nobodys(tmp_path: Path) -> None:
    entries = [entry("a", certificate_sans=["a.test"], access="read"), entry("b", certificate_sans=["b.test"])]
    files: Any = server_files(tmp_path, client_ca=True)
    async with in_process("memory:", access_file=access_file(tmp_path / "a.toml", entries), **files) as app:
        for names, known in ((("a.test", "c.test"), True), (("a.test", "b.test"), False)):
            async with grpc.aio.secure_channel(app.address, credentials(ca().issue_cert(*names))) as channel:
                info: Any = channel.unary_unary("/runtimestore.v1.RuntimeStoreAdmin/GetServerInfo")
                if known:
                    await info(b"", timeout=WAIT_SECONDS)
                else:
                    assert (await refused(info(b"", timeout=WAIT_SECONDS))).reason == "UNAUTHENTICATED"


@pytest.mark.parametrize("method", ["Check", "Watch"])
@pytest.mark.parametrize("kind", ["none", "malformed", "unknown", "ended", "plaintext"])
async def test_a_stranger_who_asks_for_one_service_is_told_of_by_what_was_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, method: str
) -> None:
    past, token = new_token(), new_token()
    entries = [entry("past", past, until=datetime(2020, 1, 1, tzinfo=UTC)), entry("agents", token)]
    shown = {"none": None, "malformed": "rst_x", "unknown": new_token(), "ended": past, "plaintext": token}[kind]
    if kind == "plaintext":  # loopback is all that a test has
        monkeypatch.setattr(authorization, "is_carried_safely", lambda _context: False)
    path = access_file(tmp_path / "access.toml", entries)
    async with in_process("memory:", access_file=path) as app, grpc.aio.insecure_channel(app.address) as channel:
        request = HealthCheckRequest(service="runtimestore.v1.RuntimeStore").SerializeToString()
        asked: Any = channel.unary_stream(f"/grpc.health.v1.Health/{method}")
        call = asked(request, metadata=bearer(shown) if shown else None, timeout=WAIT_SECONDS)
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await call.read()
        told = details(failed.value)
        assert app.authorization is not None
        assert {kind: 1} == {kind: number for kind, number in app.authorization.failures_by_kind.items() if number}
    assert told.reason == "UNAUTHENTICATED"
    assert ("without TLS" in told.message) == (kind == "plaintext")


async def _watch(channel: grpc.aio.Channel, token: str | None = None) -> Any:
    call: Any = channel.unary_stream("/grpc.health.v1.Health/Watch")
    return call(b"", metadata=bearer(token) if token else None, timeout=WAIT_SECONDS)


@pytest.mark.parametrize(("of", "most"), [("strangers", 5), ("known", 3)])
async def test_watches_of_strangers_are_bounded_and_so_are_those_of_all_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, of: str, most: int
) -> None:
    monkeypatch.setattr(watches, "MOST_WATCHES_OF_STRANGERS", 5)
    monkeypatch.setattr(watches, "MOST_WATCHES", 3)
    path = access_file(tmp_path / "access.toml", [entry("agents", token := new_token())])
    shown, other = (None, token) if of == "strangers" else (token, None)
    async with (
        in_process("memory:", access_file=path, **LISTEN) as app,
        grpc.aio.insecure_channel(app.address) as channel,
    ):

        async def told(name: str) -> float:
            return await asyncio.to_thread(value, app.telemetry.address, f"runtimestore_health_watches{name}", of=of)

        open_ones = [await _watch(channel, shown) for _ in range(most)]
        for call in open_ones:
            assert await call.read()
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await (await _watch(channel, shown)).read()
        assert (failed.value.code(), details(failed.value).reason) == (RESOURCE_EXHAUSTED, "OVERLOADED")
        assert (await told(""), await told("_limit")) == (most, most)

        check: Any = channel.unary_unary("/grpc.health.v1.Health/Check")
        await check(b"", metadata=bearer(shown) if shown else None, timeout=WAIT_SECONDS)
        assert await (await _watch(channel, other)).read()  # they take no place of each other

        budget: Budget = getattr(app.limiters.watches, of)
        open_ones[0].cancel()
        await until(lambda: budget.items == most - 1)
        assert await (await _watch(channel, shown)).read()
        await channel.close()
        await until(lambda: budget.items == 0)


async def test_watches_are_bounded_where_nobody_is_asked_who_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watches, "MOST_WATCHES", 3)
    async with in_process("memory:") as app, grpc.aio.insecure_channel(app.address) as channel:
        for _ in range(3):
            assert await (await _watch(channel)).read()
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await (await _watch(channel)).read()
        assert failed.value.code() is RESOURCE_EXHAUSTED
