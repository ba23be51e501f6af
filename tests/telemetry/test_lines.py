"""The log says who did what: a line a refused call, a bounded number of them, and one a served call if asked for."""

from __future__ import annotations

import contextlib
import json
import socket
import time
import uuid
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from runtimestore import InvalidRequest, RetryPolicy, RevisionMismatch, RuntimeStoreClient
from runtimestore.v1 import runtime_store_pb2 as pb
from runtimestore.v1 import runtime_store_pb2_grpc as rpc
from runtimestore_server.rpc.call_ends import code_of_given_up
from runtimestore_server.store.engines.sqlite_driver import sqlite3
from runtimestore_server.telemetry import lines
from runtimestore_server.telemetry.lines import LineLimit
from support.checkers.scraping import LISTEN, get, metrics_address, until, value
from support.faults.hostile_bytes import DATA, END_HEADERS, END_STREAM, HEADERS
from support.faults.http2 import call_headers, frame, preface
from support.generators.requests import request_of
from support.servers.access import access_file, bearer, entry, new_token
from support.servers.server_process import ServerProcess

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

ONCE = RetryPolicy(max_attempts=1)
TRACE = "0af7651916cd43dd8448eb211c80319c"
RUNTIME = "rt:one"
CANARY = "canary-method-61"
WRITE = "/runtimestore.v1.RuntimeStore/CommitMachineLifecycle"


def _events(server: ServerProcess, event: str) -> list[dict[str, Any]]:
    return [line for line in map(json.loads, tuple(server.lines)) if line["event"] == event]


@pytest.fixture
def server() -> Iterator[ServerProcess]:
    with ServerProcess("memory:", log_format="json", log_calls=True, log_refusals_per_second=3, **LISTEN) as found:
        yield found


def test_a_caller_finds_its_line_by_the_request_id_of_the_refusal(server: ServerProcess) -> None:
    sent = str(uuid.uuid4())
    with RuntimeStoreClient(server.address, realm="there", retry=ONCE) as client:
        with pytest.raises(RevisionMismatch) as by_sent:
            client.commit_machine_lifecycle(RUNTIME, "running", if_revision=7, request_id=sent)
        with pytest.raises(InvalidRequest) as by_made:
            client.load_boundary_receipt(RUNTIME, "no uuid", 0)
    until(lambda: len(_events(server, "refused")) == 2)
    of_sent, of_made = _events(server, "refused")

    assert by_sent.value.metadata["request_id"] == of_sent["request_id"] == sent
    assert by_made.value.metadata["request_id"] == of_made["request_id"]
    assert uuid.UUID(of_made["request_id"]) != uuid.UUID(sent)
    assert (of_sent["reason"], of_sent["realm"], of_sent["runtime"]) == ("REVISION_MISMATCH", "there", RUNTIME)
    assert of_made["field"] == "run_id"
    assert all(0 < line["seconds"] < 10 and line["peer"] for line in (of_sent, of_made))


def test_a_line_tells_the_trace_of_its_call_and_no_other_text(server: ServerProcess) -> None:
    with grpc.insecure_channel(server.address) as channel:
        stub = rpc.RuntimeStoreStub(channel)
        for header in (f"00-{TRACE}-b7ad6b7169203331-01", "no trace"):
            request = pb.LoadRuntimeStateRequest(realm="there", runtime_id=RUNTIME)
            stub.LoadRuntimeState(request, metadata=(("traceparent", header),))
    until(lambda: len(_events(server, "served")) == 2)
    traced, other = _events(server, "served")

    assert traced["trace_id"] == TRACE
    assert (traced["method"], traced["realm"]) == ("/runtimestore.v1.RuntimeStore/LoadRuntimeState", "there")
    assert "trace_id" not in other
    assert "no trace" not in server.log


