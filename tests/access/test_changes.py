"""Certificates, tokens and rules change while the server runs, under load, and no call fails for it."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import ssl
import threading
import time
from typing import TYPE_CHECKING, Any

import grpc.aio
import pytest
import structlog.testing
import trustme

from runtimestore import AsyncRuntimeStoreClient, CallFailed, RetryPolicy, RuntimeState, Tls, Unauthenticated
from runtimestore_server.access.access_file import TICK_NS, AccessFile
from runtimestore_server.access.certificate_files import CertificateFiles
from runtimestore_server.access.tls import Certificates
from runtimestore_server.access.tokens import digest_of
from support.checkers.clean_up import until
from support.servers.access import (
    access_file,
    bearer,
    ca,
    entry,
    have_an_hour_pass,
    in_an_hour,
    new_token,
    put,
    server_files,
)
from support.servers.server import in_process

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

TRUSTED = Tls(ca=ca().cert_pem.bytes())
ONCE = RetryPolicy(max_attempts=1)


@contextlib.asynccontextmanager
async def load(*clients: AsyncRuntimeStoreClient) -> AsyncIterator[list[int]]:
    """Clients that write all the time, and whose every write must land; how many did, is told meanwhile."""
    written = [0] * len(clients)
    ends = False

    async def write(number: int, client: AsyncRuntimeStoreClient) -> None:
        while not ends:
            await client.commit_machine_lifecycle(f"rt:session:{number}", RuntimeState.IDLE)
            written[number] += 1

    async with asyncio.TaskGroup() as group:
        for number, client in enumerate(clients):
            group.create_task(write(number, client))
        yield written
        ends = True


async def served_serial(address: str) -> int:
    """The number of the certificate that a new connection is shown."""
    context = ssl.create_default_context(cadata=ca().cert_pem.bytes().decode())
    context.set_alpn_protocols(["h2"])
    host, _, port = address.rpartition(":")
    _reader, writer = await asyncio.open_connection(host, int(port), ssl=context)
    shown: Any = writer.get_extra_info("peercert")
    writer.close()
    return int(shown["serialNumber"], 16)


async def test_a_certificate_is_changed_under_load_and_no_call_fails(tmp_path: Path) -> None:
    files: Any = server_files(tmp_path)
    async with in_process("memory:", **files) as app:
        first = AsyncRuntimeStoreClient(app.address, tls=TRUSTED, retry=ONCE)
        async with first, load(first) as written:
            for _ in range(5):
                before = await served_serial(app.address)
                server_files(tmp_path)
                assert await served_serial(app.address) != before
                async with AsyncRuntimeStoreClient(app.address, tls=TRUSTED, retry=ONCE) as new:
                    await new.get_server_info()
                some = written[0]
                await until(lambda: written[0] > some + 10)  # noqa: B023  (waited for here)


async def test_no_handshake_and_no_call_waits_for_a_certificate_that_is_being_tried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files: Any = server_files(tmp_path)
    go_on = threading.Event()
    try_out = CertificateFiles.try_out

    def held(self: CertificateFiles, made: Any) -> None:
        go_on.wait(60)
        try_out(self, made)

    async with in_process("memory:", **files) as app:
        monkeypatch.setattr(CertificateFiles, "try_out", held)
        try:
            first = AsyncRuntimeStoreClient(app.address, tls=TRUSTED, retry=ONCE)
            async with first, load(first) as written, asyncio.timeout(30):
                before = await served_serial(app.address)
                server_files(tmp_path)
                for _ in range(10):
                    assert await served_serial(app.address) != before
                some = written[0]
                await until(lambda: written[0] > some + 10)
        finally:
            go_on.set()


@pytest.mark.parametrize("mutual", [False, True])
async def test_no_new_connection_fails_while_certificates_are_changed_in_any_way_and_tokens_with_them(
    tmp_path: Path, mutual: bool
) -> None:
    files: Any = server_files(tmp_path, client_ca=mutual)
    tokens = [new_token()]
    path = access_file(tmp_path / "access.toml", [entry("agents", *tokens)])
    shown = ca().issue_cert("agents.test")
    chain = b"".join(blob.bytes() for blob in shown.cert_chain_pems)
    tls = Tls(ca=TRUSTED.ca, certificate=chain, key=shown.private_key_pem.bytes()) if mutual else TRUSTED
    serials, connected, ends = set(), [0] * 3, False
    async with in_process("memory:", access_file=path, **files) as app:

        async def connect(number: int) -> None:
            while not ends:
                async with AsyncRuntimeStoreClient(app.address, tls=tls, token=lambda: tokens[-1], retry=ONCE) as one:
                    await one.commit_machine_lifecycle(f"rt:session:{number}", RuntimeState.IDLE)
                connected[number] += 1

        async def all_connected_again() -> None:
            before = [*connected]
            await until(lambda: all(now > then + 1 for now, then in zip(connected, before, strict=True)))

        async with asyncio.TaskGroup() as group:
            for number in range(len(connected)):
                group.create_task(connect(number))
            await all_connected_again()
            for turn in range(6):
                new = new_token()
                access_file(path, [entry("agents", tokens[-1], new)])
                if turn % 3 == 0:  # the two files one after the other, with connections between
                    kept = files["tls_cert"].read_bytes(), files["tls_key"].read_bytes()
                    server_files(tmp_path, client_ca=mutual)
                    renewed = files["tls_cert"].read_bytes(), files["tls_key"].read_bytes()
                    put(files["tls_cert"], kept[0])
                    await all_connected_again()
                    put(files["tls_cert"], renewed[0])
                elif turn % 3 == 1:  # in place, and broken for a while
                    files["tls_cert"].write_bytes(b"")
                    await all_connected_again()
                    server_files(tmp_path, client_ca=mutual)
                else:
                    server_files(tmp_path, client_ca=mutual)
                tokens.append(new)
                await all_connected_again()
                access_file(path, [entry("agents", new)])
                await all_connected_again()
                assert app.certificates is not None
                assert app.certificates.unusable is None
                if not mutual:
                    serials.add(await served_serial(app.address))
            ends = True
    assert mutual or len(serials) == 6


@pytest.mark.parametrize("fault", ["another key", "no certificate", "gone"])
async def test_a_new_certificate_that_cannot_be_used_leaves_the_old_one_in_force_and_is_told_once(
    tmp_path: Path, fault: str
) -> None:
    files: Any = server_files(tmp_path)
    async with in_process("memory:", **files) as app:
        assert app.certificates is not None
        before = await served_serial(app.address)
        with structlog.testing.capture_logs() as logged:
            if fault == "another key":
                put(files["tls_key"], trustme.CA().issue_cert("x").private_key_pem.bytes())
            elif fault == "no certificate":
                put(files["tls_cert"], b"none")
            else:
                files["tls_cert"].unlink()
            for _ in range(3):
                assert await served_serial(app.address) == before
            assert app.certificates.unusable is not None
            server_files(tmp_path)
            assert await served_serial(app.address) != before
        assert app.certificates.unusable is None
    assert [line["log_level"] for line in logged if "certificate" in line["event"]] == ["error", "info"]


async def test_the_ca_of_clients_is_changed_under_load_and_no_open_connection_ends(tmp_path: Path) -> None:
    def shown_by(authority: trustme.CA) -> Tls:
        made = authority.issue_cert("agents.test")
        chain = b"".join(blob.bytes() for blob in made.cert_chain_pems)
        return Tls(ca=ca().cert_pem.bytes(), certificate=chain, key=made.private_key_pem.bytes())

    files: Any = server_files(tmp_path, client_ca=True)
    path = access_file(tmp_path / "access.toml", [entry("agents", certificate_sans=["agents.test"])])
    other = trustme.CA()
    async with in_process("memory:", access_file=path, **files) as app:
        first = AsyncRuntimeStoreClient(app.address, tls=shown_by(ca()), retry=ONCE)
        async with first, load(first) as written:
            await until(lambda: written[0] > 0)  # it is connected
            put(files["tls_client_ca"], other.cert_pem.bytes())
            async with AsyncRuntimeStoreClient(app.address, tls=shown_by(other), retry=ONCE) as new:
                await new.get_server_info()
            async with AsyncRuntimeStoreClient(app.address, tls=shown_by(ca()), retry=ONCE) as late:
                with pytest.raises(CallFailed):
                    await late.get_server_info(timeout_seconds=5)
            some = written[0]
            await until(lambda: written[0] > some + 10)


async def test_a_token_is_changed_under_load_and_no_call_fails(tmp_path: Path) -> None:
    tokens = [new_token()]
    path = access_file(tmp_path / "access.toml", [entry("agents", *tokens)])
    async with in_process("memory:", access_file=path) as app:
        client = AsyncRuntimeStoreClient(app.address, token=lambda: tokens[-1], retry=ONCE)
        async with client, load(client) as written:
            for _ in range(10):
                new = new_token()
                access_file(path, [entry("agents", tokens[-1], new)])  # both are in force
                tokens.append(new)
                some = written[0]
                await until(lambda: written[0] > some + 2)  # noqa: B023  (waited for here)
                access_file(path, [entry("agents", new)])
                some = written[0]
                await until(lambda: written[0] > some + 2)  # noqa: B023  (waited for here)
        async with AsyncRuntimeStoreClient(app.address, token=tokens[0], retry=ONCE) as old:
            with pytest.raises(Unauthenticated):
                await old.get_server_info()


def test_what_could_not_be_read_for_want_of_descriptors_is_taken_up_once_there_are_some(tmp_path: Path) -> None:
    files = server_files(tmp_path)
    path = access_file(tmp_path / "access.toml", [entry("agents", new_token())])
    rules, certificates = AccessFile(path), Certificates(files["tls_cert"], files["tls_key"], None)
    access_file(path, [entry("agents", new := new_token())])
    server_files(tmp_path)
    time.sleep(2 * TICK_NS / 1e9)  # else it is looked at again in any case
    bounds = resource.getrlimit(resource.RLIMIT_NOFILE)
    before = rules.current
    with structlog.testing.capture_logs() as logged, contextlib.ExitStack() as stack:
        stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, bounds)
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, bounds[1]))
        for _ in range(3):
            rules.rules()
            certificates.look(again=True)
    assert rules.unusable is not None
    assert certificates.unusable is not None
    assert rules.current is before
    assert [line["log_level"] for line in logged] == ["error", "error"]

    assert rules.rules().by_token(digest_of(new)) is not None
    certificates.look(again=True)
    told = [rules.unusable, certificates.unusable]
    assert told == [None, None]


@pytest.mark.parametrize("fault", ["no TOML", "a bad entry", "gone"])
async def test_a_broken_access_file_leaves_the_rules_in_force_and_is_told_once(tmp_path: Path, fault: str) -> None:
    token, other = new_token(), new_token()
    path = access_file(tmp_path / "access.toml", [entry("agents", token)])
    async with (
        in_process("memory:", access_file=path) as app,
        AsyncRuntimeStoreClient(app.address, token=token) as client,
    ):
        assert app.authorization is not None
        with structlog.testing.capture_logs() as logged:
            if fault == "gone":
                path.unlink()
            else:
                access_file(path, [entry("agents", other), "x" if fault == "no TOML" else entry("bad", access="all")])
            for _ in range(3):
                await client.get_server_info()
            assert app.authorization.unusable is not None
            access_file(path, [entry("agents", other)])
            with pytest.raises(Unauthenticated):
                await client.get_server_info()
            assert app.authorization.unusable is None
    assert [line["log_level"] for line in logged if "access file" in line["event"]] == ["error", "info"]


async def test_a_token_ends_when_its_time_is_over_while_the_server_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = access_file(tmp_path / "access.toml", [entry("agents", token := new_token(), until=in_an_hour())])
    async with in_process("memory:", access_file=path) as app, grpc.aio.insecure_channel(app.address) as channel:
        info: Any = channel.unary_unary("/runtimestore.v1.RuntimeStoreAdmin/GetServerInfo")
        await info(b"", metadata=bearer(token), timeout=5)
        have_an_hour_pass(monkeypatch)
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await info(b"", metadata=bearer(token), timeout=5)
        assert failed.value.code() is grpc.StatusCode.UNAUTHENTICATED
