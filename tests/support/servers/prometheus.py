"""A Prometheus that scrapes servers of a test, and promtool: those on PATH, or Debian's without installing them."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import time
import urllib.parse
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import yaml

if TYPE_CHECKING:
    from collections.abc import Sequence

START_SECONDS = 60


class NoPrometheus(Exception):
    """There is none; the message says how to get it."""


def program(name: str) -> str:
    """Where `prometheus` or `promtool` is.

    Raises:
        NoPrometheus: it cannot be had here.
    """
    if found := shutil.which(name):
        return found
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "runtimestore-prometheus"
    if not (cache / "complete").exists():
        try:
            _fetch(cache)
        except (OSError, StopIteration, subprocess.CalledProcessError) as error:
            raise NoPrometheus("no Prometheus here: apt-get install prometheus, or put it on PATH") from error
    return str(cache / "usr/bin" / name)


def _fetch(cache: Path) -> None:
    """Unpack Debian's package without installing it: nobody has to be root for that, and nothing is started."""
    ours = cache / str(os.getpid())  # tests that run beside each other fetch it at the same time
    ours.mkdir(parents=True, exist_ok=True)
    try:
        subprocess.run(["apt-get", "download", "prometheus"], cwd=ours, check=True, capture_output=True)
        package = next(ours.glob("prometheus_*.deb"))
        subprocess.run(["dpkg", "-x", str(package), str(ours)], check=True, capture_output=True)
        (cache / "usr/bin").mkdir(parents=True, exist_ok=True)
        for name in ("prometheus", "promtool"):
            (ours / "usr/bin" / name).replace(cache / "usr/bin" / name)
        (cache / "complete").touch()
    finally:
        shutil.rmtree(ours, ignore_errors=True)


class Prometheus:
    """It scrapes the job `runtimestore` five times a second and goes by the rules. In a context it runs."""

    def __init__(self, folder: Path, targets: Sequence[str], rules: Path) -> None:
        self._program = program("prometheus")
        self._folder = folder
        configuration = {
            "global": {"scrape_interval": "200ms", "scrape_timeout": "200ms", "evaluation_interval": "1s"},
            "rule_files": [str(rules)],
            "scrape_configs": [{"job_name": "runtimestore", "static_configs": [{"targets": list(targets)}]}],
        }
        (folder / "prometheus.yaml").write_text(yaml.safe_dump(configuration))
        self._process: subprocess.Popen[bytes]
        self._address = ""

    def __enter__(self) -> Self:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._address = f"127.0.0.1:{free.getsockname()[1]}"
        with (self._folder / "output").open("wb") as output:
            self._process = subprocess.Popen(
                [
                    self._program,
                    f"--config.file={self._folder / 'prometheus.yaml'}",
                    f"--storage.tsdb.path={self._folder / 'data'}",
                    f"--web.listen-address={self._address}",
                ],
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                self.ask("/api/v1/status/buildinfo")
            except OSError:
                waiting = self._process.poll() is None and time.monotonic() < deadline
                if not waiting:
                    self.__exit__()
                    raise AssertionError((self._folder / "output").read_text()) from None
                time.sleep(0.05)
            else:
                return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def ask(self, path: str, **parameters: str) -> Any:
        """What its API answers: `data`, or an error."""
        url = f"http://{self._address}{path}?{urllib.parse.urlencode(parameters)}"
        with urllib.request.urlopen(url, timeout=10) as answer:
            return json.load(answer)["data"]
