"""A token is taken over a current TLS, from this machine, or where `--insecure` says that others protect the way."""

from __future__ import annotations

import asyncio
import socket
import ssl
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio
import pytest

from runtimestore_server.access import exposure
from runtimestore_server.access.peers import is_carried_safely, is_this_machine
from support.checkers.refusals import refused
from support.servers.access import access_file, bearer, ca, credentials, entry, new_token, server_files
from support.servers.server import in_process

if TYPE_CHECKING:
    from pathlib import Path

WAIT_SECONDS = 20
INFO = "/runtimestore.v1.RuntimeStoreAdmin/GetServerInfo"

CASES = [
    # TLS, --insecure, the way the call comes, whether its token is taken
    (False, False, "loopback", True),
    (False, False, "unix", True),
    (False, False, "network", False),
    (False, True, "loopback", True),
    (False, True, "unix", True),
    (False, True, "network", True),
    (True, False, "loopback", True),
    (True, False, "unix", True),
    (True, False, "network", True),
    (True, True, "network", True),
]


def own_address() -> str:
    """An address of this machine that is not loopback: what comes to it might as well come from elsewhere."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # nothing is sent
        except OSError:
            pytest.skip("this machine has no address but loopback")
        return str(probe.getsockname()[0])


@pytest.mark.parametrize(("tls", "insecure", "way", "taken"), CASES)
async def test_a_token_without_tls_is_taken_by_the_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, tls: bool, insecure: bool, way: str, taken: bool
) -> None:
    path = access_file(tmp_path / "access.toml", [entry("agents", token := new_token())])
    files: Any = server_files(tmp_path) if tls else {}
    listen = {"loopback": "127.0.0.1:0", "unix": f"unix:{tmp_path}/s", "network": f"{own_address()}:0"}[way]
    if way == "network":  # as if somebody led a port of loopback to the network: else serve would not start
        monkeypatch.setattr(exposure, "is_local", lambda _listen: True)
    async with in_process("memory:", listen=listen, access_file=path, insecure=insecure, **files) as app:
        options = [("grpc.ssl_target_name_override", "localhost")]
        channel = (
            grpc.aio.secure_channel(app.address, credentials(), options)
            if tls
            else grpc.aio.insecure_channel(app.address)
        )
        async with channel:
            info: Any = channel.unary_unary(INFO)
            check: Any = channel.unary_unary("/grpc.health.v1.Health/Check")
            assert await check(b"", timeout=WAIT_SECONDS)
            if taken:
                await info(b"", metadata=bearer(token), timeout=WAIT_SECONDS)
                return
            known = await refused(info(b"", metadata=bearer(token), timeout=WAIT_SECONDS))
            unknown = await refused(info(b"", metadata=bearer(new_token()), timeout=WAIT_SECONDS))
            assert (known.reason, known.message) == (unknown.reason, unknown.message)
            assert (known.code, known.reason) == (grpc.StatusCode.UNAUTHENTICATED, "UNAUTHENTICATED")
            assert "TLS" in known.message
            assert app.authorization is not None
            assert app.authorization.failures_by_kind == {"plaintext": 2}


@pytest.mark.parametrize(
    ("peer", "own"),
    [
        ("ipv4:127.0.0.1:4711", True),
        ("ipv4:127.9.9.9:4711", True),
        ("ipv6:%5B::1%5D:4711", True),
        ("ipv6:[::1]:4711", True),
        ("ipv6:%5B::ffff:127.0.0.1%5D:4711", True),
        ("unix:", True),
        ("unix:/run/store.sock", True),
        ("unix-abstract:store", True),
        ("ipv4:10.0.0.7:4711", False),
        ("ipv4:0.0.0.0:4711", False),
        ("ipv6:%5Bfe80::1%25eth0%5D:4711", False),
        ("ipv6:%5B::ffff:10.0.0.7%5D:4711", False),
        ("ipv6:%5B::%5D:4711", False),
        ("vsock:2:4711", False),
        ("localhost:4711", False),
        ("unknown", False),
        ("", False),
    ],
)
def test_only_loopback_and_unix_sockets_are_ways_that_nobody_else_reads(peer: str, own: bool) -> None:
    class Call:
        def peer(self) -> str:
            return peer

        def auth_context(self) -> dict[str, list[bytes]]:
            return {}  # a transport that says nothing of itself

    assert is_this_machine(peer) is own
    assert is_carried_safely(Call()) is own


def test_localhost_that_a_name_server_leads_elsewhere_is_not_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    def elsewhere(*_: Any, **__: Any) -> list[Any]:
        return [
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 0)),
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("192.0.2.7", 0)),
        ]

    assert exposure.is_local("localhost:1")
    monkeypatch.setattr(socket, "getaddrinfo", elsewhere)
    assert not exposure.is_local("localhost:1")


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1])
async def test_what_is_older_than_tls_1_2_is_not_spoken(tmp_path: Path, version: ssl.TLSVersion) -> None:
    files: Any = server_files(tmp_path)
    context = ssl.create_default_context(cadata=ca().cert_pem.bytes().decode())
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.set_alpn_protocols(["h2"])
    async with in_process("memory:", **files) as app:
        host, _, port = app.address.rpartition(":")
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_2
        _reader, writer = await asyncio.open_connection(host, int(port), ssl=context)
        writer.close()
        with pytest.warns(DeprecationWarning, match="deprecated"):  # that is why
            context.minimum_version = context.maximum_version = version
        with pytest.raises(ConnectionError):  # the server hangs up; our own side would raise an SSLError
            await asyncio.open_connection(host, int(port), ssl=context)