def _waiting(address: str, token: str, requests: list[Any]) -> socket.socket:
    """A connection whose calls of the write end by their deadlines: it cancels none, as gRPC's client would before."""
    headers = ((b"authorization", f"Bearer {token}".encode()), (b"grpc-timeout", b"3S"))
    sent = [preface()]
    for stream, message in enumerate(one.SerializeToString() for one in requests):
        number = 2 * stream + 1
        sent.append(frame(HEADERS, END_HEADERS, number, call_headers(address, WRITE.encode(), *headers)))
        sent.append(frame(DATA, END_STREAM, number, b"\0" + len(message).to_bytes(4, "big") + message))
    host, _, port = address.rpartition(":")
    connection = socket.create_connection((host, int(port)))
    connection.sendall(b"".join(sent))
    return connection


@pytest.mark.parametrize("gives_up", ["cancel", "deadline"])
def test_each_write_that_is_given_up_has_a_line_that_names_it_and_one_of_what_became_of_it(
    tmp_path: Path, gives_up: str
) -> None:
    sent = {str(uuid.uuid4()): f"rt:{number}" for number in range(40)}
    path = access_file(tmp_path / "access.toml", [entry("agents", token := new_token(), realms=["*"])])
    with (
        ServerProcess(
            f"sqlite:///{tmp_path}/store.db",
            log_format="json",
            log_refusals_per_second=1000,
            access_file=str(path),
            **LISTEN,
        ) as server,
        grpc.insecure_channel(server.address) as channel,
        contextlib.closing(sqlite3.connect(tmp_path / "store.db", isolation_level=None)) as other,
        contextlib.ExitStack() as silent,
    ):
        stub = rpc.RuntimeStoreStub(channel)
        stub.LoadRuntimeState(pb.LoadRuntimeStateRequest(runtime_id=RUNTIME), metadata=bearer(token))
        other.execute("BEGIN IMMEDIATE")  # whoever commits now has to wait
        requests = [
            request_of("CommitMachineLifecycle", realm="there", runtime_id=runtime, request_id=request)
            for request, runtime in sent.items()
        ]
        if gives_up == "cancel":
            calls = [stub.CommitMachineLifecycle.future(one, metadata=bearer(token), timeout=60) for one in requests]
            until(lambda: value(metrics_address(server), "runtimestore_pending_writes") == len(sent))
            for call in calls:
                call.cancel()
        else:
            silent.enter_context(_waiting(server.address, token, requests))
        until(lambda: len(_events(server, "ended unanswered")) == len(sent))
        ended = {line["request_id"]: line for line in _events(server, "ended unanswered")}
        other.execute("ROLLBACK")
        until(lambda: len(_events(server, "decided unanswered")) == len(sent))
        decided = {line["request_id"]: line for line in _events(server, "decided unanswered")}
        code = "CANCELLED" if gives_up == "cancel" else "DEADLINE_EXCEEDED"
        assert value(metrics_address(server), "runtimestore_calls_total", code=code, reason="") == len(sent)

    for request, runtime in sent.items():
        for line in (ended[request], decided[request]):
            assert (line["principal"], line["realm"], line["runtime"]) == ("agents", "there", runtime)
        assert ended[request]["method"] == WRITE
        assert ended[request]["code"] == code
        assert ended[request]["left_seconds"] >= 0
        assert (decided[request]["outcome"], decided[request]["revision"]) == ("committed", 1)


@pytest.mark.parametrize(
    ("took_seconds", "left_seconds", "code"),
    [
        (3.0, None, "CANCELLED"),
        (3.0, 0.0, "DEADLINE_EXCEEDED"),
        (3.0, 0.09, "DEADLINE_EXCEEDED"),
        (3.0, 0.2, "CANCELLED"),
        (60.0, 0.5, "DEADLINE_EXCEEDED"),
        (60.0, 0.7, "CANCELLED"),
        (0.01, 0.09, "CANCELLED"),
        (0.01, 0.009, "DEADLINE_EXCEEDED"),
    ],
)
def test_a_call_that_ends_near_its_deadline_ran_into_it(
    took_seconds: float, left_seconds: float | None, code: str
) -> None:
    context = type("Context", (), {"time_remaining": lambda _self: left_seconds})()

    assert code_of_given_up(context, time.perf_counter() - took_seconds) == code


