"""`python -m bench.long_session`: the turns of one runtime whose session grows, sent whole and sent as what changed.

A turn is what a runtime does: it takes in an input, loads its session, and commits a boundary with its whole session
and every input that it ever accepted. One client sends all of that, the other what changed; each drives a fresh server
on each engine, in turn, in one run.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import statistics
import sys
import tempfile
import time
import uuid
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import grpc.aio
from rich import box
from rich.console import Console
from rich.table import Table

from bench import usage
from bench.counted import CountedChannel
from bench.postgres import MeasuredPostgres
from bench.targets import POSTGRES, SQLITE, RunningTarget, Target
from bench.written import Written
from runtimestore import AsyncRuntimeStoreClient, InputState, RunBoundaryReceipt

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

WHOLE, CHANGED = "whole", "what changed"
EARLY, LATE = slice(30, 80), slice(350, 400)
"""Turns that are compared with each other: the session of the late ones is about seven times as long."""
EARLY_DOUBLING, LATE_DOUBLING = slice(50, 100), slice(200, 400)
"""The same where a turn now and then pays for those before it: a new base of the session is written whenever it has
doubled, so that while it doubles one is, wherever that falls."""
TURN_BYTES = 5_000
"""What a turn adds to the session, about."""
INPUT_BYTES = 1_200


@dataclass
class Turns:
    """What each turn took, in its order."""

    seconds: list[float] = field(default_factory=list)
    sent_bytes: list[int] = field(default_factory=list)
    received_bytes: list[int] = field(default_factory=list)
    server_cpu_seconds: list[float] = field(default_factory=list)
    written_bytes: list[int] = field(default_factory=list)
    log_bytes: list[int] = field(default_factory=list)
    """What of that went into the log; SQLite's checkpoints bring it from there into the file, once in a while."""


def session_of(session_id: str, messages: Sequence[str], turn: int) -> bytes:
    """A session after a turn: what changes with it stands behind its messages, as the Rust types write it."""
    tail = {
        "created_at": {"secs_since_epoch": 1_779_451_200, "nanos_since_epoch": 0},
        "updated_at": {"secs_since_epoch": 1_779_451_200 + turn, "nanos_since_epoch": turn},
        "metadata": {"turn": turn},
        "usage": {"input_tokens": 1000 * turn, "output_tokens": 100 * turn},
    }
    head = f'{{"version":1,"id":"{session_id}","messages":['
    return (head + ",".join(messages) + "]," + json.dumps(tail)[1:]).encode()


