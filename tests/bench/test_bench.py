"""The benchmark runs: what it measures is asserted nowhere, a machine under test is no place for that."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TINY = (
    *("--rounds", "1"),
    *("--seconds", "0.3"),
    *("--warm-up-seconds", "0.1"),
    *("--runtimes", "4"),
    *("--snapshot-bytes", "5000"),
    *("--large-megabytes", "1"),
)


@pytest.mark.slow
def test_the_benchmark_prints_its_tables_and_writes_them_as_json(tmp_path: Path) -> None:
    written = tmp_path / "bench.json"
    command = (sys.executable, "-m", "bench", *TINY, "--directory", str(tmp_path), "--json", str(written))
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)

    assert done.returncode == 0, done.stdout + done.stderr
    for heading in ("AtomicApply, 4 at once", "AtomicApply, 1 at once", "PersistInputState, 1 at once", "Aims"):
        assert heading in done.stdout
    targets = json.loads(written.read_text(encoding="utf-8"))["targets"]
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
