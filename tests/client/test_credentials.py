"""TLS and tokens of the clients, each for asyncio and for threads."""

from __future__ import annotations

import asyncio
import inspect
import os
import socket
from pathlib import Path
from typing import Any

import grpc
import pytest
import trustme

from runtimestore import (
    AccessNotAllowed,
    AsyncRuntimeStoreClient,
    CallFailed,
    RealmNotAllowed,
    RetryPolicy,
    RuntimeState,
    RuntimeStoreClient,
    Tls,
    Unauthenticated,
)
from support.servers.access import access_file, ca, entry, new_token, put, server_files
from support.servers.server import in_process

CLIENTS = pytest.mark.parametrize("client", [AsyncRuntimeStoreClient, RuntimeStoreClient])
ONCE = RetryPolicy(max_attempts=1)


async def called(store: Any, method: str, *arguments: Any, **options: Any) -> Any:
    """The answer to a method of either client."""
    if isinstance(store, RuntimeStoreClient):
        return await asyncio.to_thread(getattr(store, method), *arguments, **options)
    answer = getattr(store, method)(*arguments, **options)
    return await answer if inspect.isawaitable(answer) else answer


@CLIENTS
async def test_a_client_is_known_by_its_certificate_or_its_token_and_refused_by_class(
    tmp_path: Path, client: Any
) -> None:
    reader, other = new_token(), new_token()
    entries = [
        entry("worker", certificate_sans=["worker.test"]),
        entry("reader", reader, access="read"),
        entry("other", other, realms=["team-a"]),
    ]
    files: Any = server_files(tmp_path, client_ca=True)
    made = ca().issue_cert("worker.test")
    put(tmp_path / "worker.pem", b"".join(blob.bytes() for blob in made.cert_chain_pems))
    tls = Tls(
        ca=ca().cert_pem.bytes(),
        certificate=str(tmp_path / "worker.pem"),
        key=made.private_key_pem.bytes(),
        server_name="localhost",
    )
    refusals = {reader: AccessNotAllowed, other: RealmNotAllowed, new_token(): Unauthenticated}
    async with in_process("memory:", access_file=access_file(tmp_path / "a.toml", entries), **files) as app:
        port = app.address.rpartition(":")[2]
        store = client([app.address, f"127.0.0.1:{port}"], tls=tls)
        await called(store, "commit_machine_lifecycle", "rt:session:x", RuntimeState.IDLE)
        assert await called(store, "load_input_states", "rt:session:x") == []  # a stream
        await called(store, "close")
        for token, refusal in refusals.items():
            store = client(app.address, tls=tls, token=token)
            with pytest.raises(refusal):
                await called(store, "commit_machine_lifecycle", "rt:session:x", RuntimeState.IDLE)
            await called(store, "close")


@CLIENTS
async def test_a_token_that_is_a_function_is_asked_before_each_call(tmp_path: Path, client: Any) -> None:
    first, second = new_token(), new_token()
    path = access_file(tmp_path / "a.toml", [entry("x", first)])
    now = [first]
    async with in_process("memory:", access_file=path) as app:
        store = client(app.address, token=lambda: now[-1])
        await called(store, "get_server_info")
        access_file(path, [entry("x", second)])
        with pytest.raises(Unauthenticated):
            await called(store, "load_input_states", "rt:session:x")
        now.append(second)
        assert await called(store, "load_input_states", "rt:session:x") == []
        await called(store, "close")


@CLIENTS
async def test_a_client_trusts_no_server_that_its_ca_did_not_sign(tmp_path: Path, client: Any) -> None:
    files: Any = server_files(tmp_path)
    async with in_process("memory:", **files) as app:
        for tls in (Tls(ca=trustme.CA().cert_pem.bytes()), Tls(), Tls(ca=ca().cert_pem.bytes(), server_name="other")):
            store = client(app.address, tls=tls, retry=ONCE)
            with pytest.raises(CallFailed):
                await called(store, "get_server_info", timeout_seconds=5)
            await called(store, "close")


