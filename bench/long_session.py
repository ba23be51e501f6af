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
import sys
import tempfile
import time
import uuid
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc.aio
import psycopg
from rich import box
from rich.console import Console
from rich.table import Table

from bench import usage
from bench.postgres import MeasuredPostgres
from bench.targets import POSTGRES, SQLITE, RunningTarget, Target
from runtimestore import AsyncRuntimeStoreClient, InputState, RunBoundaryReceipt

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

WHOLE, CHANGED = "whole", "what changed"
EARLY, LATE = slice(31, 81), slice(351, 401)
"""Turns that are compared with each other: the session of the late ones is about seven times as long."""
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


@dataclass
class Counted:
    """The bytes of the messages of all calls."""

    sent: int = 0
    received: int = 0


class CountedUnary(grpc.aio.UnaryUnaryClientInterceptor):
    """Counts what goes and comes with calls of one answer."""

    def __init__(self, counted: Counted) -> None:
        self._counted = counted

    async def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
        """Count both messages."""
        self._counted.sent += request.ByteSize()
        call = await continuation(details, request)
        self._counted.received += (await call).ByteSize()
        return call


class CountedStream(grpc.aio.UnaryStreamClientInterceptor):
    """Counts what goes and comes with calls of many answers; gRPC takes one interceptor for one kind of call."""

    def __init__(self, counted: Counted) -> None:
        self._counted = counted

    async def intercept_unary_stream(self, continuation: Any, details: Any, request: Any) -> Any:
        """Count the request, and each message as it is read."""
        self._counted.sent += request.ByteSize()
        call = await continuation(details, request)

        async def messages() -> Any:
            async for message in call:
                self._counted.received += message.ByteSize()
                yield message

        return messages()


class Written:
    """The bytes that a server had written: SQLite's files by the process itself, Postgres' log by its position."""

    def __init__(self, target: RunningTarget, url: str | None) -> None:
        self._io = Path(f"/proc/{target.pid}/io")
        self._connection = psycopg.connect(url, autocommit=True) if url else None

    def read_bytes(self) -> int:
        """How many until now."""
        if self._connection is not None:
            row = self._connection.execute("SELECT pg_current_wal_lsn() - '0/0'").fetchone()
            return int(row[0]) if row else 0
        fields = dict(line.split(": ") for line in self._io.read_text(encoding="ascii").splitlines())
        return int(fields["write_bytes"])

    def close(self) -> None:
        """End the connection."""
        if self._connection is not None:
            self._connection.close()


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
    counted, took = Counted(), Turns()
    written = Written(target, url)
    limit = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
    session_id = str(uuid.uuid4())
    runtime_id = f"rt:session:{session_id}"
    messages: list[str] = []
    inputs: list[InputState] = []
    settings: dict[str, Any] = {} if known_bytes is None else {"known_bytes": known_bytes}
    interceptors = [CountedUnary(counted), CountedStream(counted)]
    async with grpc.aio.insecure_channel(target.address, options=limit, interceptors=interceptors) as channel:
        store = AsyncRuntimeStoreClient(channel=channel, timeout_seconds=60, **settings)
        for turn in range(turns):
            input_id, run_id = str(uuid.uuid4()), str(uuid.uuid4())
            text = os.urandom(INPUT_BYTES // 2).hex()
            answers = [message_of("user", INPUT_BYTES), message_of("assistant", TURN_BYTES - INPUT_BYTES)]
            before = counted.sent, counted.received, usage.cpu_seconds(target.pid), written.read_bytes()
            started = time.perf_counter()

            await store.persist_input_state(runtime_id, input_of(input_id, "queued", text, None))
            loaded = await store.load_session_snapshot(runtime_id)
            assert loaded == (session_of(session_id, messages, turn) if turn else None)  # noqa: S101  (a benchmark that lies is none)
            messages += answers
            inputs.append(input_of(input_id, "consumed", text, run_id))
            await store.atomic_apply(
                runtime_id,
                session_of(session_id, messages, turn + 1),
                RunBoundaryReceipt(run_id, "run_start", [input_id], len(messages), 0),
                inputs,
                session_id,
            )

            took.seconds.append(time.perf_counter() - started)
            took.sent_bytes.append(counted.sent - before[0])
            took.received_bytes.append(counted.received - before[1])
            took.server_cpu_seconds.append(usage.cpu_seconds(target.pid) - before[2])
            took.written_bytes.append(written.read_bytes() - before[3])
    written.close()
    return took


def ratio(values: Sequence[float], late: slice = LATE, early: slice = EARLY) -> float | None:
    """What the late turns took over what the early ones took; `None` where there were not that many."""
    if len(values) < late.stop - 1 or not sum(values[early]):
        return None
    return sum(values[late]) / sum(values[early])


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
                    *(_text(ratio(each)) for each in (took.sent_bytes, took.written_bytes)),
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
