"""`python -m bench`: measure everything, in stages, and write it into docs/benchmarks.md."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import datetime as dt
import os
import platform
import sqlite3
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import uvloop
from rich.console import Console
from rich.table import Table

from bench import fsync, page, sizes, stages
from bench.figures import FIGURES_HEAD, figures
from bench.postgres import MeasuredPostgres, NoPostgres
from bench.report import LOOK
from bench.running import exit_with
from bench.targets import POSTGRES, ROOT, SQLITE
from runtimestore_server.store.engines.sqlite_driver import VERSION as SQLITE_VERSION

if TYPE_CHECKING:
    from collections.abc import Sequence

FILE_COLUMNS = 120
"""How wide the table is where no terminal says how wide it is."""
PACKAGES = ("grpcio", "protobuf", "SQLAlchemy", "psycopg", "aiosqlite", "asyncpg", "uvloop")


def arguments_of(command_line: Sequence[str]) -> argparse.Namespace:
    """What the command line asks for."""
    parser = argparse.ArgumentParser(
        prog="python -m bench", description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument(
        "--stages", nargs="*", choices=list(stages.STAGES), default=list(stages.STAGES), help="what to measure"
    )
    parser.add_argument("--engines", nargs="*", choices=(SQLITE, POSTGRES), default=[SQLITE, POSTGRES], help="on what")
    parser.add_argument("--quick", action="store_true", help="so little that it tells whether everything works alone")
    parser.add_argument(
        "--docs", type=Path, default=ROOT / "docs", help="the folder with benchmarks.md and benchmarks/"
    )
    parser.add_argument(
        "--beside",
        type=Path,
        metavar="CHECKOUT",
        help="where calls are measured, measure the server of another checkout too; `make setup` there first",
    )
    parser.add_argument("--postgres-url", help="a server to use; without it one is started")
    parser.add_argument("--directory", type=Path, help="where the SQLite files go; a temporary folder in it")
    return parser.parse_args(command_line)


def main(command_line: Sequence[str]) -> int:
    """Measure, write after each stage, and print the figures that have an aim; the exit code."""
    arguments = arguments_of(command_line)
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=FILE_COLUMNS)
    began, failures = time.monotonic(), list[str]()
    results: dict[str, Any] = {"run": _facts(command_line), "failures": failures}
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="runtimestore-", dir=arguments.directory)))
        results["run"]["fsync_ms"] = fsync.milliseconds(folder)
        engines, postgres = list(arguments.engines), None
        if POSTGRES in engines:
            try:
                postgres = stack.enter_context(MeasuredPostgres.found(arguments.postgres_url))
                results["run"]["postgres"] = postgres.facts()
            except NoPostgres as reason:
                failures.append(f"Postgres: {reason}")
                engines.remove(POSTGRES)
        bench = stages.Bench(
            size=sizes.quick() if arguments.quick else sizes.full(),
            engines=engines,
            folder=folder,
            postgres=postgres,
            runner=stack.enter_context(asyncio.Runner(loop_factory=uvloop.new_event_loop)),
            tell=_teller(console, began),
            failures=failures,
            beside=arguments.beside and arguments.beside.absolute() / ".venv" / "bin" / "python",
        )
        try:
            for name in arguments.stages:
                results[name] = {}
                try:
                    stages.STAGES[name](bench, results[name])
                except Exception as error:  # noqa: BLE001  (the other stages are worth having)
                    failures.append(f"{name}: {type(error).__name__}: {error}")
                page.write_json(arguments.docs, results)
        finally:
            results["run"] |= {"seconds": time.monotonic() - began, "load_at_end": os.getloadavg()}
            page.write(arguments.docs, results)
    _print_figures(console, results)
    for failure in failures:
        console.print(f"not measured: {failure}", style="red", soft_wrap=True, markup=False)
    return 1 if failures else 0


def _teller(console: Console, began: float) -> Any:
    def tell(what: str) -> None:
        console.print(f"{time.monotonic() - began:5.0f} s  {what}", markup=False)

    return tell


def _facts(command_line: Sequence[str]) -> dict[str, Any]:
    return {
        "command": " ".join(("python -m bench", *_without_places(command_line))),
        "began_at": dt.datetime.now(dt.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "cpus": os.cpu_count(),
        "memory_gb": psutil.virtual_memory().total / 1e9,
        "system": platform.platform(),
        "versions": {
            "Python": platform.python_version(),
            "SQLite": SQLITE_VERSION,
            "the plain peer's SQLite": sqlite3.sqlite_version,
            **{name: version(name) for name in PACKAGES},
        },
        "postgres": {},
        "load_at_start": os.getloadavg(),
    }


def _without_places(command_line: Sequence[str]) -> list[str]:
    """The command line without folders and URLs, which belong to the machine."""
    return ["…" if "/" in word else word for word in command_line]


def _print_figures(console: Console, results: dict[str, Any]) -> None:
    table = Table(*FIGURES_HEAD, title="Figures that have an aim", **LOOK)
    for figure in figures(results):
        table.add_row(*(cell.replace("**", "") for cell in figure.row()))
    console.print(table)


if __name__ == "__main__":
    exit_with(main)
