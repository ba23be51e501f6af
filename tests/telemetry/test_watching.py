"""The dashboard and the alerts ask for what servers tell, and Prometheus takes all of them."""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import promql_parser
import pytest
import yaml

from runtimestore import InvalidRequest, RetryPolicy, RuntimeStoreClient, Tls
from runtimestore_server.store.schema import upgrade
from support.checkers.scraping import LISTEN, metrics_address, scraped, until, value
from support.servers.access import access_file, ca, entry, new_token, server_files
from support.servers.postgres import quick_postgres
from support.servers.prometheus import NoPrometheus, Prometheus, program
from support.servers.server_process import ServerProcess

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[2]
RULES = ROOT / "deploy/prometheus/rules.yaml"
CASES = ROOT / "deploy/prometheus/rules_test.yaml"
DASHBOARD = ROOT / "deploy/grafana/dashboards/runtimestore.json"
OPERATIONS = ROOT / "docs/operations.md"
OF_PROMETHEUS = {"up": set[str]()}
"""What Prometheus adds by itself."""
OF_A_TARGET = {"job", "instance"}
VARIABLES = {"$job": "runtimestore", "$instance": ".*", "$__rate_interval": "1m"}
WITHOUT_A_CAUSE = {"runtimestore_log_lines_left_out_total"}
"""What has no sample until more is refused than the log takes."""
RUNTIME = "rt:session:019e4f8e-8200-7daf-ae78-9e6aa1b965f4"


def _alerts() -> list[dict[str, Any]]:
    groups = yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"]
    return [rule for group in groups for rule in group["rules"]]


def _queries() -> list[str]:
    panels = json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]
    found = [target["expr"] for panel in panels for target in panel.get("targets", [])]
    for name, text in VARIABLES.items():
        found = [query.replace(name, text) for query in found]
    return found


@pytest.fixture(scope="module")
def addresses(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[str]]:
    """Where two servers are scraped, one on each engine, of which each was called and refused something."""
    folder = tmp_path_factory.mktemp("watched")
    rules = access_file(folder / "access.toml", [entry("a", token := new_token())])
    files: Any = server_files(folder) | {"access_file": rules}
    with contextlib.ExitStack() as stack:
        postgres = stack.enter_context(quick_postgres())
        upgrade(postgres.url)
        found = []
        for url in (f"sqlite:///{folder}/store.db", postgres.url):
            server = stack.enter_context(ServerProcess(url, **LISTEN, **files))
            tls = Tls(ca=ca().cert_pem.bytes())
            with RuntimeStoreClient(server.address, tls=tls, token=token, retry=RetryPolicy(max_attempts=1)) as client:
                client.commit_machine_lifecycle(RUNTIME, "running")
                client.load_runtime_state(RUNTIME)
                with pytest.raises(InvalidRequest):
                    client.load_boundary_receipt(RUNTIME, "no uuid", 0)
            address = metrics_address(server)
            until(lambda at=address: value(at, "runtimestore_sampled_timestamp_seconds") > 0)  # type: ignore[misc]
            found.append(address)
        yield found


def _selectors(expression: promql_parser.Expr) -> Iterator[promql_parser.VectorSelector]:
    if isinstance(expression, promql_parser.VectorSelector):
        yield expression
    elif isinstance(expression, promql_parser.MatrixSelector):
        yield expression.vector_selector
    elif isinstance(expression, promql_parser.BinaryExpr):
        yield from _selectors(expression.lhs)
        yield from _selectors(expression.rhs)
    elif isinstance(expression, promql_parser.Call):
        for argument in expression.args:
            yield from _selectors(argument)
    elif isinstance(
        expression,
        promql_parser.AggregateExpr | promql_parser.ParenExpr | promql_parser.UnaryExpr | promql_parser.SubqueryExpr,
    ):
        yield from _selectors(expression.expr)


