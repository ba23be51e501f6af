"""A client that knows several servers: each call takes the next one that answers."""

from __future__ import annotations

import asyncio
import signal
import socket
from typing import TYPE_CHECKING

import pytest

from runtimestore import AsyncRuntimeStoreClient, RuntimeStoreClient, _channel
from runtimestore._channel import target_of
from support.servers.name_server import name_server
from support.servers.scripted_store import Script, scripted_store
from support.servers.server_process import ServerProcess

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

RUNTIME = "rt:session:one"
WAIT_SECONDS = 20


@pytest.mark.parametrize(
    ("address", "target"),
    [
        ("store:50051", "store:50051"),
        ("unix:/run/s", "unix:/run/s"),
        ("dns:///store:50051", "dns:///store:50051"),
        ("dns://10.0.0.53/store:50051", "dns://10.0.0.53/store:50051"),
        ("dns:store:50051", "dns:store:50051"),
        ("[::1]:50051", "[::1]:50051"),
        ("ipv4:127.0.0.1:1,10.0.0.7:2", "ipv4:127.0.0.1:1,10.0.0.7:2"),
        ("ipv6:[::1]:1", "ipv6:[::1]:1"),
        ("ipv6:%5B::1%5D:1", "ipv6:%5B::1%5D:1"),
        ("unix:a socket", "unix:a socket"),
        (["store:50051"], "store:50051"),
        (("127.0.0.1:1", "10.0.0.7:2"), "ipv4:127.0.0.1:1,10.0.0.7:2"),
        (["[::1]:1", "[fd00::7]:2"], "ipv6:[::1]:1,[fd00::7]:2"),
    ],
)
def test_one_address_is_a_target_as_it_is_and_several_are_one_list(address: str | Sequence[str], target: str) -> None:
    assert target_of(address) == target


@pytest.mark.parametrize(
    ("address", "cure"),
    [
        ("", "HOST:PORT"),
        ([], "at least one"),
        (["127.0.0.1:1", "[::1]:2"], "one kind"),
        (["store-1:1", "store-2:1"], "dns:///"),
        (["127.0.0.1", "127.0.0.2:1"], "with a port"),
        (["127.0.0.1:1", "unix:/run/s"], "IP addresses"),
        (["::1:1", "[::1]:2"], "IP addresses"),
        ("ipv4:127.0.0.1", "with a port"),
        ("ipv4:127.0.0.1:1,store:2", "with a port"),
        ("ipv4:", "with a port"),
        ("ipv4:[::1]:1", "ipv6:[fd00::7]:50051"),
        ("ipv6:127.0.0.1:1", "ipv4:10.0.0.7:50051"),
        ("unix:", "unix:/run"),
        ("unix:///", "unix:/run"),
        ("unix-abstract:", "unix:/run"),
        (" 127.0.0.1:50051", "HOST:PORT"),
        ("127.0.0.1 :50051", "HOST:PORT"),
        ("store\n:50051", "HOST:PORT"),
        ("dns:// /store:50051", "HOST:PORT"),
        (["127.0.0.1:1", "127.0.0.2:65536"], "with a port"),
        ("127.0.0.1", "HOST:PORT"),
        ("[::1]", "HOST:PORT"),
        ("::1:50051", "[::1]:50051"),
        ("store:65536", "HOST:PORT"),
        ("store:http", "HOST:PORT"),
        (":50051", "HOST:PORT"),
        ("http://store:50051", "dns:///NAME:PORT"),
        ("dns:///store", "dns:///NAME:PORT"),
        ("dns://store:50051", "dns:///NAME:PORT"),
        ("127.0.0.1:1,127.0.0.1:2", "give a list"),
        (["store"], "HOST:PORT"),
    ],
)
@pytest.mark.parametrize("client", [AsyncRuntimeStoreClient, RuntimeStoreClient])
def test_addresses_that_cannot_be_one_target_are_refused_at_once_and_the_cure_is_told(
    client: type[AsyncRuntimeStoreClient | RuntimeStoreClient], address: str | Sequence[str], cure: str
) -> None:
    with pytest.raises(ValueError, match="address") as found:
        client(address)
    assert cure in str(found.value)


@pytest.mark.parametrize("client", [AsyncRuntimeStoreClient, RuntimeStoreClient])
def test_a_client_keeps_to_the_addresses_it_was_given_whatever_becomes_of_the_list(
    client: type[AsyncRuntimeStoreClient | RuntimeStoreClient],
) -> None:
    addresses = ["127.0.0.1:1", "127.0.0.1:2"]
    found = client(addresses)
    addresses.clear()
    assert "ipv4:127.0.0.1:1,127.0.0.1:2" in repr(found)


