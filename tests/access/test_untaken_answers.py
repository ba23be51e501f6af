"""Strangers who send calls and take no answers fill nothing: neither by many calls at once, nor by calls that stay."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import TYPE_CHECKING, Any

import grpc.aio
import pytest

from runtimestore_server.access import strangers
from runtimestore_server.rpc.workarounds.closed_connections import close_connection
from support.checkers.clean_up import until
from support.checkers.footprint import most_resident_bytes
from support.checkers.refusals import refused
from support.faults.http2 import call_headers, frame, preface
from support.faults.uploads import WAIT_SECONDS, stalled
from support.servers.access import access_file, bearer, entry, new_token
from support.servers.server import ServerProcess, in_process

if TYPE_CHECKING:
    from pathlib import Path

MIB = 1024 * 1024
CHECK = "/grpc.health.v1.Health/Check"
INFO = "/runtimestore.v1.RuntimeStoreAdmin/GetServerInfo"
DATA, HEADERS, SETTINGS = 0, 1, 4
END_STREAM, END_HEADERS = 1, 4
EMPTY_MESSAGE = bytes(5)
NO_WINDOW = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(SETTINGS, 0, 0, (4).to_bytes(2, "big") + bytes(4))
"""What a client begins with that lets no byte of a message be sent on its streams."""


def calls(address: str, path: str, count: int) -> bytes:
    """Calls with an empty message, on the streams of one connection."""
    headers = call_headers(address, path.encode())
    return b"".join(
        frame(HEADERS, END_HEADERS, 2 * number + 1, headers) + frame(DATA, END_STREAM, 2 * number + 1, EMPTY_MESSAGE)
        for number in range(count)
    )


async def test_of_strangers_who_take_no_answers_the_connection_with_most_calls_is_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(strangers, "MOST_CALLS", 50)
    path = access_file(tmp_path / "access.toml", [entry("agents", token := new_token())])
    async with in_process("memory:", access_file=path) as app, contextlib.AsyncExitStack() as stack:
        host, _, port = app.address.rpartition(":")
        assert app.authorization is not None
        counted = app.authorization.strangers

        async def asks(count: int) -> asyncio.StreamReader:
            reader, writer = await asyncio.open_connection(host, int(port))
            stack.callback(writer.close)
            writer.write(NO_WINDOW + calls(app.address, CHECK, count))
            return reader

        few = await asks(10)
        await until(lambda: len(counted) == 10)
        for closed in (1, 2):
            many = await asks(45)
            with contextlib.suppress(ConnectionError):  # or its end
                async with asyncio.timeout(WAIT_SECONDS):
                    await many.read()
            await until(lambda: len(counted) == 10)
            assert counted.closed == closed
        assert not few.at_eof()
        async with grpc.aio.insecure_channel(app.address) as channel:
            info: Any = channel.unary_unary(INFO)
            await info(b"", metadata=bearer(token), timeout=WAIT_SECONDS)
            assert (await refused(info(b"", timeout=WAIT_SECONDS))).reason == "UNAUTHENTICATED"
            check: Any = channel.unary_unary(CHECK)
            await check(b"", timeout=WAIT_SECONDS)


async def test_calls_of_unknown_methods_are_counted_whoever_calls_and_those_of_principals_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(strangers, "MOST_CALLS", 0)
    path = access_file(tmp_path / "access.toml", [entry("agents", token := new_token())])
    async with in_process("memory:", access_file=path) as app, grpc.aio.insecure_channel(app.address) as channel:
        info: Any = channel.unary_unary(INFO)
        await info(b"", metadata=bearer(token), timeout=WAIT_SECONDS)
        waiting: Any = channel.stream_unary(INFO)(metadata=bearer(token), timeout=WAIT_SECONDS)
        await until(lambda: app.limiters.others.slots.received == 1)
        assert app.authorization is not None
        assert app.authorization.strangers.closed == 0
        unknown: Any = channel.unary_unary("/nobody/Knows")
        with contextlib.suppress(grpc.aio.AioRpcError):
            await unknown(b"", metadata=bearer(token), timeout=WAIT_SECONDS)
        assert app.authorization.strangers.closed == 1
        with pytest.raises(grpc.aio.AioRpcError):
            await waiting


async def test_calls_that_come_faster_than_they_are_refused_do_not_fill_the_memory(tmp_path: Path) -> None:
    path = access_file(tmp_path / "access.toml", [entry("agents", token := new_token())])
    with ServerProcess("memory:", access_file=str(path)) as server:
        host, _, port = server.address.rpartition(":")
        flood = preface() + calls(server.address, INFO, 10_000)
        async with grpc.aio.insecure_channel(server.address) as channel:
            info: Any = channel.unary_unary(INFO)
            await info(b"", metadata=bearer(token), timeout=WAIT_SECONDS, wait_for_ready=True)
        before = most_resident_bytes(server.pid)
        with contextlib.ExitStack() as stack:
            for _ in range(6):
                stranger = stack.enter_context(socket.create_connection((host, int(port)), timeout=WAIT_SECONDS))
                with contextlib.suppress(OSError):
                    await asyncio.to_thread(stranger.sendall, flood)
            async with grpc.aio.insecure_channel(server.address) as channel:
                info = channel.unary_unary(INFO)
                async with asyncio.timeout(3 * WAIT_SECONDS):  # until there is a place
                    while not await _is_answered(info(b"", metadata=bearer(token), timeout=WAIT_SECONDS)):
                        pass
        assert most_resident_bytes(server.pid) - before < 300 * MIB


async def _is_answered(call: Any) -> bool:
    try:
        await call
    except grpc.aio.AioRpcError:
        return False
    return True


@pytest.mark.parametrize("listen", ["127.0.0.1:0", "[::1]:0", "[::]:0"])
async def test_the_connection_of_a_peer_is_closed_and_no_other(tmp_path: Path, listen: str) -> None:
    path = access_file(tmp_path / "access.toml", [entry("agents", token := new_token())])
    async with in_process("memory:", access_file=path, listen=listen, insecure=True) as app:
        port = app.address.rpartition(":")[2]
        to = f"127.0.0.1:{port}" if listen != "[::1]:0" else f"[::1]:{port}"
        options = [("grpc.use_local_subchannel_pool", 1)]
        async with grpc.aio.insecure_channel(to, options) as one, grpc.aio.insecure_channel(to, options) as other:
            held: dict[Any, str] = {}
            for channel in (one, other):
                call = stalled(channel, CHECK)
                await until(lambda: app.limiters.strangers.slots.received == len(held) + 1)
                held[call] = next(peer for peer in _open(app) if peer not in held.values())
            first, second = held
            assert close_connection(held[first])
            with pytest.raises(grpc.aio.AioRpcError) as failed:
                await first
            assert failed.value.code() is grpc.StatusCode.UNAVAILABLE
            assert not second.done()
            assert not close_connection(held[first])
            second.cancel()
            info: Any = other.unary_unary(INFO)
            await info(b"", metadata=bearer(token), timeout=WAIT_SECONDS)


def _open(app: Any) -> dict[str, int]:
    return dict(app.authorization.strangers._open)


@pytest.mark.parametrize("peer", ["", "unix:/run/x", "unix-abstract:x", "ipv4:nobody", "ipv4:127.0.0.1:1"])
def test_a_peer_without_a_connection_is_nobody_to_close(peer: str) -> None:
    assert not close_connection(peer)