def test_every_query_of_the_dashboard_and_the_alerts_names_what_servers_tell(addresses: list[str]) -> None:
    told: dict[str, set[str]] = {name: set(labels) for name, labels in OF_PROMETHEUS.items()}
    for metric in (metric for address in addresses for metric in scraped(address)):
        told.setdefault(metric.name if metric.type != "counter" else f"{metric.name}_total", set())
        for sample in metric.samples:
            told.setdefault(sample.name, set()).update(sample.labels)

    wrong = []
    for query in (*_queries(), *(alert["expr"] for alert in _alerts())):
        for selector in _selectors(promql_parser.parse(query)):
            name = selector.name or ""
            labels = {matcher.name for matcher in selector.matchers.matchers} - OF_A_TARGET
            if name not in told or ((told[name] or name not in WITHOUT_A_CAUSE) and not labels <= told[name]):
                wrong.append((query, name, labels))
        # Outside of the braces labels are only grouped by, so that a wrong one is an empty one, and no error.
        for grouped in re.findall(r"\bby \(([^)]*)\)", query):
            known = set().union(*(told.get(one.name or "", set()) for one in _selectors(promql_parser.parse(query))))
            unnamed = {label.strip() for label in grouped.split(",")} - OF_A_TARGET - known
            if unnamed and not re.search("|".join(WITHOUT_A_CAUSE), query):
                wrong.append((query, "by", unnamed))
    assert not wrong


def test_every_alert_has_its_section_of_the_runbook_and_a_case_where_it_is_told() -> None:
    sections = re.findall(r"^#### (RuntimeStore\w+)$", OPERATIONS.read_text(encoding="utf-8"), re.MULTILINE)
    cases = yaml.safe_load(CASES.read_text(encoding="utf-8"))["tests"]
    told = {one["alertname"] for case in cases for one in case["alert_rule_test"] if one["exp_alerts"]}
    names = [alert["alert"] for alert in _alerts()]

    assert sorted(sections) == sorted(names)
    assert told == set(names)
    for alert in _alerts():
        assert alert["annotations"]["runbook"] == f"docs/operations.md#{alert['alert'].lower()}"
        assert alert["labels"]["severity"] in {"critical", "warning"}


@pytest.mark.parametrize("command", [["check", "rules", RULES], ["test", "rules", CASES]])
def test_promtool_finds_the_rules_sound_and_each_case_of_them_true(command: list[str | Path]) -> None:
    try:
        promtool = program("promtool")
    except NoPrometheus as reason:
        pytest.skip(str(reason))
    done = subprocess.run([promtool, *command], capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stdout + done.stderr


def test_a_prometheus_that_scrapes_servers_answers_every_query_and_takes_every_rule(
    addresses: list[str], tmp_path: Path
) -> None:
    try:
        prometheus = Prometheus(tmp_path, addresses, RULES)
    except NoPrometheus as reason:
        pytest.skip(str(reason))
    asked = [query for query in _queries() if not re.search("|".join(WITHOUT_A_CAUSE), query)]
    with prometheus:
        deadline = time.monotonic() + 60
        empty = asked
        while empty:
            assert time.monotonic() < deadline, f"nothing is answered to {empty}"
            time.sleep(0.2)
            empty = [query for query in empty if not prometheus.ask("/api/v1/query", query=query)["result"]]
        for query in _queries():
            prometheus.ask("/api/v1/query", query=query)

        def rules() -> list[dict[str, Any]]:
            return [rule for group in prometheus.ask("/api/v1/rules")["groups"] for rule in group["rules"]]

        until(lambda: all(rule["health"] != "unknown" for rule in rules()))
        assert {rule["name"]: rule["health"] for rule in rules()} == {alert["alert"]: "ok" for alert in _alerts()}
        firing = {rule["name"] for rule in rules() if rule["state"] == "firing"}
        assert firing <= {"RuntimeStoreDiskFills"}  # of the machine that the tests run on