def _free_address() -> str:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{found.getsockname()[1]}"


def _asked(script: Script) -> int:
    return len(script.requests["LoadRuntimeState"])


async def _until_asked(store: AsyncRuntimeStoreClient, script: Script) -> None:
    asked = _asked(script)
    async with asyncio.timeout(WAIT_SECONDS):
        while _asked(script) == asked:
            await store.load_runtime_state(RUNTIME)


def test_calls_are_spread_over_all_servers_and_go_on_while_one_is_away() -> None:
    async def scenario() -> None:
        one, two = _free_address(), _free_address()
        first, second = Script(), Script()
        async with scripted_store(first, one), AsyncRuntimeStoreClient([one, two]) as store:
            async with scripted_store(second, two):
                await _until_asked(store, first)
                await _until_asked(store, second)
                before = _asked(first), _asked(second)
                for _ in range(20):
                    await store.load_runtime_state(RUNTIME)
                spread = _asked(first) - before[0], _asked(second) - before[1]
                assert spread == (10, 10)
            for _ in range(20):
                await store.load_runtime_state(RUNTIME)  # the second one is away
            async with scripted_store(second, two):
                await _until_asked(store, second)

    asyncio.run(scenario())


def _until_both_are_asked(address: str | list[str], first: Script, second: Script) -> None:
    with RuntimeStoreClient(address) as store:
        for _ in range(200):
            store.load_runtime_state(RUNTIME)
            if _asked(first) and _asked(second):
                return


def test_a_list_of_servers_is_balanced_by_the_client_for_threads_too() -> None:
    async def scenario() -> None:
        one, two = _free_address(), _free_address()
        first, second = Script(), Script()
        async with scripted_store(first, one), scripted_store(second, two):
            await asyncio.to_thread(_until_both_are_asked, [one, two], first, second)
        assert _asked(first)
        assert _asked(second)

    asyncio.run(scenario())


@pytest.mark.slow
@pytest.mark.parametrize("client", [AsyncRuntimeStoreClient, RuntimeStoreClient])
def test_calls_to_a_server_that_hangs_go_on_at_another_one(
    client: type[AsyncRuntimeStoreClient | RuntimeStoreClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_channel, "KEEPALIVE_TIME_MS", 300)
    monkeypatch.setattr(_channel, "KEEPALIVE_TIMEOUT_MS", 300)

    async def scenario(addresses: list[str], hang: Callable[[], None]) -> None:
        if client is AsyncRuntimeStoreClient:
            async with AsyncRuntimeStoreClient(addresses) as store:
                await asyncio.gather(*(store.load_runtime_state(RUNTIME) for _ in range(10)))
                hang()
                await asyncio.gather(*(store.persist_auth_oauth_flow_snapshot(b"x") for _ in range(10)))
                for _ in range(10):
                    assert await store.load_runtime_state(RUNTIME) is None
        else:
            await asyncio.to_thread(_call_while_one_hangs, addresses, hang)

    with ServerProcess("memory:") as one, ServerProcess("memory:", exit_code=-signal.SIGKILL) as two:
        asyncio.run(scenario([one.address, two.address], lambda: two.send_signal(signal.SIGSTOP)))
        two.kill()


def _call_while_one_hangs(addresses: list[str], hang: Callable[[], None]) -> None:
    with RuntimeStoreClient(addresses) as store:
        for _ in range(10):
            store.load_runtime_state(RUNTIME)
        hang()
        for _ in range(10):
            store.persist_auth_oauth_flow_snapshot(b"x")


@pytest.mark.parametrize("client", [AsyncRuntimeStoreClient, RuntimeStoreClient])
def test_a_name_with_several_addresses_is_balanced_over_all_of_them(
    client: type[AsyncRuntimeStoreClient | RuntimeStoreClient],
) -> None:
    async def scenario() -> None:
        one = _free_address()
        port = one.rpartition(":")[2]
        first, second = Script(), Script()
        with name_server("store.test", ["127.0.0.1", "127.0.0.2"]) as names:
            address = f"dns://{names}/store.test:{port}"
            async with scripted_store(first, one), scripted_store(second, f"127.0.0.2:{port}"):
                if client is AsyncRuntimeStoreClient:
                    async with AsyncRuntimeStoreClient(address) as store:
                        await _until_asked(store, first)
                        await _until_asked(store, second)
                else:
                    await asyncio.to_thread(_until_both_are_asked, address, first, second)
        assert _asked(first)
        assert _asked(second)

    asyncio.run(scenario())
