"""No call fails or waits for its trace: without the extra, with senseless settings, with a collector that hangs."""

from __future__ import annotations

import sys

import pytest
from opentelemetry.sdk.trace import SpanProcessor

from runtimestore import AsyncRuntimeStoreClient, RetryPolicy, RevisionMismatch, RuntimeStoreClient
from support.checkers.scraping import LISTEN, metrics_address, until, value
from support.generators.documents import input_state, receipt, session
from support.servers.collector import Collector
from support.servers.server import in_process
from support.servers.server_process import ServerProcess

RUNTIME = "rt:one"
ONCE = RetryPolicy(max_attempts=1)
ASKED = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"}

UNASKED = """
import atexit, sys
from runtimestore_server.__main__ import main
def tell():
    names = sorted(name for name in sys.modules if name.startswith("opentelemetry"))
    print("imported:", *names or ["nothing"], file=sys.stderr, flush=True)
atexit.register(tell)
sys.exit(main())
"""
"""A server that tells at its end what it has imported of OpenTelemetry."""

WITHOUT_THE_EXTRA = f"""
import sys
class Without:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "opentelemetry":
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Without())
{UNASKED}
"""


@pytest.mark.parametrize("settings", [{}, ASKED])
def test_without_the_extra_or_unasked_nothing_of_it_is_imported_and_all_is_served(settings: dict[str, str]) -> None:
    program = (sys.executable, "-c", WITHOUT_THE_EXTRA if settings else UNASKED, "serve")
    server = ServerProcess("memory:", command=program, environment=settings)
    with server, RuntimeStoreClient(server.address) as client:
        assert client.commit_machine_lifecycle(RUNTIME, "idle").revision == 1
        assert client.load_runtime_state(RUNTIME) is not None
    assert "imported: nothing" in server.log
    assert ("no traces" in server.log) is bool(settings)
    assert ("runtimestore[otel]" in server.log) is bool(settings)


@pytest.mark.parametrize(
    ("settings", "traces"),
    [
        ({**ASKED, "OTEL_SDK_DISABLED": "true"}, False),
        ({**ASKED, "OTEL_TRACES_EXPORTER": "none"}, False),
        ({**ASKED, "OTEL_TRACES_EXPORTER": "canary-console"}, False),
        ({**ASKED, "OTEL_EXPORTER_OTLP_PROTOCOL": "canary-protocol"}, False),
        ({**ASKED, "OTEL_EXPORTER_OTLP_TIMEOUT": "canary-timeout"}, False),
        ({**ASKED, "OTEL_EXPORTER_OTLP_HEADERS": "canary header, without sense"}, True),
    ],
)
async def test_what_cannot_be_used_of_the_variables_keeps_no_server_from_serving_and_is_not_quoted(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], settings: dict[str, str], *, traces: bool
) -> None:
    for name, text in settings.items():
        monkeypatch.setenv(name, text)
    async with in_process("memory:") as app, AsyncRuntimeStoreClient(app.address) as client:
        await client.get_server_info()
        assert (app.traces is not None) is traces
    told = "".join(capfd.readouterr())
    assert ("no traces" in told) is ("canary" in str(settings) and not traces)
    assert "canary" not in told
    assert "Traceback" not in told


@pytest.mark.parametrize("fails", ["on_start", "on_end"])
async def test_what_fails_in_tracing_fails_no_call(collector: Collector, fails: str) -> None:
    failed: list[object] = []

    class Failing(SpanProcessor):
        def __init__(self) -> None:
            setattr(self, fails, self.fail)

        def fail(self, *given: object, **_: object) -> None:
            failed.append(given)
            raise RuntimeError("tracing failed")

    async with in_process("memory:") as app, AsyncRuntimeStoreClient(app.address, retry=ONCE) as client:
        assert app.traces is not None
        app.traces._export._provider.add_span_processor(Failing())
        await client.atomic_apply(RUNTIME, session(), receipt=receipt(), input_updates=[input_state()])
        with pytest.raises(RevisionMismatch):
            await client.commit_machine_lifecycle(RUNTIME, "idle", if_revision=7)
        assert await client.load_session_snapshot(RUNTIME) is not None
        assert app.supervision.problem() is None
    assert len(failed) >= 3
    assert bool(collector.seen) is (fails == "on_end")


def test_a_collector_that_is_gone_costs_spans_which_are_counted_and_told_once_and_no_call() -> None:
    with Collector() as collector:
        environment = collector.environment | {
            "OTEL_EXPORTER_OTLP_TIMEOUT": "0.2",
            "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "8",
        }
    with ServerProcess("memory:", environment=environment, grace_period_seconds=1, **LISTEN) as server:
        address = metrics_address(server)
        with RuntimeStoreClient(server.address, retry=ONCE) as client:
            until(lambda: client.commit_machine_lifecycle(RUNTIME, "idle").revision >= 10 and _failed(address) > 8)
    assert server.log.count("the collector of traces takes none") == 1
    assert "Failed to export" not in server.log


def test_a_collector_that_hangs_fills_a_bounded_queue_and_holds_up_neither_calls_nor_the_end() -> None:
    with Collector(hangs=True) as collector:
        bounds = {"OTEL_BSP_MAX_QUEUE_SIZE": "16", "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "8"}
        environment = collector.environment | bounds | {"OTEL_EXPORTER_OTLP_TIMEOUT": "600"}
        with ServerProcess("memory:", environment=environment, grace_period_seconds=1, **LISTEN) as server:
            address = metrics_address(server)
            with RuntimeStoreClient(server.address, retry=ONCE) as client:
                for number in range(20):
                    assert client.commit_machine_lifecycle(RUNTIME, "idle").revision == number + 1
            until(lambda: value(address, "runtimestore_spans_total", outcome="dropped") > 20)
            server.terminate()
            assert server.wait() == 0  # within its grace period, or it would say what it left behind
        assert server.log.count("spans are left out") == 1
        assert "ending without it" in server.log
        assert collector.seen == []


def _failed(address: str) -> float:
    return value(address, "runtimestore_spans_total", outcome="failed")