def message_of(role: str, size_bytes: int) -> str:
    """A message that nothing else repeats."""
    return json.dumps({"role": role, "content": os.urandom(size_bytes // 2).hex()})


def input_of(input_id: str, phase: str, text: str, run_id: str | None) -> InputState:
    """An input in a phase of its life."""
    document = {"input_id": input_id, "current_state": phase, "last_run_id": run_id, "content": text}
    return InputState(input_id, json.dumps(document))


async def drive(target: RunningTarget, url: str | None, turns: int, *, known_bytes: int | None) -> Turns:
    """Take the turns of one runtime, and measure each."""
    took = Turns()
    written = Written(target, url)
    limit = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
    session_id = str(uuid.uuid4())
    runtime_id = f"rt:session:{session_id}"
    messages: list[str] = []
    inputs: list[InputState] = []
    settings: dict[str, Any] = {} if known_bytes is None else {"known_bytes": known_bytes}
    async with grpc.aio.insecure_channel(target.address, options=limit) as channel:
        counted = CountedChannel(channel)
        store = AsyncRuntimeStoreClient(channel=cast("grpc.aio.Channel", counted), timeout_seconds=60, **settings)
        session: bytes | None = None
        for turn in range(turns):
            # What a runtime does itself, such as to write its session down as JSON, is not the store's.
            input_id, run_id = str(uuid.uuid4()), str(uuid.uuid4())
            text = os.urandom(INPUT_BYTES // 2).hex()
            queued, consumed = input_of(input_id, "queued", text, None), input_of(input_id, "consumed", text, run_id)
            inputs.append(consumed)
            messages += [message_of("user", INPUT_BYTES), message_of("assistant", TURN_BYTES - INPUT_BYTES)]
            before, session = session, session_of(session_id, messages, turn + 1)
            receipt = RunBoundaryReceipt(run_id, "run_start", [input_id], len(messages), 0)
            sent, received = counted.sent_bytes, counted.received_bytes
            cpu, written_bytes, log_bytes = usage.own_cpu_seconds(target.pid), written.read_bytes(), written.log_bytes()
            started = time.perf_counter()

            await store.persist_input_state(runtime_id, queued)
            loaded = await store.load_session_snapshot(runtime_id)
            await store.atomic_apply(runtime_id, session, receipt, inputs, session_id)

            took.seconds.append(time.perf_counter() - started)
            took.sent_bytes.append(counted.sent_bytes - sent)
            took.received_bytes.append(counted.received_bytes - received)
            took.server_cpu_seconds.append(usage.own_cpu_seconds(target.pid) - cpu)
            took.written_bytes.append(written.read_bytes() - written_bytes)
            took.log_bytes.append(written.log_bytes() - log_bytes)
            assert loaded == before  # noqa: S101  (a benchmark that lies is none)
    written.close()
    return took


def ratio(values: Sequence[float], late: slice = LATE, early: slice = EARLY) -> float | None:
    """What a late turn took over what an early one took; `None` where there were not that many."""
    if len(values) < late.stop or not sum(values[early]):
        return None
    return statistics.fmean(values[late]) / statistics.fmean(values[early])


def grown(took: Turns) -> float | None:
    """What a late turn wrote over what an early one wrote, with the share of each in the bases of its session."""
    return ratio(took.log_bytes, LATE_DOUBLING, EARLY_DOUBLING)


def table_of(results: dict[str, dict[str, list[Turns]]], turns: int) -> Table:
    """Everything, a row for each engine and form."""
    table = Table(
        "engine", "sent", "seconds", "sent MB", "received MB", "written MB", "late ÷ early: sent", "written", "CPU ms",
        title=f"{turns} turns of one runtime", box=box.SIMPLE, title_justify="left",
    )  # fmt: skip
    for engine, forms in results.items():
        for form, rounds in forms.items():
            for took in rounds:
                cpu = took.server_cpu_seconds
                table.add_row(
                    engine,
                    form,
                    f"{sum(took.seconds):.2f}",
                    *(f"{sum(each) / 1e6:.1f}" for each in (took.sent_bytes, took.received_bytes, took.written_bytes)),
                    *(_text(each) for each in (ratio(took.sent_bytes), grown(took))),
                    f"{1000 * sum(cpu[:50]) / len(cpu[:50]):.1f} → {1000 * sum(cpu[-50:]) / len(cpu[-50:]):.1f}",
                )
    return table


def _text(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def measure(engines: Sequence[str], turns: int, rounds: int, tell: Callable[[str], None]) -> Any:
    """Drive each engine with each form, round after round."""
    results: dict[str, dict[str, list[Turns]]] = {engine: {WHOLE: [], CHANGED: []} for engine in engines}
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="runtimestore-")))
        postgres = stack.enter_context(MeasuredPostgres.found(None)) if POSTGRES in engines else None
        for number in range(1, rounds + 1):
            for engine in engines:
                for form, known_bytes in ((WHOLE, 0), (CHANGED, None)):
                    tell(f"round {number} of {rounds}: {engine}, {form}")
                    target = Target(engine, folder, 1, postgres if engine == POSTGRES else None)
                    with target.running() as running:
                        url = postgres.url if postgres and engine == POSTGRES else None
                        took = asyncio.run(drive(running, url, turns, known_bytes=known_bytes))
                    results[engine][form].append(took)
    return results


def main(command_line: Sequence[str]) -> int:
    """Measure and print; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m bench.long_session", description=__doc__)
    parser.add_argument("--engines", nargs="*", choices=(SQLITE, POSTGRES), default=[SQLITE, POSTGRES])
    parser.add_argument("--turns", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write what each turn took there")
    arguments = parser.parse_args(command_line)
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=120)
    with console.status("starting the servers") as status:
        results = measure(arguments.engines, arguments.turns, arguments.rounds, status.update)
    console.print(table_of(results, arguments.turns))
    if arguments.json:
        told = {
            e: {f: [asdict(took) for took in rounds] for f, rounds in forms.items()} for e, forms in results.items()
        }
        arguments.json.write_text(json.dumps(told) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
