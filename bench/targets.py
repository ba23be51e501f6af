"""What is measured: the floor, and the server on each engine, each a process of its own."""

from __future__ import annotations

import contextlib
import os
import sys
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from bench import usage
from bench.variants import PLAIN, Variant, metrics_url, scraped
from examples.recovery.server_process import ServerProcess

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bench.postgres import MeasuredPostgres

ROOT = Path(__file__).resolve().parent.parent
FLOOR, SQLITE, POSTGRES = "floor", "sqlite", "postgres"
SQLITE_URL = "sqlite:///"
PLAIN_PEERS = {SQLITE: "plain-sqlite", POSTGRES: "plain-postgres"}
"""The name of the plain peer on each engine."""


def _alone() -> dict[str, str]:
    """The environment in which a server finds what is installed with it, and not what is here to measure it."""
    paths = (str(ROOT / "bench" / "server_alone"), os.environ.get("PYTHONPATH"))
    return {"PYTHONPATH": os.pathsep.join(filter(None, paths))}


@dataclass(frozen=True)
class Target:
    """How to start one of the servers, as often as needed, each time on an empty store, or on that behind `url`."""

    name: str
    folder: Path
    committer_threads: int
    postgres: MeasuredPostgres | None = field(default=None)
    python: str = sys.executable
    """The interpreter that has the server: another checkout's has another server."""
    variant: Variant = field(default=Variant(PLAIN))
    beside: str | None = None
    """The target that this one differs from by its variant alone."""
    url: str | None = None
    options: tuple[str, ...] = ()
    """Of the floor."""

    @property
    def is_plain_peer(self) -> bool:
        """Whether it is the plain peer."""
        return self.name in PLAIN_PEERS.values()

    @contextlib.contextmanager
    def running(self) -> Iterator[RunningTarget]:
        """A server that serves; none is left after."""
        url = "" if self.name == FLOOR else self.url or self.fresh_store()
        with self._process(url) as server:
            address = server.wait_until_ready()
            postgres_pid = self.postgres.pid if self.postgres else None
            scraped_at = metrics_url(server.log) if self.variant.is_scraped else None
            file = Path(url.removeprefix(SQLITE_URL)) if url.startswith(SQLITE_URL) else None
            yield RunningTarget(self.name, address, server.pid, postgres_pid, self.variant, scraped_at, file)

    def _process(self, url: str) -> ServerProcess:
        if self.name == FLOOR:
            return ServerProcess(("-m", "bench.floor", *self.options), cwd=ROOT)
        if self.is_plain_peer:
            return ServerProcess(("-m", "bench.plain", "--database-url", url), cwd=ROOT, environment=_alone())
        options = (*self.variant.options, "--committer-threads", str(self.committer_threads))
        return ServerProcess.serve(url, *options, python=self.python, environment=_alone())

    def fresh_store(self) -> str:
        """The URL of a new store, which has its tables where the server does not make them."""
        if self.postgres is None:
            return f"{SQLITE_URL}{self.folder}/{uuid.uuid4()}.db"
        return self.postgres.fresh_database() if self.is_plain_peer else self.postgres.migrated_database(self.python)


@dataclass(frozen=True)
class RunningTarget:
    """A server that serves."""

    name: str
    address: str
    pid: int
    postgres_pid: int | None
    variant: Variant
    scraped_at: str | None
    """The URL of the metrics that are asked for while it is measured."""
    file: Path | None
    """Its store, where that is a file."""

    @property
    def has_counters(self) -> bool:
        """Whether it tells how many writes were in how many transactions."""
        return self.name != FLOOR and self.name not in PLAIN_PEERS.values()

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """Inside, it is measured: whoever watches it in its variant does so."""
        with contextlib.nullcontext() if self.scraped_at is None else scraped(self.scraped_at):
            yield

    def resident_bytes(self) -> int:
        """Its resident memory now."""
        return usage.resident_bytes(self.pid)
