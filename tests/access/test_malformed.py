"""Credentials in every shape and place where they do not belong, written by hand: nobody comes in by one of them."""

from __future__ import annotations

import asyncio
import base64
import contextlib
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import grpc.aio
import pytest
import trustme

from support.checkers.scraping import LISTEN, metrics_address, value
from support.faults import http2
from support.servers.access import access_file, bearer, ca, credentials, entry, new_token, server_files
from support.servers.server import ServerProcess, in_process

if TYPE_CHECKING:
    from pathlib import Path

WAIT_SECONDS = 20
INFO = b"/runtimestore.v1.RuntimeStoreAdmin/GetServerInfo"
DATA, HEADERS, RST_STREAM, GOAWAY = 0, 1, 3, 7
END_STREAM, END_HEADERS = 1, 4
EMPTY_MESSAGE = bytes(5)


def shapes(token: str) -> dict[str, tuple[bytes, str, list[tuple[bytes, bytes]]]]:
    """Calls with a good token where or as it is none: the path, the authority and more headers of each."""
    good = f"Bearer {token}".encode()
    as_it_is: dict[str, list[tuple[bytes, bytes]]] = {
        "twice": [(b"authorization", good), (b"authorization", good)],
        "twice, one of them wrong": [(b"authorization", good), (b"authorization", b"Basic eDp5")],
        "a byte that is no ASCII": [(b"authorization", good + b"\xff")],
        "a letter that is no ASCII": [(b"authorization", good + "ü".encode())],
        "a tab": [(b"authorization", good.replace(b" ", b"\t"))],
        "an end of line": [(b"authorization", good + b"\n")],
        "a NUL": [(b"authorization", good + b"\x00")],
        "seven kilobytes": [(b"authorization", good + b"x" * 7_000)],
        "ten kilobytes": [(b"authorization", good + b"x" * 10_000)],
        "in binary": [(b"authorization-bin", base64.b64encode(good))],
        "in capitals": [(b"Authorization", good)],
        "for a proxy": [(b"proxy-authorization", good)],
        "as a cookie": [(b"cookie", b"authorization=" + good)],
        "as another header": [(b"x-token", token.encode()), (b"token", token.encode())],
        "as the metadata of another": [(b"grpc-metadata-authorization", good)],
    }
    found = {name: (INFO, "store", more) for name, more in as_it_is.items()}
    found["in the path"] = (INFO + b"?access_token=" + token.encode(), "store", [])
    found["in the path's name"] = (b"/" + token.encode() + INFO, "store", [])
    found["in the authority"] = (INFO, f"{token}@store", [])
    return found


async def call(address: str, path: bytes, authority: str, more: list[tuple[bytes, bytes]]) -> None:
    """One call on a connection of its own, to its end or that of the connection."""
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    headers = http2.call_headers(authority, path, *more)
    writer.write(http2.preface() + http2.frame(HEADERS, END_HEADERS, 1, headers))
    writer.write(http2.frame(DATA, END_STREAM, 1, EMPTY_MESSAGE))
    with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
        async with asyncio.timeout(WAIT_SECONDS):
            while True:
                frame = await http2.read_frame(reader)
                if frame.kind == http2.SETTINGS and not frame.flags & http2.ACK:
                    writer.write(http2.frame(http2.SETTINGS, http2.ACK, 0, b""))
                if (frame.kind == HEADERS and frame.flags & END_STREAM) or frame.kind in (RST_STREAM, GOAWAY):
                    break
    writer.close()


async def test_a_good_token_in_a_shape_or_a_place_that_is_none_lets_nobody_in_and_comes_into_no_log(
    tmp_path: Path,
) -> None:
    path = access_file(tmp_path / "access.toml", [entry("agents", token := new_token(), access="admin")])
    with ServerProcess("memory:", access_file=str(path), log_level="debug", **LISTEN) as server:
        metrics = metrics_address(server)

        async def served() -> float:
            return await asyncio.to_thread(value, metrics, "runtimestore_calls_total", method=INFO.decode(), code="OK")

        await call(server.address, INFO, "store", [(b"authorization", f"Bearer {token}".encode())])
        assert await served() == 1  # so it is written as it should be
        for shape, (called, authority, more) in shapes(token).items():
            await call(server.address, called, authority, more)
            assert await served() == 1, shape
        async with grpc.aio.insecure_channel(server.address) as found:
            info: Any = found.unary_unary(INFO.decode())
            await info(b"", metadata=bearer(token), timeout=WAIT_SECONDS)
        assert await served() == 2
    assert token not in server.log
    assert base64.b64encode(token.encode()).decode().rstrip("=")[:40] not in server.log


@pytest.mark.parametrize("kind", ["wildcard", "expired", "no name", "another's CA"])
async def test_a_certificate_is_nobodys_unless_one_of_its_names_is_listed_letter_by_letter(
    tmp_path: Path, kind: str
) -> None:
    rules = [
        entry("worker", certificate_sans=["worker.example.org"]),
        entry("starred", certificate_sans=["*.example.net"], access="read"),
    ]
    path = access_file(tmp_path / "access.toml", rules)
    files: Any = server_files(tmp_path, client_ca=True)
    long_ago = datetime(2020, 1, 1, tzinfo=UTC)
    shown = {
        "wildcard": lambda: [ca().issue_cert("*.example.org"), ca().issue_cert("a.example.net")],
        "expired": lambda: [ca().issue_cert("worker.example.org", not_after=long_ago)],
        "no name": lambda: [ca().issue_cert("other.example.org", common_name="worker.example.org")],
        "another's CA": lambda: [trustme.CA().issue_cert("worker.example.org")],
    }[kind]()
    async with in_process("memory:", access_file=path, **files) as app:
        for certificate in (ca().issue_cert("worker.example.org"), *shown):
            async with grpc.aio.secure_channel(app.address, credentials(certificate)) as channel:
                info: Any = channel.unary_unary(INFO.decode())
                if certificate not in shown:
                    await info(b"", timeout=WAIT_SECONDS)
                    continue
                with pytest.raises(grpc.aio.AioRpcError) as failed:
                    await info(b"", timeout=5)
                # One that TLS does not take gets no further than the handshake.
                refused_by_tls = kind in ("expired", "another's CA")
                assert failed.value.code().name == ("UNAVAILABLE" if refused_by_tls else "UNAUTHENTICATED")
