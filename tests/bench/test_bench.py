"""The benchmark runs: what it measures is asserted nowhere, a machine under test is no place for that."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).resolve().parents[2]
TINY = (
    *("--rounds", "1"),
    *("--seconds", "0.05"),  # and ten times as long where nothing is answered in it
    *("--warm-up-seconds", "0.02"),
    *("--runtimes", "4"),
    *("--snapshot-bytes", "5000"),
    *("--large-megabytes", "1"),
    *("--committer-threads", "3"),
)
SERVE = ["-m", "runtimestore_server", "serve"]
LONGEST_SECONDS = 180


def _servers_of(bench: subprocess.Popen[str]) -> set[tuple[str, ...]]:
    """The command lines of all servers that the benchmark starts, until it ends."""
    servers = set()
    while bench.poll() is None:
        with contextlib.suppress(psutil.NoSuchProcess):
            children = [child.cmdline() for child in psutil.Process(bench.pid).children()]
            servers |= {tuple(line) for line in children if line[1:4] == SERVE}
        time.sleep(0.5)  # each serves for seconds, and to look takes some milliseconds of CPU
    return servers


@pytest.mark.slow
def test_the_benchmark_prints_its_tables_and_writes_them_as_json(tmp_path: Path) -> None:
    written = tmp_path / "bench.json"
    command = (sys.executable, "-m", "bench.calls", *TINY, "--directory", str(tmp_path), "--json", str(written))
    with (
        subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as bench,
        ThreadPoolExecutor(1) as pool,
    ):
        seen = pool.submit(_servers_of, bench)
        try:
            printed, _ = bench.communicate(timeout=LONGEST_SECONDS)
        finally:
            bench.terminate()

    assert bench.returncode == 0, printed
    servers = seen.result()
    assert len(servers) == 4, servers  # on each engine one for the load and one for the large commit
    assert [server for server in servers if server[-2:] != ("--committer-threads", "3")] == []
    for heading in ("AtomicApply, 4 at once", "AtomicApply, 1 at once", "PersistInputState, 1 at once", "Aims"):
        assert heading in printed
    report = json.loads(written.read_text(encoding="utf-8"))
    assert report["plan"]["committer_threads"] == 3
    targets = report["targets"]
    assert set(targets) == {"floor", "sqlite", "postgres"}
    for target in targets.values():
        for rounds in target["measurements"].values():
            (measured,) = rounds
            assert measured["calls"] > 0
            assert measured["calls_per_second"] > 0
            assert 0 < measured["p50_ms"] <= measured["p99_ms"]
        assert target["memory"]["idle_bytes"] > 0
        assert target["memory"]["large_commit"]["peak_bytes"] > 0
    for engine in ("sqlite", "postgres"):
        (with_four,) = targets[engine]["measurements"]["many"]
        assert with_four["writes_per_transaction"] >= 1
    (with_four,) = targets["postgres"]["measurements"]["many"]
    assert with_four["postgres_cpu_us_per_call"] is not None
    assert list(tmp_path.iterdir()) == [written]


@pytest.mark.slow
def test_variants_are_measured_beside_the_plain_server_in_the_same_rounds(tmp_path: Path) -> None:
    written = tmp_path / "bench.json"
    command = (
        sys.executable,
        "-m",
        "bench.calls",
        *TINY,
        "--engines",
        "sqlite",
        "--variants",
        "plain,all",
        "--large-megabytes=0",
    )
    with (
        subprocess.Popen(
            (*command, "--directory", str(tmp_path), "--json", str(written)),
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        ) as bench,
        ThreadPoolExecutor(1) as pool,
    ):
        seen = pool.submit(_servers_of, bench)
        try:
            printed, _ = bench.communicate(timeout=LONGEST_SECONDS)
        finally:
            bench.terminate()

    assert bench.returncode == 0, printed
    assert "sqlite+all" in printed
    protected = [{"--tls-cert", "--tls-key", "--access-file"} & set(server) for server in seen.result()]
    assert sorted(map(len, protected)) == [0, 3]
    targets = json.loads(written.read_text(encoding="utf-8"))["targets"]
    assert set(targets) == {"floor", "sqlite", "sqlite+all"}
    assert set(targets["sqlite+all"]["cpu_to_variant_beside"]) == {"many", "one", "inputs"}
    assert targets["sqlite"]["cpu_to_variant_beside"] == {}


def test_a_variant_that_nobody_knows_is_refused_by_its_name() -> None:
    command = (sys.executable, "-m", "bench.calls", "--variants", "plain,fast")
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)

    assert done.returncode == 2
    assert "'fast' is none of plain, metrics, tls, tokens, all" in done.stderr
