"""A server that is replaced at another address, under the same name, is found within a call of the default deadline."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio
import pytest

from runtimestore import AsyncRuntimeStoreClient, RuntimeStoreClient
from runtimestore._channel import DEFAULT_MAX_MESSAGE_BYTES, channel_options
from support.checkers.threaded import threaded
from support.faults.tcp_proxy import listening
from support.servers.name_server import name_server
from support.servers.scripted_store import Script, scripted_store

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

RUNTIME = "rt:session:one"
NAME = "store.test"
SOON_SECONDS = 10.0
"""Far below the deadline of a call, and far above the pauses in between."""


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
    return port


@contextlib.asynccontextmanager
async def _opened(kind: str, target: str, *, balanced: bool) -> AsyncIterator[AsyncRuntimeStoreClient]:
    """Either client, with methods to await, and with the options of a plain HOST:PORT unless it is to balance."""
    # A plain name is asked of the machine's own name server, which a test cannot be; all else about it is the same.
    options = channel_options(target if balanced else f"{NAME}:1", DEFAULT_MAX_MESSAGE_BYTES)
    if kind == "aio":
        async with (
            grpc.aio.insecure_channel(target, options=options) as channel,
            AsyncRuntimeStoreClient(target, channel=channel) as store,
        ):
            yield store
    else:
        with grpc.insecure_channel(target, options=options) as of_threads:
            yield threaded(RuntimeStoreClient(target, channel=of_threads))


@pytest.mark.parametrize("kind", ["aio", "sync"])
@pytest.mark.parametrize("balanced", [True, False], ids=["balanced", "plain"])
def test_a_server_that_comes_back_at_another_address_is_found_soon(kind: str, balanced: bool) -> None:
    async def scenario() -> float:
        port, addresses = _free_port(), ["127.0.0.1"]
        with name_server(NAME, addresses) as names:
            async with _opened(kind, f"dns://{names}/{NAME}:{port}", balanced=balanced) as store:
                async with scripted_store(Script(), f"127.0.0.1:{port}"):
                    await store.load_runtime_state(RUNTIME)
                async with scripted_store(Script(), f"127.0.0.2:{port}"):
                    addresses[:] = ["127.0.0.2"]
                    started = time.monotonic()
                    await store.load_runtime_state(RUNTIME)
                    return time.monotonic() - started

    assert asyncio.run(scenario()) < SOON_SECONDS


def test_of_several_servers_one_that_is_replaced_at_another_address_is_called_soon() -> None:
    async def until_called(store: AsyncRuntimeStoreClient, script: Script) -> None:
        async with asyncio.timeout(SOON_SECONDS):
            while not script.requests["LoadRuntimeState"]:
                await store.load_runtime_state(RUNTIME)
                await asyncio.sleep(0.01)

    async def scenario() -> None:
        port, addresses = _free_port(), ["127.0.0.1", "127.0.0.2"]
        stays, goes, comes = Script(), Script(), Script()
        with name_server(NAME, addresses) as names:
            async with (
                AsyncRuntimeStoreClient(f"dns://{names}/{NAME}:{port}") as store,
                scripted_store(stays, f"127.0.0.1:{port}"),
            ):
                async with scripted_store(goes, f"127.0.0.2:{port}"):
                    await until_called(store, goes)
                    await until_called(store, stays)
                async with scripted_store(comes, f"127.0.0.3:{port}"):
                    addresses[:] = ["127.0.0.1", "127.0.0.3"]
                    await until_called(store, comes)

    asyncio.run(scenario())


def test_an_address_that_is_nobodys_and_refuses_nothing_does_not_hide_where_the_server_is() -> None:
    async def scenario() -> float:
        port, addresses = _free_port(), ["127.0.0.1"]
        with name_server(NAME, addresses) as names:
            async with AsyncRuntimeStoreClient(f"dns://{names}/{NAME}:{port}") as store:
                silent = listening(_silent, port=port)
                async with silent, scripted_store(Script(), f"127.0.0.2:{port}"):
                    loading: Any = asyncio.ensure_future(store.load_runtime_state(RUNTIME))
                    await asyncio.sleep(0.5)  # it is at the old address, and the name says another one from now on
                    addresses[:] = ["127.0.0.2"]
                    started = time.monotonic()
                    await loading
                    return time.monotonic() - started

    assert asyncio.run(scenario()) < SOON_SECONDS


async def _silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    del writer
    await reader.read()  # until the client gives up
