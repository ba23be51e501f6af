"""What a server tells of itself over HTTP: what was counted, and what is documented."""

from __future__ import annotations

import re
import socket
import threading
import time
import urllib.request
import uuid
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.error import HTTPError

import pytest
from pydantic import SecretStr

from runtimestore import InvalidRequest, RetryPolicy, RuntimeStoreClient, RuntimeStoreError
from runtimestore_server.app import Application, CannotServe
from runtimestore_server.settings import Settings
from runtimestore_server.store.schema import HEAD, upgrade
from runtimestore_server.telemetry.counts import BatchCounts, Histogram, MethodCounts
from runtimestore_server.telemetry.readiness import NOT_LOOKED, Readiness
from support.checkers.scraping import LISTEN, checks, get, metrics_address, scraped, until, value
from support.servers.postgres import quick_postgres
from support.servers.server_process import ServerProcess

if TYPE_CHECKING:
    import contextlib
    from collections.abc import Callable


OPERATIONS = Path(__file__).resolve().parents[2] / "docs/operations.md"
METHOD = "/runtimestore.v1.RuntimeStore/{}"
ONCE = RetryPolicy(max_attempts=1)
RUNTIME = "rt:session:019e4f8e-8200-7daf-ae78-9e6aa1b965f4"
KINDS = {"counter": "_total", "info": "_info"}


def test_what_was_called_is_what_is_counted(fresh_url: str) -> None:
    with ServerProcess(fresh_url, **LISTEN) as server:
        address = metrics_address(server)
        with RuntimeStoreClient(server.address, realm="counted", retry=ONCE) as client:
            again = str(uuid.uuid4())
            for request_id in (again, again, str(uuid.uuid4())):
                client.commit_machine_lifecycle(RUNTIME, "running", request_id=request_id)
            for _ in range(4):
                client.load_runtime_state(RUNTIME)
            with pytest.raises(InvalidRequest):
                client.load_boundary_receipt(RUNTIME, "no uuid", 0)
            with pytest.raises(RuntimeStoreError):
                client.commit_machine_lifecycle(RUNTIME, "running", if_revision=77)
        until(lambda: value(address, "runtimestore_calls_in_flight") == 0)
        written, loaded, refused = map(
            METHOD.format, ("CommitMachineLifecycle", "LoadRuntimeState", "LoadBoundaryReceipt")
        )

        assert value(address, "runtimestore_calls_total", method=written, code="OK", reason="") == 3
        assert value(address, "runtimestore_calls_total", method=written, reason="REVISION_MISMATCH") == 1
        assert value(address, "runtimestore_calls_total", method=loaded, code="OK") == 4
        assert value(address, "runtimestore_calls_total", method=refused, code="INVALID_ARGUMENT") == 1
        assert value(address, "runtimestore_calls_total", reason="INVALID_REQUEST") == 1
        assert value(address, "runtimestore_call_seconds_count", method=written) == 4
        assert 0 < value(address, "runtimestore_call_seconds_sum", method=loaded) < 4 * 10
        assert value(address, "runtimestore_writes_total") == 2
        assert value(address, "runtimestore_replays_total") == 1
        assert value(address, "runtimestore_write_refusals_total") == 1
        assert value(address, "runtimestore_queue_seconds_count") == 4
        assert value(address, "runtimestore_batch_writes_sum") == 4
        assert value(address, "runtimestore_commit_seconds_count") == value(address, "runtimestore_batch_writes_count")
        assert value(address, "runtimestore_commit_seconds_sum") > 0
        assert value(address, "runtimestore_pending_writes") == 0
        assert value(address, "runtimestore_pending_writes_limit") == 1024
        assert value(address, "runtimestore_build_info", schema=HEAD) == 1


@pytest.mark.needs("durable")
def test_the_size_of_the_store_and_its_oldest_request_are_told(fresh_url: str) -> None:
    before = time.time()
    with ServerProcess(fresh_url, listen="127.0.0.1:0") as server, RuntimeStoreClient(server.address) as client:
        client.commit_machine_lifecycle(RUNTIME, "running", request_id=str(uuid.uuid4()))
    with ServerProcess(fresh_url, **LISTEN) as server:
        address = metrics_address(server)
        until(lambda: value(address, "runtimestore_sampled_timestamp_seconds") > 0)

        assert value(address, "runtimestore_store_bytes") > 10_000
        assert before - 60 < value(address, "runtimestore_oldest_request_timestamp_seconds") < time.time() + 60
        if fresh_url.startswith("sqlite"):
            assert value(address, "runtimestore_pool_in_use_limit", pool="writers") == 1
        else:
            assert value(address, "runtimestore_table_bytes", table="requests") > 0


def test_every_metric_is_documented_and_every_one_that_is_documented_is_there(tmp_path: Path) -> None:
    table = (
        OPERATIONS.read_text(encoding="utf-8").partition("### Metrics\n")[2].partition("### Dashboard and alerts\n")[0]
    )
    documented = set(re.findall(r"`((?:runtimestore|process|python)_\w+)`", table))
    with ServerProcess(f"sqlite:///{tmp_path}/store.db", **LISTEN) as server:
        exposed = scraped(metrics_address(server))
    names = {f"{metric.name}{KINDS.get(metric.type, '')}" for metric in exposed}

    assert documented == names


