"""What can be no channel, token or certificate is refused by its name when a client is made of it."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest

import runtimestore
from runtimestore import AsyncRuntimeStoreClient, RuntimeStoreClient

Client = Any
"""One client or the other; what is wrong on purpose has no type."""


@pytest.mark.parametrize("client", [AsyncRuntimeStoreClient, RuntimeStoreClient])
def test_what_is_no_channel_of_the_client_s_own_kind_is_refused_when_the_client_is_made(client: Client) -> None:
    async def scenario() -> None:
        kinds = {AsyncRuntimeStoreClient: "grpc.aio.Channel", RuntimeStoreClient: "grpc.Channel"}
        async with grpc.aio.insecure_channel("127.0.0.1:1") as one:
            with grpc.insecure_channel("127.0.0.1:1") as other:
                for wrong in (other if client is AsyncRuntimeStoreClient else one, "127.0.0.1:1", 7):
                    with pytest.raises(TypeError, match=f"^channel must be a {kinds[client]}, not "):
                        client(channel=wrong)

    asyncio.run(scenario())


@pytest.mark.parametrize("client", [AsyncRuntimeStoreClient, RuntimeStoreClient])
def test_what_is_no_token_is_refused_when_the_client_is_made(client: Client) -> None:
    for wrong in (7, b"rst_token"):
        with pytest.raises(TypeError, match=r"^token must be a str, or a function that returns one, not "):
            client(token=wrong)


def test_what_a_token_function_returns_is_refused_by_its_name() -> None:
    token: Any = lambda: None  # noqa: E731  (a wrong function, in one place)
    with RuntimeStoreClient("127.0.0.1:1", token=token) as client, pytest.raises(TypeError, match=r"^token must be"):
        client.get_server_info()


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"ca": 7}, "ca must be a path, or bytes in PEM, not int"),
        ({"certificate": b"", "key": ["k.pem"]}, "key must be a path, or bytes in PEM, not list"),
        ({"server_name": b"store"}, "server_name must be a str, not bytes"),
    ],
)
def test_what_is_no_file_or_name_is_refused_when_tls_is_described(files: Any, said: str) -> None:
    with pytest.raises(TypeError, match=f"^{said}"):
        runtimestore.Tls(**files)
