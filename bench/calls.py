"""`python -m bench.calls`: measure a call, of the server on each engine beside the floor and the plain peer."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from bench import report
from bench.postgres import MeasuredPostgres, NoPostgres
from bench.rounds import MeasurementFailed, Plan, run
from bench.running import exit_with
from bench.targets import FLOOR, PLAIN_PEERS, POSTGRES, SQLITE, Target
from bench.variants import METRICS, PARTS, PLAIN, Variant, made
from runtimestore_server.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Sequence

FILE_COLUMNS = 120
"""How wide the tables are where no terminal says how wide it is."""

DESCRIPTION = """\
Start the floor (a grpc.aio server that takes the same messages and answers at once) and the server on each engine, side
by side, and drive them in turn, round after round: many runtimes with AtomicApply, one with AtomicApply, one with
PersistInputState. Then one large commit on a fresh server each. Every ratio is taken within a round.
"""


def arguments_of(command_line: Sequence[str]) -> argparse.Namespace:
    """What the command line asks for."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.calls", description=DESCRIPTION, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument(
        "--engines",
        nargs="*",
        choices=(SQLITE, POSTGRES),
        default=[SQLITE, POSTGRES],
        help="what to measure beside the floor",
    )
    parser.add_argument("--plain", action="store_true", help="measure the plain peer on each engine, too")
    parser.add_argument("--rounds", type=int, default=3, help="how often each target is measured with each load")
    parser.add_argument("--seconds", type=float, default=3.0, help="how long each measurement lasts")
    parser.add_argument("--warm-up-seconds", type=float, default=0.7, help="load before each measurement, not counted")
    parser.add_argument("--runtimes", type=int, default=64, help="how many drive the server at once")
    parser.add_argument("--channels", type=int, default=4, help="how many connections they share")
    parser.add_argument("--snapshot-bytes", type=int, default=20_000, help="the size of the session snapshot")
    parser.add_argument(
        "--committer-threads",
        type=int,
        metavar="N",
        default=Settings.model_fields["committer_threads"].default,
        help="how many transactions each server commits at a time; of the engines, Postgres can do more than one",
    )
    parser.add_argument("--large-megabytes", type=float, default=60.0, help="the large commit's size; 0: none")
    parser.add_argument(
        "--beside",
        type=Path,
        metavar="CHECKOUT",
        help="measure the server of another checkout in the same rounds, as ENGINE-beside; `make setup` there first",
    )
    parser.add_argument(
        "--variants",
        type=_variants,
        metavar="NAMES",
        default=[PLAIN],
        help=(
            f"which variants of each server to measure in the same rounds, separated by commas: {', '.join(PARTS)}. "
            f"In {METRICS} /metrics is asked for every second; each is compared with the first"
        ),
    )
    parser.add_argument("--postgres-url", help="a server to use; without it one is started")
    parser.add_argument("--directory", type=Path, help="where the SQLite files go; a temporary folder in it")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all that was measured there")
    return parser.parse_args(command_line)


def _variants(names: str) -> list[str]:
    found = list(dict.fromkeys(names.split(",")))
    if unknown := [name for name in found if name not in PARTS]:
        raise argparse.ArgumentTypeError(f"{unknown[0]!r} is none of {', '.join(PARTS)}")
    return found


def targets_of(
    arguments: argparse.Namespace, folder: Path, stack: contextlib.ExitStack
) -> tuple[list[Target], dict[str, Any]]:
    """What is measured, and what is to be known of it."""
    threads = arguments.committer_threads
    pythons = {"": sys.executable}
    if arguments.beside:
        pythons["-beside"] = str(arguments.beside.absolute() / ".venv" / "bin" / "python")
    facts: dict[str, Any] = {}
    variants = [Variant(PLAIN)]  # as it is by itself: another checkout may not know the flags
    if arguments.variants != [PLAIN]:
        variants = [made(name, folder) for name in arguments.variants]
    engines: list[tuple[str, MeasuredPostgres | None]] = [(SQLITE, None)] if SQLITE in arguments.engines else []
    if POSTGRES in arguments.engines:
        try:
            postgres = stack.enter_context(MeasuredPostgres.found(arguments.postgres_url))
        except NoPostgres as reason:
            facts["postgres"] = f"not measured: {reason}"
        else:
            facts["postgres"] = postgres.facts()
            engines.append((POSTGRES, postgres))
    targets = [Target(FLOOR, folder, threads)]
    for engine, database in engines:
        for which, python in pythons.items():
            first = f"{engine}{which}{variants[0].suffix}"
            for variant in variants:
                name = f"{engine}{which}{variant.suffix}"
                beside = first if name != first else None
                targets.append(Target(name, folder, threads, database, python, variant, beside))
        if arguments.plain:
            targets.append(Target(PLAIN_PEERS[engine], folder, threads, database))
    return targets, facts


def main(command_line: Sequence[str]) -> int:
    """Measure, print and write; the exit code."""
    arguments = arguments_of(command_line)
    plan = Plan(
        rounds=arguments.rounds,
        seconds=arguments.seconds,
        warm_up_seconds=arguments.warm_up_seconds,
        runtimes=arguments.runtimes,
        channels=arguments.channels,
        snapshot_bytes=arguments.snapshot_bytes,
        large_bytes=int(arguments.large_megabytes * 1e6),
        committer_threads=arguments.committer_threads,
    )
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=FILE_COLUMNS)
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="runtimestore-", dir=arguments.directory)))
        targets, facts = targets_of(arguments, folder, stack)
        try:
            with console.status("starting the servers") as status:
                results = run(plan, targets, tell=status.update)
        except MeasurementFailed as failure:
            console.print(f"[red]{failure}[/]", markup=True, soft_wrap=True)
            return 1
    report.print_tables(console, plan, results)
    for name, fact in facts.items():
        console.print(f"{name}: {fact}", soft_wrap=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(report.summary(plan, results, facts), indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    exit_with(main)