@CLIENTS
@pytest.mark.parametrize(
    ("address", "local"),
    [
        ("127.0.0.1:1", True),
        ("[::1]:1", True),
        ("localhost:1", True),
        ("dns:///localhost:1", True),
        ("unix:/run/x", True),
        (["127.0.0.1:1", "127.0.0.2:1"], True),
        (["[::1]:1"], True),
        ("store:1", False),
        ("dns:///store:1", False),
        ("10.0.0.7:1", False),
        (["127.0.0.1:1", "10.0.0.7:1"], False),
        ("localhost.example:1", False),
        ("dns:localhost:1", True),
        ("dns:///127.0.0.1:1", True),
        ("dns:///[::1]:1", True),
        ("ipv4:127.0.0.1:1,127.0.0.2:1", True),
        ("ipv6:[::1]:1", True),
        ("unix-abstract:x", True),
        ("dns://8.8.8.8/localhost:1", False),
        ("dns://8.8.8.8/127.0.0.1:1", False),
        ("dns://127.0.0.1:5353/localhost:1", False),
        ("vsock:2:1", False),
        ("xds:///localhost:1", False),
        ("xds:127.0.0.1:1", False),
        ("ipv4:127.0.0.1:1,10.0.0.7:1", False),
        ("ipv4://8.8.8.8/127.0.0.1:1", False),
        ("ipv6:[::ffff:10.0.0.7]:1", False),
        ("ip6-localhost:1", False),
        ("0.0.0.0:1", False),
        ("[::]:1", False),
        ("127.0.0.1.example:1", False),
        ("localhost.:1", False),
    ],
)
def test_a_token_goes_to_another_machine_over_tls_only(client: Any, address: Any, local: bool) -> None:
    for token in (new_token(), new_token):
        client(address, token=token, tls=Tls())
        if local:
            client(address, token=token)
        else:
            with pytest.raises(ValueError, match="token would travel"):
                client(address, token=token)


def test_localhost_that_leads_elsewhere_gets_no_token_in_the_open(monkeypatch: pytest.MonkeyPatch) -> None:
    addresses = ["127.0.0.1", "::1"]

    def resolved(*_: Any, **__: Any) -> list[Any]:
        return [(0, 0, 0, "", (address, 0)) for address in addresses]

    monkeypatch.setattr(socket, "getaddrinfo", resolved)
    RuntimeStoreClient("localhost:1", token=new_token())
    for elsewhere in (["10.0.0.7"], ["127.0.0.1", "10.0.0.7"], []):
        addresses[:] = elsewhere
        with pytest.raises(ValueError, match="token would travel"):
            RuntimeStoreClient("localhost:1", token=new_token())


@CLIENTS
@pytest.mark.parametrize("given", ["ca", "certificate", "key"])
async def test_a_pipe_or_a_device_in_the_place_of_a_file_holds_no_client_up(
    tmp_path: Path, client: Any, given: str
) -> None:
    (tmp_path / "real.pem").write_bytes(b"")
    os.mkfifo(tmp_path / "pipe")
    for found in (tmp_path / "pipe", Path("/dev/zero")):
        files: Any = {"certificate": tmp_path / "real.pem", "key": tmp_path / "real.pem"} | {given: found}
        tls = Tls(**files)

        async def connected(tls: Tls = tls) -> None:
            store = client("127.0.0.1:1", tls=tls)  # the one for threads connects at once
            await called(store, "get_server_info")

        with pytest.raises(OSError, match=f"no regular file.*{found.name}"):
            await connected()


def test_what_cannot_be_meant_is_told_where_the_client_is_made() -> None:
    with pytest.raises(ValueError, match="belong together"):
        Tls(certificate="c.pem")
    with grpc.insecure_channel("127.0.0.1:1") as channel, pytest.raises(ValueError, match="tls is of a channel"):
        RuntimeStoreClient(channel=channel, tls=Tls())


@pytest.mark.parametrize("name", ["ca", "key"])
def test_the_text_of_a_key_in_the_place_of_a_path_is_not_quoted(name: str) -> None:
    text = "-----BEGIN PRIVATE KEY-----\nsecret\n-----END PRIVATE KEY-----\n"
    with pytest.raises(ValueError, match=f"{name} is the text of a PEM") as refused:
        Tls(ca=text if name == "ca" else None, certificate=b"", key=text if name == "key" else b"")
    assert "secret" not in str(refused.value)
    assert "secret" not in repr(Tls(ca="ca.pem", certificate=b"", key=text.encode()))
