"""A call is seen as a trace, from its caller over its batch to the statements."""

from __future__ import annotations

import asyncio
import json
import math
import threading
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from opentelemetry import trace
from sqlalchemy import event

from runtimestore import (
    AsyncRuntimeStoreClient,
    RetryPolicy,
    RevisionMismatch,
    RuntimeStoreClient,
    StoreUnavailable,
    Tls,
)
from runtimestore.v1 import runtime_store_pb2 as pb
from runtimestore.v1 import runtime_store_pb2_grpc as rpc
from runtimestore_server.telemetry import spans as spans_of_calls
from support.checkers import clean_up
from support.generators.documents import input_state, new_id, receipt, session
from support.servers.access import access_file, ca, entry, new_token, server_files
from support.servers.collector import Collector, over_http
from support.servers.scripted_store import Script, refusal, scripted_store
from support.servers.server import in_process
from support.servers.server_process import ServerProcess

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    from runtimestore_server.app import Application
    from support.servers.collector import Seen
    from support.servers.engines import Engine

    Serve = Callable[..., AbstractAsyncContextManager[Application]]

METHOD = "runtimestore.v1.RuntimeStore/"
RUNTIME = "rt:one"
ONCE = RetryPolicy(max_attempts=1)


def _id(span: ReadableSpan) -> str:
    return trace.format_span_id(span.context.span_id)


def _named(spans: Sequence[Seen], *names: str) -> list[Seen]:
    return [span for span in spans if span.name in names]


def _children(spans: Sequence[Seen], parent: Seen) -> list[Seen]:
    return [span for span in spans if span.parent_id == parent.span_id]


async def _came(collector: Collector, condition: Callable[[Sequence[Seen]], Any]) -> list[Seen]:
    return await asyncio.to_thread(collector.wait_for, condition)


async def test_a_trace_reads_from_the_caller_over_call_and_batch_down_to_the_statements(
    collector: Collector, sent: InMemorySpanExporter, serve: Serve, realm: str
) -> None:
    request_id = new_id()
    async with serve() as app, AsyncRuntimeStoreClient(app.address, realm=realm) as client:
        engine = app.store.database.writers.dialect.name
        with trace.get_tracer("test").start_as_current_span("turn") as turn:
            await client.atomic_apply(
                RUNTIME, session(), receipt=receipt(), input_updates=[input_state()], request_id=request_id
            )
    spans = await _came(collector, lambda spans: _named(spans, METHOD + "AtomicApply") and _named(spans, "batch"))
    of_client, _ = sent.get_finished_spans()
    (call,), (share,), (batch,) = (_named(spans, name) for name in (METHOD + "AtomicApply", "commit", "batch"))
    statements = _children(spans, batch)

    assert of_client.parent is not None
    assert (of_client.name, of_client.parent.span_id) == (call.name, turn.get_span_context().span_id)
    assert (call.kind, call.parent_id, call.status) == ("server", _id(of_client), "")
    assert (share.parent_id, batch.parent_id) == (call.span_id, share.span_id)
    assert {span.trace_id for span in spans} == {trace.format_trace_id(turn.get_span_context().trace_id)}
    assert call.attributes == {
        "rpc.system.name": "grpc",
        "rpc.method": METHOD + "AtomicApply",
        "rpc.response.status_code": "OK",
        "runtimestore.realm": realm,
        "runtimestore.runtime_id": RUNTIME,
        "runtimestore.request_id": request_id,
    }
    assert batch.attributes == {"db.system.name": engine, "runtimestore.batch_writes": 1}
    assert {"INSERT receipts", "INSERT session_versions", "COMMIT"} <= {one.name for one in statements}
    assert {name for one in statements for name in one.attributes} <= {
        *("db.system.name", "db.operation.name", "db.collection.name", "db.operation.batch.size")
    }
    assert {(one.kind, one.attributes["db.system.name"], one.status) for one in statements} == {("client", engine, "")}


async def test_a_trace_goes_on_over_tls_and_has_nothing_of_what_the_caller_shows(
    collector: Collector, sent: InMemorySpanExporter, tmp_path: Path
) -> None:
    files: Any = server_files(tmp_path, client_ca=True)
    rules = access_file(tmp_path / "access.toml", [entry("agents", token := new_token())])
    shown = ca().issue_cert("canary.test")
    chain, key = (b"".join(blob.bytes() for blob in shown.cert_chain_pems), shown.private_key_pem.bytes())
    tls = Tls(ca=ca().cert_pem.bytes(), certificate=chain, key=key)
    async with (
        in_process("memory:", access_file=rules, **files) as app,
        AsyncRuntimeStoreClient(app.address, tls=tls, token=token) as client,
    ):
        await client.commit_machine_lifecycle(RUNTIME, "idle")
    method = METHOD + "CommitMachineLifecycle"
    spans = await _came(collector, lambda spans: _named(spans, method) and _named(spans, "batch"))
    (of_client,) = sent.get_finished_spans()
    (call,) = _named(spans, method)

    assert call.parent_id == _id(of_client)
    assert len({span.trace_id for span in spans}) == 1  # and the handshake that a certificate is tried in has no span
    told = f"{spans} {of_client.to_json()}"
    assert token not in told
    assert "canary" not in told