def test_no_label_is_chosen_by_callers(tmp_path: Path) -> None:
    with ServerProcess(f"sqlite:///{tmp_path}/store.db", **LISTEN) as server:
        with RuntimeStoreClient(server.address, realm="chosen-realm", retry=ONCE) as client:
            client.commit_machine_lifecycle("rt:chosen", "running", request_id=str(uuid.uuid4()))
            with pytest.raises(InvalidRequest):
                client.load_boundary_receipt("rt:chosen", "chosen", 0)
        status, text = get(metrics_address(server), "/metrics")

    assert status == 200
    assert "chosen" not in text


def test_a_server_whose_engine_is_gone_is_not_ready_and_tells_which_check_fails(
    tmp_path: Path,
) -> None:
    file = tmp_path / "store.db"
    with ServerProcess(f"sqlite:///{file}", health_interval_seconds=0.2, **LISTEN) as server:
        address = metrics_address(server)
        assert get(address, "/readyz") == (200, "ready\n")
        status, told = checks(address)
        assert (status, told["ready"]) == (200, True)
        assert {"engine", "file", "schema", "rights", "writes", "threads"} <= told["checks"].keys()

        aside = file.rename(tmp_path / "aside.db")
        until(lambda: get(address, "/readyz")[0] == 503)
        status, told = checks(address)
        failing = [name for name, check in told["checks"].items() if not check["ready"]]
        assert (status, told["ready"], failing) == (503, False, ["file"])
        assert "put it back" in told["checks"]["file"]["problem"]
        assert get(address, "/readyz")[1] == "not ready: file\n"
        assert value(address, "runtimestore_ready", check="file") == 0
        assert get(address, "/healthz")[0] == 200

        aside.rename(file)
        until(lambda: get(address, "/readyz")[0] == 200)


def test_a_server_whose_engine_is_stopped_is_not_ready_until_it_is_back() -> None:
    with quick_postgres() as engine:
        upgrade(engine.url)
        with ServerProcess(engine.url, health_interval_seconds=0.2, **LISTEN) as server:
            address = metrics_address(server)
            assert get(address, "/readyz")[0] == 200

            engine.stop("fast")
            until(lambda: get(address, "/readyz")[0] == 503)
            assert checks(address)[1]["checks"]["engine"]["ready"] is False
            assert get(address, "/metrics")[0] == 200

            engine.start()
            until(lambda: get(address, "/readyz")[0] == 200)


async def test_a_scrape_is_answered_while_the_event_loop_is_busy(
    serve: Callable[..., contextlib.AbstractAsyncContextManager[Application]],
) -> None:
    async with serve(**LISTEN) as app:
        answers: list[tuple[int, str]] = []
        paths = ("/metrics", "/readyz", "/healthz")

        def ask() -> None:
            answers.extend(get(app.telemetry.address, path) for path in paths)

        asking = threading.Thread(target=ask)
        asking.start()
        asking.join(30)  # which keeps the loop

        assert [status for status, _ in answers] == [200, 200, 200]


def test_only_three_paths_are_answered_and_only_to_who_asks(tmp_path: Path) -> None:
    del tmp_path
    with ServerProcess("memory:", **LISTEN) as server:
        address = metrics_address(server)

        assert get(address, "/")[0] == 404
        posted = urllib.request.Request(f"http://{address}/metrics", data=b"x")
        with pytest.raises(HTTPError, match="405"):
            urllib.request.urlopen(posted, timeout=10)  # noqa: S310
        assert "/metrics" not in server.log


def test_a_check_that_nobody_has_looked_at_for_long_is_not_passed() -> None:
    readiness = Readiness(stale_seconds=-1.0)
    readiness.report({"engine": None})

    assert readiness.checks() == {"engine": None, "event loop": NOT_LOOKED}


def test_a_check_that_raises_is_not_passed() -> None:
    readiness = Readiness(stale_seconds=60.0)
    readiness.add("certificates", lambda: 1 / 0)  # type: ignore[arg-type,return-value]

    assert readiness.checks()["certificates"] == "the check failed: ZeroDivisionError"


async def test_a_taken_default_port_is_warned_of_and_a_given_one_is_refused(
    runner: object, capsys: pytest.CaptureFixture[str]
) -> None:
    del runner
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = f"127.0.0.1:{other.getsockname()[1]}"
        with pytest.raises(CannotServe, match="choose another --metrics-listen"):
            await Application(_settings(metrics_listen=taken)).__aenter__()

        settings = _settings(metrics_listen=taken)
        settings.model_fields_set.discard("metrics_listen")  # as if it were the default
        async with Application(settings) as app:
            assert app.address
            assert app.telemetry.address == ""
    assert "no metrics: the default address cannot be had" in capsys.readouterr().out


def _settings(**given: str) -> Settings:
    return Settings(_env_file=None, listen="127.0.0.1:0", database_url=SecretStr("memory:"), **given)  # type: ignore[arg-type]


def test_what_cannot_be_counted_ends_no_call() -> None:
    class Broken(Histogram):
        def observe(self, value: float) -> None:
            raise ValueError(value)

    counts = MethodCounts("/x")
    counts.seconds = Broken((1,))
    counts.answered(0.0)
    counts.ended_by("CANCELLED", 0.0)
    batches = BatchCounts()
    batches.commit_seconds = batches.queue_seconds = Broken((1,))
    batches.ended([0.0], 0.0, 0.0)

    assert counts.ended["OK", ""] == 1


def test_a_histogram_counts_each_value_under_the_first_bound_that_holds_it() -> None:
    found = Histogram((1.0, 2.0))
    for one in (0.5, 1.0, 1.5, 2.0, 3.0):
        found.observe(one)

    assert (found.counts, found.sum) == ([2, 2, 1], 8.0)
