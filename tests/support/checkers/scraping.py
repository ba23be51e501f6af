"""What a server tells over HTTP of itself, asked as Prometheus and probes do."""

from __future__ import annotations

import json
import re
import time
import urllib.error
import urllib.request
from typing import TYPE_CHECKING, Any

from prometheus_client.parser import text_string_to_metric_families

if TYPE_CHECKING:
    from collections.abc import Callable

    from prometheus_client.core import Metric

    from support.servers.server_process import ServerProcess

LISTEN: dict[str, Any] = {"metrics_listen": "127.0.0.1:0"}
"""The setting of a server that is to be scraped."""

WAIT_SECONDS = 30.0
_ADDRESS = re.compile(r'metrics_address(?:=|": ")([^\s"]+)')


def metrics_address(server: ServerProcess) -> str:
    """Where a process answers."""
    server.wait_for("metrics_address")
    found = _ADDRESS.search(server.log)
    assert found
    return found[1]


def get(address: str, path: str, *, timeout_seconds: float = 10.0) -> tuple[int, str]:
    """The status and the body of an answer."""
    try:
        with urllib.request.urlopen(f"http://{address}{path}", timeout=timeout_seconds) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def scraped(address: str) -> list[Metric]:
    """The metrics as Prometheus' own parser reads them."""
    status, text = get(address, "/metrics")
    assert status == 200, text
    return list(text_string_to_metric_families(text))


def value(address: str, name: str, **labels: str) -> float:
    """The sum of the samples of this name that have these labels."""
    return sum(
        sample.value
        for metric in scraped(address)
        for sample in metric.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    )


def checks(address: str) -> tuple[int, dict[str, Any]]:
    """What `/readyz?verbose` tells, and its status."""
    status, text = get(address, "/readyz?verbose")
    return status, json.loads(text)


def until(condition: Callable[[], bool]) -> None:
    """Wait until it holds."""
    deadline = time.monotonic() + WAIT_SECONDS
    while not condition():
        assert time.monotonic() < deadline, "it did not come so far"
        time.sleep(0.05)