def test_a_method_that_the_server_does_not_have_has_a_line_and_a_count_without_its_name(server: ServerProcess) -> None:
    paths = [f"/runtimestore.v1.RuntimeStore/{CANARY}", f"/{CANARY}/x", "/grpc.health.v1.Health/" + "x" * 2000]
    with grpc.insecure_channel(server.address) as channel:
        methods: list[Any] = [channel.unary_unary(path) for path in paths * 20]
        calls = [method.future(b"x" * 100_000) for method in methods]
        assert {call.code() for call in calls} == {grpc.StatusCode.UNIMPLEMENTED}
    address = metrics_address(server)

    def left_out() -> int:
        return sum(line["lines"] for line in _events(server, "lines left out"))

    until(lambda: len(_events(server, "unknown method")) + left_out() == len(paths) * 20)
    told = _events(server, "unknown method")

    counted = {"method": "unknown", "code": "UNIMPLEMENTED", "reason": ""}
    assert value(address, "runtimestore_calls_total", **counted) == len(paths) * 20
    assert value(address, "runtimestore_call_seconds_count", method="unknown") == len(paths) * 20
    assert 0 < len(told) < len(paths) * 20
    assert all((line["method"], line["code"]) == ("unknown", "UNIMPLEMENTED") and line["peer"] for line in told)
    assert value(address, "runtimestore_log_lines_left_out_total") == left_out()
    assert CANARY not in server.log + get(address, "/metrics")[1]
    assert "xxxx" not in server.log


def test_a_status_that_is_given_by_the_health_service_itself_has_a_line(server: ServerProcess) -> None:
    with grpc.insecure_channel(server.address) as channel, pytest.raises(grpc.RpcError):
        health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service="nowhere"))
    until(lambda: len(_events(server, "ended unanswered")) == 1)
    (line,) = _events(server, "ended unanswered")

    assert (line["method"], line["code"]) == ("/grpc.health.v1.Health/Check", "NOT_FOUND")


def test_a_served_call_has_no_line_unless_it_is_asked_for() -> None:
    with ServerProcess("memory:", log_format="json") as server, RuntimeStoreClient(server.address) as client:
        client.load_runtime_state(RUNTIME)

    assert _events(server, "served") == []


def test_what_is_beyond_the_lines_of_a_second_is_counted_and_told(server: ServerProcess) -> None:
    refused = 60
    with grpc.insecure_channel(server.address) as channel:
        began = time.monotonic()
        load, request = rpc.RuntimeStoreStub(channel).LoadBoundaryReceipt, request_of("LoadBoundaryReceipt", run_id="x")
        calls = [load.future(request) for _ in range(refused)]  # at once: a slow machine could take a second for three
        assert {call.code() for call in calls} == {grpc.StatusCode.INVALID_ARGUMENT}
        seconds = time.monotonic() - began
    left_out = refused - len(_events(server, "refused"))
    assert left_out > 0

    def told() -> int:
        return sum(line["lines"] for line in _events(server, "lines left out"))

    until(lambda: told() + len(_events(server, "refused")) == refused)
    assert len(_events(server, "refused")) <= 3 * (seconds + 2)
    address = metrics_address(server)
    assert value(address, "runtimestore_log_lines_left_out_total", reason="INVALID_REQUEST") == told()


def test_one_reason_takes_no_line_of_another(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[dict[str, Any]] = []
    monkeypatch.setattr(lines, "_log", type("Log", (), {"info": lambda _self, _event, **found: told.append(found)})())
    now = 100.0
    limit = LineLimit(2, clock=lambda: now)

    assert [limit.lets_through("A") for _ in range(5)] == [True, True, False, False, False]
    assert limit.lets_through("B")
    now = 101.0
    assert limit.lets_through("A")
    assert told == [{"reason": "A", "lines": 3}]
    assert limit.left_out == {"A": 3}
