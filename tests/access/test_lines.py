"""What the log tells of callers that are not let in: as much as of any refused call, and as many lines of a reason."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections import Counter
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio
import pytest

from runtimestore import RetryPolicy, RuntimeStoreClient
from runtimestore.errors import AccessNotAllowed, RealmNotAllowed, Unauthenticated
from support.checkers.refusals import refused
from support.checkers.scraping import LISTEN, metrics_address, until, value
from support.faults.uploads import WAIT_SECONDS
from support.generators.requests import request_of
from support.servers.access import access_file, bearer, entry, new_token
from support.servers.server import ServerProcess

if TYPE_CHECKING:
    from pathlib import Path

ONCE = RetryPolicy(max_attempts=1)
RUNTIME = "rt:one"
TRACE = "0af7651916cd43dd8448eb211c80319c"
WRITE = "/runtimestore.v1.RuntimeStore/CommitMachineLifecycle"
LINES_A_SECOND = 2


def _lines(server: ServerProcess, *events: str) -> list[dict[str, Any]]:
    return [line for line in map(json.loads, tuple(server.lines)) if line["event"] in events]


def test_who_is_not_let_in_has_a_line_with_all_that_is_known_of_the_call(tmp_path: Path) -> None:
    path = access_file(tmp_path / "access.toml", [entry("reader", reader := new_token(), access="read")])
    shown: list[tuple[str | None, str, Any]] = [
        (None, "none", Unauthenticated),
        (new_token(), "unknown", Unauthenticated),
        (reader, "access", AccessNotAllowed),
        (reader, "realm", RealmNotAllowed),
    ]
    sent, told = str(uuid.uuid4()), []
    with ServerProcess("memory:", access_file=str(path), log_format="json") as server:
        for token, why, error in shown:
            with RuntimeStoreClient(server.address, realm="elsewhere", token=token, retry=ONCE) as client:

                def call(client: RuntimeStoreClient = client, *, reads: bool = why == "realm") -> None:
                    if reads:
                        client.load_runtime_state(RUNTIME)
                    else:
                        client.commit_machine_lifecycle(RUNTIME, "idle", request_id=sent)

                with pytest.raises(error) as raised:
                    call()
            told.append(raised.value.metadata["request_id"])
        until(lambda: len(_lines(server, "not let in")) == len(shown))
        lines = _lines(server, "not let in")
        assert _lines(server, "refused") == []

    assert [line["why"] for line in lines] == [why for _, why, _ in shown]
    assert [line["reason"] for line in lines] == [error.reason for _, _, error in shown]
    assert [line["request_id"] for line in lines] == told
    assert [line.get("principal") for line in lines] == [None, None, "reader", "reader"]
    assert all(line["peer"] and line["method"] and 0 < line["seconds"] < WAIT_SECONDS for line in lines)
    # Of whom nothing was received, nothing is known of what was asked; by the realm is refused who was read.
    assert [(line.get("realm"), line.get("runtime")) for line in lines] == [(None, None)] * 3 + [("elsewhere", RUNTIME)]
    assert sent not in told


async def test_who_is_not_let_in_is_told_with_the_trace_of_the_call(tmp_path: Path) -> None:
    path = access_file(tmp_path / "access.toml", [entry("agents", new_token())])
    with ServerProcess("memory:", access_file=str(path), log_format="json") as server:
        async with grpc.aio.insecure_channel(server.address) as channel:
            call: Any = channel.unary_unary(WRITE)
            await refused(call(b"", metadata=(("traceparent", f"00-{TRACE}-b7ad6b7169203331-01"),)))
        until(lambda: len(_lines(server, "not let in")) == 1)
        assert _lines(server, "not let in")[0]["trace_id"] == TRACE


async def test_who_calls_a_method_that_is_not_there_is_named_in_its_line(tmp_path: Path) -> None:
    path = access_file(tmp_path / "access.toml", [entry("agents", token := new_token())])
    with ServerProcess("memory:", access_file=str(path), log_format="json") as server:
        async with grpc.aio.insecure_channel(server.address) as channel:
            call: Any = channel.unary_unary("/nobody/Knows")
            for shown in (bearer(token), None):
                await refused(call(b"", metadata=shown))
        until(lambda: len(_lines(server, "unknown method", "not let in")) == 2)
        known, stranger = _lines(server, "unknown method", "not let in")
    assert (known["event"], known["principal"]) == ("unknown method", "agents")
    assert (stranger["event"], stranger.get("principal")) == ("not let in", None)


async def test_a_flood_for_one_reason_hides_no_other_and_each_line_is_told_or_counted_once(tmp_path: Path) -> None:
    path = access_file(tmp_path / "access.toml", [entry("reader", reader := new_token(), access="read")])
    request = request_of("CommitMachineLifecycle").SerializeToString()
    flood = 200
    options: Any = {"log_format": "json", "log_refusals_per_second": LINES_A_SECOND, **LISTEN}
    with ServerProcess("memory:", access_file=str(path), **options) as server:
        async with grpc.aio.insecure_channel(server.address) as channel:
            write: Any = channel.unary_unary(WRITE)
            for _ in range(4):
                await asyncio.gather(*(refused(write(request, timeout=WAIT_SECONDS)) for _ in range(flood // 4)))
            await refused(write(request, metadata=bearer(reader), timeout=WAIT_SECONDS))

        def counted() -> Counter[str]:
            found = Counter(line["reason"] for line in _lines(server, "not let in"))
            for line in _lines(server, "lines left out"):
                found[line["reason"]] += line["lines"]
            return found

        until(lambda: counted().total() >= flood + 1)
        assert counted() == {"UNAUTHENTICATED": flood, "ACCESS_NOT_ALLOWED": 1}
        written = Counter(line["reason"] for line in _lines(server, "not let in"))
        assert written["ACCESS_NOT_ALLOWED"] == 1
        assert not any("left_out" in line for line in _lines(server, "not let in"))
        left_out = value(metrics_address(server), "runtimestore_log_lines_left_out_total", reason="UNAUTHENTICATED")
        assert left_out == flood - written["UNAUTHENTICATED"]
