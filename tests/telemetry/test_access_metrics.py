"""What is counted of who comes in: by realms that the access file names, by what was wrong, and handshakes."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest

from runtimestore import AsyncRuntimeStoreClient, RealmNotAllowed, RetryPolicy, RuntimeStoreError, Tls, Unauthenticated
from runtimestore_server.access.rules import MOST_LABELS, parsed
from runtimestore_server.telemetry.counts import MOST_REALMS, OTHER_REALMS, RealmCounts
from support.checkers.scraping import LISTEN, checks, get, scraped, value
from support.servers.access import access_file, ca, entry, new_token, server_files
from support.servers.server import in_process

if TYPE_CHECKING:
    from pathlib import Path

    from runtimestore_server.app import Application

ONCE = RetryPolicy(max_attempts=1)
CALLS, REFUSALS = "runtimestore_realm_calls_total", "runtimestore_access_refusals_total"


async def metric(app: Application, name: str, **labels: str) -> float:
    """The value of a metric now."""
    return await asyncio.to_thread(value, app.telemetry.address, name, **labels)


async def write(app: Application, token: str | None, realm: str) -> None:
    """One write, or its refusal."""
    async with AsyncRuntimeStoreClient(app.address, realm=realm, token=token, retry=ONCE) as client:
        await client.commit_machine_lifecycle(f"rt:session:{uuid.uuid4()}", "idle")


async def test_calls_are_counted_by_the_realms_and_prefixes_of_the_access_file_and_by_no_other(tmp_path: Path) -> None:
    entries = [
        entry("a", token := new_token(), realms=["default", "team-*", "team-red", "team-red-*"]),
        entry("b", every := new_token(), realms=["*"]),
    ]
    path = access_file(tmp_path / "access.toml", entries)
    async with in_process("memory:", access_file=path, **LISTEN) as app:
        for realm in ("", "default", "team-red", "team-blue", "team-green", "team-red-1"):
            await write(app, token, realm)
        for realm in ("chosen-1", "chosen-2"):
            await write(app, every, realm)
        with pytest.raises(RealmNotAllowed):
            await write(app, token, "chosen-3")
        with pytest.raises(Unauthenticated):
            await write(app, new_token(), "team-red")  # nothing of its message was received
        found = {
            (sample.labels["realm"], sample.labels["code"]): sample.value
            for metric in await asyncio.to_thread(scraped, app.telemetry.address)
            for sample in metric.samples
            if sample.name == CALLS
        }
        _, text = await asyncio.to_thread(get, app.telemetry.address, "/metrics")
    assert found == {
        ("default", "OK"): 2,
        ("team-red", "OK"): 1,
        ("team-*", "OK"): 2,
        ("team-red-*", "OK"): 1,
        ("other", "OK"): 2,
        ("other", "PERMISSION_DENIED"): 1,
    }
    assert "chosen" not in text


async def test_without_an_access_file_no_realm_is_told() -> None:
    async with in_process("memory:", **LISTEN) as app:
        await write(app, None, "chosen")
        found = await asyncio.to_thread(scraped, app.telemetry.address)
    (family,) = [metric for metric in found if metric.name == CALLS.removesuffix("_total")]
    assert family.samples == []
    assert not any("realm" in sample.labels for metric in found for sample in metric.samples)


async def test_no_change_of_the_access_file_makes_series_without_end() -> None:
    numbers = iter(range(10_000))
    counts = RealmCounts(lambda: f"realm-{next(numbers)}")
    for _ in range(10_000):
        counts.count("OK")
    assert len(counts.ended) == MOST_REALMS + 1
    assert counts.ended[OTHER_REALMS, "OK"] == 10_000 - MOST_REALMS


def test_no_more_than_the_first_realms_of_a_file_are_told_apart() -> None:
    realms = [f"realm-{number}" for number in range(2 * MOST_LABELS)]
    rules = parsed("\n".join(entry(f"p{realm}", new_token(), realms=[realm, f"{realm}-*"]) for realm in realms))
    labels = {rules.realm_label(name) for realm in realms for name in (realm, f"{realm}-x")}
    assert len(labels - {None}) == MOST_LABELS
    assert None in labels
    assert rules.realm_label("realm-0-x") == "realm-0-*"


async def test_what_was_wrong_with_each_attempt_is_counted(tmp_path: Path) -> None:
    entries = [
        entry("a", token := new_token(), realms=["team-*"], access="read"),
        entry("b", past := new_token(), until=datetime(2020, 1, 1, tzinfo=UTC)),
    ]
    path = access_file(tmp_path / "access.toml", entries)
    async with in_process("memory:", access_file=path, **LISTEN) as app:
        assert await metric(app, REFUSALS) == 0
        for shown, kind in (
            (None, "none"),
            ("rst_x", "malformed"),
            (new_token(), "unknown"),
            (past, "ended"),
            (token, "access"),
        ):
            with pytest.raises(RuntimeStoreError):
                await write(app, shown, "team-a")
            assert await metric(app, REFUSALS, kind=kind) == 1
        async with AsyncRuntimeStoreClient(app.address, realm="elsewhere", token=token, retry=ONCE) as client:
            with pytest.raises(RealmNotAllowed):
                await client.load_runtime_state("rt:session:x")
        assert await metric(app, REFUSALS, kind="realm") == 1
        assert await metric(app, REFUSALS) == 6


async def test_a_broken_access_file_is_warned_of_and_makes_no_server_unready(tmp_path: Path) -> None:
    path = access_file(tmp_path / "access.toml", [entry("a", token := new_token())])
    async with in_process("memory:", access_file=path, **LISTEN) as app:
        address = app.telemetry.address
        path.write_text("[[principal]]\nname = ")
        await write(app, token, "default")
        status, found = await asyncio.to_thread(checks, address)
        assert (status, found["ready"], found["checks"]["access"]["ready"]) == (200, True, True)
        assert f"--access-file {path}: it is no TOML" in found["checks"]["access"]["warning"]
        assert await asyncio.to_thread(get, address, "/readyz") == (200, "ready; warning: access\n")
        assert await metric(app, "runtimestore_warning", check="access") == 1
        assert await metric(app, "runtimestore_ready", check="access") == 1
        access_file(path, [entry("a", token)])
        await write(app, token, "default")
        assert await asyncio.to_thread(get, address, "/readyz") == (200, "ready\n")
        assert await metric(app, "runtimestore_warning", check="access") == 0


async def test_each_handshake_that_is_begun_is_counted_whether_it_fails_or_not(tmp_path: Path) -> None:
    files: Any = server_files(tmp_path)
    async with in_process("memory:", **files, **LISTEN) as app:
        name = "runtimestore_tls_handshakes_total"
        assert await metric(app, name) == 0
        async with AsyncRuntimeStoreClient(app.address, tls=Tls(ca=ca().cert_pem.bytes())) as client:
            await client.get_server_info()
        assert await metric(app, name) == 1
        host, _, port = app.address.rpartition(":")
        for number in range(2, 5):
            reader, writer = await asyncio.open_connection(host, int(port))
            writer.write(b"GET / HTTP/1.1\r\n\r\n")
            await reader.read()
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
            assert await metric(app, name) == number