@pytest.mark.parametrize("most", [0, 3])
async def test_no_more_calls_of_strangers_than_so_many_a_second_are_recorded_whatever_they_ask_for(
    collector: Collector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    monkeypatch.setattr(spans_of_calls, "MOST_OF_STRANGERS", most)
    rules = access_file(tmp_path / "access.toml", [entry("agents", token := new_token())])
    asked = (("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),)
    async with in_process("memory:", access_file=rules) as app:
        assert app.traces is not None
        app.traces._second = math.inf  # however long it takes, it is one second
        async with grpc.aio.insecure_channel(app.address) as channel:
            info: Any = channel.unary_unary("/runtimestore.v1.RuntimeStoreAdmin/GetServerInfo")
            for _ in range(10):
                with pytest.raises(grpc.aio.AioRpcError):
                    await info(b"", metadata=asked)
        async with AsyncRuntimeStoreClient(app.address, token=token) as client:
            await client.load_runtime_state(RUNTIME)
    spans = await _came(collector, lambda spans: _named(spans, METHOD + "LoadRuntimeState"))
    assert len(_named(spans, "runtimestore.v1.RuntimeStoreAdmin/GetServerInfo")) == most


async def test_a_load_leads_to_its_statement_and_what_nobody_called_has_no_trace(
    collector: Collector, serve: Serve, realm: str
) -> None:
    async with serve(health_interval_seconds=0.01) as app, AsyncRuntimeStoreClient(app.address, realm=realm) as client:
        assert await client.load_session_snapshot(RUNTIME) is None
    spans = await _came(collector, lambda spans: _named(spans, METHOD + "LoadSessionSnapshot"))
    (call,) = [span for span in spans if not span.parent_id]
    (load,) = _children(spans, call)

    assert (call.name, load.name) == (METHOD + "LoadSessionSnapshot", "load")
    assert "SELECT" in {one.attributes["db.operation.name"] for one in _children(spans, load)}
    assert len({span.trace_id for span in spans}) == 1


async def test_a_batch_and_the_calls_in_it_are_linked(
    collector: Collector, sent: InMemorySpanExporter, serve: Serve, realm: str
) -> None:
    del sent
    held, go = threading.Event(), threading.Event()

    def hold(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        if "INSERT INTO requests" in statement and not held.is_set():  # not what maintenance does
            held.set()
            assert go.wait(30)

    async with serve() as app, AsyncRuntimeStoreClient(app.address, realm=realm) as client:
        event.listen(app.store.database.writers, "before_cursor_execute", hold)
        first = asyncio.create_task(client.commit_machine_lifecycle("rt:first", "idle"))
        assert await asyncio.to_thread(held.wait, 30)
        others = [asyncio.create_task(client.commit_machine_lifecycle(f"rt:{number}", "idle")) for number in range(5)]
        await clean_up.until(lambda: app.store._committer.waiting_writes == 6)
        go.set()
        await asyncio.gather(first, *others)
    spans = await _came(collector, lambda spans: len(_named(spans, "batch")) == 2)
    (large,) = [one for one in _named(spans, "batch") if one.attributes["runtimestore.batch_writes"] == 5]
    shares = {one.span_id: one for one in _named(spans, "commit")}

    assert len({span.trace_id for span in spans}) == 6
    assert len(shares) == 6
    assert shares[large.parent_id].links == []
    linked = [one for one in shares.values() if one.links]
    assert [one.links for one in linked] == [[large.span_id]] * 4
    assert {*large.links} == {one.span_id for one in linked}
    assert large.parent_id not in large.links


@pytest.mark.needs("durable")
async def test_a_refused_call_tells_its_reason_and_only_the_servers_own_faults_are_errors(
    collector: Collector, sent: InMemorySpanExporter, serve: Serve, engine: Engine, realm: str
) -> None:
    async with serve() as app, AsyncRuntimeStoreClient(app.address, realm=realm, retry=ONCE) as client:
        with pytest.raises(RevisionMismatch) as refused:
            await client.commit_machine_lifecycle(RUNTIME, "idle", if_revision=7)
        with engine.unreachable(app.store.database), pytest.raises(StoreUnavailable):
            await client.load_runtime_state(RUNTIME)
    spans = await _came(collector, lambda spans: _named(spans, METHOD + "LoadRuntimeState"))
    (write,), (load,) = (_named(spans, METHOD + name) for name in ("CommitMachineLifecycle", "LoadRuntimeState"))

    told = {key: write.attributes[key] for key in ("rpc.response.status_code", "runtimestore.reason", "error.type")}
    assert told == {
        "rpc.response.status_code": "ABORTED",
        "runtimestore.reason": "REVISION_MISMATCH",
        "error.type": "REVISION_MISMATCH",
    }
    assert write.attributes["runtimestore.request_id"] == refused.value.metadata["request_id"]
    assert (write.status, load.status) == ("", "ERROR")
    assert load.attributes["runtimestore.reason"] == "STORE_UNAVAILABLE"
    assert [span.status.status_code.name for span in sent.get_finished_spans()] == ["ERROR", "ERROR"]


async def test_what_the_caller_does_not_record_is_not_recorded(collector: Collector) -> None:
    request = pb.LoadRuntimeStateRequest(runtime_id=RUNTIME)
    async with in_process("memory:") as app, grpc.aio.insecure_channel(app.address) as channel:
        stub: rpc.RuntimeStoreAsyncStub = rpc.RuntimeStoreStub(channel)
        for trace_id, flags in (("a" * 32, "00"), ("b" * 32, "01"), ("c" * 32, "00")):
            await stub.LoadRuntimeState(request, metadata=(("traceparent", f"00-{trace_id}-{'1' * 16}-{flags}"),))
    spans = await _came(collector, lambda spans: _named(spans, METHOD + "LoadRuntimeState"))

    assert {span.trace_id for span in spans} == {"b" * 32}


async def test_the_retries_of_a_call_are_events_of_its_one_span(sent: InMemorySpanExporter) -> None:
    script = Script()
    seen: list[Any] = []

    async def note(_request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
        seen.append({key: text for key, text in context.invocation_metadata() or () if key == "traceparent"})
        if len(seen) < 3:
            return refusal("STORE_UNAVAILABLE", grpc.StatusCode.UNAVAILABLE)
        return pb.LoadRuntimeStateResponse()

    script.answer("LoadRuntimeState", note, note, note)
    retry = RetryPolicy(initial_backoff_seconds=0.001)
    async with scripted_store(script) as address, AsyncRuntimeStoreClient(address, retry=retry) as client:
        await client.load_runtime_state(RUNTIME)
    (span,) = sent.get_finished_spans()
    attributes = [dict(one.attributes or {}) for one in span.events]

    assert span.attributes is not None
    assert (span.attributes["runtimestore.attempts"], span.status.status_code.name) == (3, "UNSET")
    assert [one.name for one in span.events] == ["retry", "retry"]
    assert [one["error.type"] for one in attributes] == ["STORE_UNAVAILABLE"] * 2
    assert len(seen) == 3
    for header in seen:
        assert header["traceparent"].startswith(f"00-{trace.format_trace_id(span.context.trace_id)}-{_id(span)}-")


def test_the_line_of_a_call_has_the_trace_that_the_collector_has(collector: Collector) -> None:
    with ServerProcess("memory:", log_format="json", log_calls=True, environment=collector.environment) as server:
        with RuntimeStoreClient(server.address, realm="there", retry=ONCE) as client:
            client.load_runtime_state(RUNTIME)
            with pytest.raises(RevisionMismatch):
                client.commit_machine_lifecycle(RUNTIME, "idle", if_revision=7)
        spans = collector.wait_for(lambda spans: len([one for one in spans if one.kind == "server"]) == 2)
    lines = {line["method"]: line for line in map(json.loads, server.lines) if "method" in line}

    for span in spans:
        if span.kind == "server":
            assert lines[f"/{span.name}"]["trace_id"] == span.trace_id


async def test_a_collector_is_spoken_to_over_http_where_that_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    with over_http() as collector:
        for name, text in collector.environment.items():
            monkeypatch.setenv(name, text)
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf")
        async with in_process("memory:") as app, AsyncRuntimeStoreClient(app.address) as client:
            await client.load_runtime_state(RUNTIME)
        (resource,) = {one.resource.SerializeToString() for sent in collector.requests for one in sent.resource_spans}

    assert _named(collector.seen, METHOD + "LoadRuntimeState")
    assert b"service.name" in resource
    assert b"runtimestore" in resource
