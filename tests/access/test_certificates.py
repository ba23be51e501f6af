"""Which certificates come into force: those that gRPC takes, and no others."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import grpc.aio
import pytest
import structlog.testing

from runtimestore import AsyncRuntimeStoreClient, RetryPolicy, Tls
from runtimestore_server.access import tls
from runtimestore_server.access.access_file import has_settled
from runtimestore_server.access.rules import Unusable
from runtimestore_server.access.tls import Certificates
from runtimestore_server.app import CannotServe
from support.checkers import clean_up
from support.checkers.scraping import LISTEN, checks, until, value
from support.generators.certificates import DAY, intermediate, issued, root
from support.servers.access import files_of, put
from support.servers.server import in_process

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

TRUSTED = Tls(ca=root().pem)
Files = dict[str, "Path"]


def good(folder: Path, **more: Any) -> Files:
    """Files that can be used."""
    return files_of(folder, issued(intermediate()), intermediate(), **more)


def another_key(folder: Path) -> Files:
    """A pair that does not match."""
    files = good(folder)
    put(files["tls_key"], issued().key_pem)
    return files


def leaf_last(folder: Path) -> Files:
    """A chain that begins with the CA."""
    files, pair = good(folder), issued(intermediate())
    put(files["tls_cert"], intermediate().pem + pair.pem)
    put(files["tls_key"], pair.key_pem)
    return files


def of_kind(kind: str) -> Callable[[Path], Files]:
    """A key of this kind."""
    return lambda folder: files_of(folder, issued(intermediate(), kind=kind), intermediate())


def of_time(begins: timedelta, ends: timedelta) -> Callable[[Path], Files]:
    """A certificate of this time."""
    return lambda folder: files_of(folder, issued(intermediate(), begins=begins, ends=ends), intermediate())


def with_client_ca(content: bytes) -> Callable[[Path], Files]:
    """A CA of clients with this content."""
    return lambda folder: good(folder, client_ca=content)


ENDED = issued(names=(), common_name="ended", begins=-9 * DAY, ends=-DAY, is_ca=True).pem
BAD = {
    "Ed25519": (of_kind("Ed25519"), "The key is Ed25519: what is taken is RSA"),
    "P-521": (of_kind("secp521r1"), "The key is ECDSA on secp521r1: what is taken is RSA"),
    "secp256k1": (of_kind("secp256k1"), "The key is ECDSA on secp256k1: what is taken is RSA"),
    "an extension that nobody knows": (
        lambda folder: files_of(folder, issued(intermediate(), critical="1.2.3.4"), intermediate()),
        "CERTIFICATE_VERIFY_FAILED: unhandled critical extension",
    ),
    "ended": (of_time(-2 * DAY, -DAY), "the certificate ended at 20"),
    "not yet": (of_time(DAY, 2 * DAY), "the certificate holds from 20"),
    "another key": (another_key, "the key is not that of the certificate"),
    "chain in the wrong order": (leaf_last, "must stand first in its file"),
    "empty CA of clients": (with_client_ca(b""), "must be certificates in PEM"),
    "garbage as CA of clients": (with_client_ca(b"garbage"), "must be certificates in PEM"),
    "half a CA of clients": (with_client_ca(root().pem + root().pem[:200]), "must be certificates in PEM"),
    "garbage after a CA of clients": (
        with_client_ca(root().pem + b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"),
        "must be certificates in PEM",
    ),
    "CA of clients that has ended": (with_client_ca(ENDED), "every CA in it has ended"),
}


async def connects(address: str, **given: Any) -> None:
    """A new connection is served."""
    async with AsyncRuntimeStoreClient(address, tls=Tls(ca=root().pem, **given), retry=RetryPolicy(1)) as client:
        await client.get_server_info()


@pytest.mark.parametrize("kind", BAD)
async def test_no_server_starts_with_what_ends_its_handshakes_and_the_file_and_the_cure_are_named(
    tmp_path: Path, kind: str
) -> None:
    make, why = BAD[kind]
    files: Any = make(tmp_path)
    with pytest.raises(CannotServe) as refused:
        async with in_process("memory:", **files):
            pytest.fail("it serves")
    assert why in str(refused.value)
    assert str(files["tls_client_ca" if "client" in kind else "tls_cert"]) in str(refused.value)


@pytest.mark.parametrize("mutual", [False, True])
async def test_what_would_end_handshakes_leaves_in_force_what_was_before_and_is_told_without_anyone_connecting(
    tmp_path: Path, mutual: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tls, "LOOK_SECONDS", 0.05)
    more = {"client_ca": root().pem} if mutual else {}
    client = issued(root(), names=("agents.test",))
    shown = {"certificate": client.pem, "key": client.key_pem} if mutual else {}
    files: Any = good(tmp_path, **more)
    async with in_process("memory:", **files, **LISTEN) as app:
        address = app.telemetry.address

        async def warned() -> float:
            return await asyncio.to_thread(value, address, "runtimestore_warning", check="certificates")

        def is_told(why: str) -> bool:
            return app.certificates is not None and why in (app.certificates.unusable or "")

        for make, why in (BAD[kind] for kind in BAD if ("client" in kind) is mutual):
            with structlog.testing.capture_logs() as logged:
                make(tmp_path)
                await clean_up.until(lambda: is_told(why))  # noqa: B023  (waited for here)
            assert [line for line in logged if line["log_level"] == "error" and why in line["error"]]
            with structlog.testing.capture_logs() as logged:  # one file was there before the other: told of that, too
                await asyncio.sleep(0.1)  # looked at again meanwhile
                await connects(app.address, **shown)
                assert [line for line in logged if line["log_level"] == "error"] == []
                status, found = await asyncio.to_thread(checks, address)
                assert (status, found["ready"], found["checks"]["certificates"]["ready"]) == (200, True, True)
                assert why in found["checks"]["certificates"]["warning"]
                assert await warned()
                good(tmp_path, **more)
                await clean_up.until(lambda: app.certificates is not None and app.certificates.warning is None)
            await connects(app.address, **shown)
            assert not await warned()


@pytest.mark.parametrize(
    "pair",
    [
        {"kind": "RSA"},
        {"kind": "secp384r1"},
        {"names": ("*.example.org",)},
        {"names": ("10.1.2.3",)},
        {"names": ("fd00::1", "store.example.org")},
        {"names": ("spiffe://example.org/store",)},
        {"names": (), "common_name": "store.example.org"},
        {"names": ()},
        {"names": ("a", "b", "spiffe://example.org/store")},
    ],
    ids=str,
)
def test_whatever_grpc_takes_comes_into_force_whom_ever_it_names(tmp_path: Path, pair: dict[str, Any]) -> None:
    files = files_of(tmp_path, issued(intermediate(), **pair), intermediate())
    with structlog.testing.capture_logs() as logged:
        assert Certificates(files["tls_cert"], files["tls_key"], None).warning is None
    assert logged == []


def test_what_a_file_has_beside_a_key_or_certificate_does_no_harm(tmp_path: Path) -> None:
    files = good(tmp_path)
    parameters = b"-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n"
    for name in ("tls_cert", "tls_key"):
        put(files[name], b"text of the tools\n" + parameters + files[name].read_bytes() + parameters)
    Certificates(files["tls_cert"], files["tls_key"], None)


def test_what_did_not_work_for_a_passing_reason_is_tried_again_though_no_file_changes(tmp_path: Path) -> None:
    files, now = good(tmp_path), datetime.now(UTC)
    certificates = Certificates(files["tls_cert"], files["tls_key"], None, clock=lambda: now)
    before = certificates.validity
    files_of(tmp_path, issued(intermediate(), begins=-DAY, ends=99 * DAY))
    until(lambda: all(has_settled(path.stat()) for path in files.values()))  # else the next look is a first one
    now -= 2 * DAY
    for _ in range(2):
        certificates.look(again=True)
        assert "holds from" in (certificates.unusable or "")
        assert certificates.validity == before

    now += 2 * DAY
    certificates.look()
    assert certificates.validity == before
    certificates.look(again=True)
    assert certificates.unusable is None
    assert certificates.validity != before


def test_a_kind_of_key_that_was_tried_is_in_force_with_the_next_handshake_and_another_once_it_was(
    tmp_path: Path,
) -> None:
    files = good(tmp_path)
    certificates = Certificates(files["tls_cert"], files["tls_key"], None)
    for turn, kind in enumerate(("secp256r1", "secp384r1", "secp256r1", "secp384r1")):
        files_of(tmp_path, issued(intermediate(), kind=kind, ends=(99 - turn) * DAY), intermediate())
        before = certificates.validity
        certificates.look(for_handshake=True)
        if turn == 1:
            until(lambda: certificates.validity != before)  # noqa: B023  (waited for here)
        assert certificates.validity != before
        assert certificates.unusable is None
    assert certificates.handshakes == 4


async def test_each_address_that_a_server_listens_on_shows_a_new_certificate(tmp_path: Path) -> None:
    files: Any = good(tmp_path)
    certificates = Certificates(files["tls_cert"], files["tls_key"], None)
    server = grpc.aio.server()
    ports = [server.add_secure_port("127.0.0.1:0", certificates.credentials()) for _ in range(2)]
    await server.start()
    for name in ("first.example.org", "second.example.org"):
        files_of(tmp_path, issued(intermediate(), names=(name,)), intermediate())
        for port in (*ports, *ports):
            options = [("grpc.ssl_target_name_override", name), ("grpc.use_local_subchannel_pool", 1)]
            trusted = grpc.ssl_channel_credentials(root().pem)
            async with grpc.aio.secure_channel(f"127.0.0.1:{port}", trusted, options=options) as channel:
                call: Any = channel.unary_unary("/none/None")
                with pytest.raises(grpc.aio.AioRpcError) as failed:
                    await call(b"", timeout=10)
                assert failed.value.code() is grpc.StatusCode.UNIMPLEMENTED
    await server.stop(None)


def test_files_that_differ_from_what_is_in_force_in_their_times_alone_are_nothing_to_tell_of(tmp_path: Path) -> None:
    files = good(tmp_path)
    certificates = Certificates(files["tls_cert"], files["tls_key"], None)
    with structlog.testing.capture_logs() as logged:
        files["tls_cert"].touch()
        certificates.look()
    assert logged == []


@pytest.mark.parametrize("file", ["tls_cert", "tls_key"])
def test_nothing_of_a_key_is_told_where_it_cannot_be_used(tmp_path: Path, file: str) -> None:
    files = good(tmp_path)
    secret = b"MIGHAgEAMBMGByqGSM49secretsecret"
    put(files[file], b"-----BEGIN PRIVATE KEY-----\n" + secret + b"\n-----END PRIVATE KEY-----\n")
    with pytest.raises(Unusable) as refused:
        Certificates(files["tls_cert"], files["tls_key"], None)
    assert "secret" not in str(refused.value)
