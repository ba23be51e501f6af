"""A proxy in the environment is meant for the web: it comes between nobody and a store."""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING

import pytest

from runtimestore import AsyncRuntimeStoreClient, CallFailed, RetryPolicy, RuntimeStoreClient
from support.servers.command import run, serving
from support.servers.scripted_store import Script, scripted_store

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LOWER = ("http_proxy", "https_proxy", "grpc_proxy", "all_proxy")
VARIABLES = (*LOWER, *(name.upper() for name in LOWER))
EXCEPTIONS = ("no_proxy", "NO_PROXY", "no_grpc_proxy")
RUNTIME = "rt:session:one"


@pytest.fixture
def proxied() -> Iterator[dict[str, str]]:
    """The variables that name a proxy, for everything; whoever comes to it hears nothing, and the test fails."""
    with socket.create_server(("127.0.0.1", 0)) as proxy:
        address = f"http://127.0.0.1:{proxy.getsockname()[1]}"
        yield dict.fromkeys(VARIABLES, address) | dict.fromkeys(EXCEPTIONS, "")
        proxy.setblocking(False)
        with pytest.raises(BlockingIOError):
            proxy.accept()


@pytest.mark.parametrize("listen", ["127.0.0.1:0", "[::1]:0", "unix:{folder}/socket"])
def test_health_asks_the_server_itself_whatever_proxy_the_environment_names(
    tmp_path: Path, proxied: dict[str, str], listen: str
) -> None:
    listen = listen.format(folder=tmp_path)
    with serving("--listen", listen, "--database-url", "memory:", cwd=tmp_path, extra=proxied) as server:
        done = run("health", "--address", server.address, cwd=tmp_path, extra=proxied)
        assert (done.returncode, done.stdout) == (0, "SERVING\n")
        if not listen.startswith("unix:"):
            by_name = "localhost:" + server.address.rpartition(":")[2]
            assert run("health", "--address", by_name, cwd=tmp_path, extra=proxied).returncode == 0
    assert run("health", "--address", "store.invalid:1", cwd=tmp_path, extra=proxied).returncode == 1


@pytest.mark.parametrize("client", [AsyncRuntimeStoreClient, RuntimeStoreClient])
def test_a_client_calls_the_server_itself_whatever_proxy_the_environment_names(
    monkeypatch: pytest.MonkeyPatch, proxied: dict[str, str], client: type[AsyncRuntimeStoreClient | RuntimeStoreClient]
) -> None:
    for name, value in proxied.items():
        monkeypatch.setenv(name, value)

    async def scenario() -> None:
        async with scripted_store(Script()) as address:
            port = address.rpartition(":")[2]
            for reached in (address, f"localhost:{port}", f"dns:///localhost:{port}", [address, "127.0.0.1:1"]):
                await _load(client, reached)
            with pytest.raises(CallFailed):
                await _load(client, "store.invalid:1")

    asyncio.run(scenario())


async def _load(client: type[AsyncRuntimeStoreClient | RuntimeStoreClient], address: str | list[str]) -> None:
    once = RetryPolicy(max_attempts=1)
    if client is AsyncRuntimeStoreClient:
        async with AsyncRuntimeStoreClient(address, timeout_seconds=10, retry=once) as store:
            assert await store.load_runtime_state(RUNTIME) is None
    else:
        with RuntimeStoreClient(address, timeout_seconds=10, retry=once) as of_threads:
            assert await asyncio.to_thread(of_threads.load_runtime_state, RUNTIME) is None
