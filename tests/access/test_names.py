"""Who is known by which name of a client's certificate, and who by none."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import grpc.aio
import pytest

from runtimestore import AsyncRuntimeStoreClient, RetryPolicy, Tls, Unauthenticated
from support.generators.certificates import issued, root
from support.servers.access import access_file, entry, put
from support.servers.server import in_process

if TYPE_CHECKING:
    from pathlib import Path

URI = "spiffe://example.org/worker-7"
LISTED = {
    "uri": [URI],
    "dns": ["agents.test"],
    "address": ["10.1.2.3", "fd00::1"],
    "email": ["agents@example.org"],
    "wildcard": ["*.wild.test"],
    "urn": ["urn:uuid:6ba7b810-9dad-11d1-80b4-00c04fd430c8"],
}
KNOWN = {
    (URI,): True,
    ("agents.test",): True,
    ("10.1.2.3",): True,
    ("fd00::1",): True,
    ("agents@example.org",): True,
    ("*.wild.test",): True,
    (LISTED["urn"][0],): True,
    ("other.test", "spiffe://example.org/other", "agents.test", "10.9.9.9"): True,
    ("agents.test", "agents.test"): True,
    ("10.1.2.3", "fd00::1"): True,  # both of one principal
    # Names of two principals are nobody's.
    ("agents.test", URI): False,
    # What stands in the file is compared whole, and is no pattern.
    ("one.wild.test",): False,
    ("*.test",): False,
    ("AGENTS.TEST",): False,
    ("agents.test.",): False,
    ("spiffe://example.org/worker-70",): False,
    ("spiffe://example.org/worker-7/",): False,
    # One kind of name is not taken for another.
    ("uri=agents.test",): False,
    ("email=agents.test",): False,
    (f"dns={URI}",): False,
    ("dns=10.1.2.3",): False,
    ("uri=fd00::1",): False,
    ("dns=agents@example.org",): False,
    ("uri=agents@example.org",): False,
    (): False,
}


async def test_whoever_shows_a_certificate_is_known_by_its_names_alone(tmp_path: Path) -> None:
    pair = issued(root())
    files = {"tls_cert": pair.pem, "tls_key": pair.key_pem, "tls_client_ca": root().pem}
    for name, content in files.items():
        put(tmp_path / f"{name}.pem", content)
    entries = [entry(name, certificate_sans=sans) for name, sans in LISTED.items()]
    settings = {name: tmp_path / f"{name}.pem" for name in files}
    rules = access_file(tmp_path / "access.toml", entries)
    found = {}
    async with in_process("memory:", access_file=rules, **settings) as app:
        for names in KNOWN:
            shown = issued(root(), names=names, common_name="agents.test")  # which is no SAN, and so nobody's
            tls = Tls(ca=root().pem, certificate=shown.pem, key=shown.key_pem)
            async with AsyncRuntimeStoreClient(app.address, tls=tls, retry=RetryPolicy(max_attempts=1)) as client:
                try:
                    await client.get_server_info()
                except Unauthenticated:
                    found[names] = False
                else:
                    found[names] = True
    assert found == KNOWN


async def test_whoever_has_a_certificate_of_another_ca_or_one_that_has_ended_does_not_connect(tmp_path: Path) -> None:
    pair = issued(root())
    files = {"tls_cert": pair.pem, "tls_key": pair.key_pem, "tls_client_ca": root().pem}
    for name, content in files.items():
        put(tmp_path / f"{name}.pem", content)
    settings = {name: tmp_path / f"{name}.pem" for name in files}
    past = timedelta(days=-2), timedelta(days=-1)
    other_ca = issued(names=(), common_name="root", is_ca=True)
    async with in_process("memory:", **settings) as app:
        for shown in (
            issued(other_ca, names=("agents.test",)),
            issued(names=("agents.test",)),
            issued(root(), names=("agents.test",), begins=past[0], ends=past[1]),
            None,
        ):
            roots = root().pem
            trusted = (
                grpc.ssl_channel_credentials(roots, shown.key_pem, shown.pem)
                if shown
                else grpc.ssl_channel_credentials(roots)
            )
            async with grpc.aio.secure_channel(app.address, trusted) as channel:
                check: Any = channel.unary_unary("/grpc.health.v1.Health/Check")
                with pytest.raises(grpc.aio.AioRpcError) as failed:
                    await check(b"", timeout=10)
                assert failed.value.code() is grpc.StatusCode.UNAVAILABLE
