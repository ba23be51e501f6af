"""A process with everything imported and nothing started, which forks the processes that tests kill.

A start of the server takes most of a second, nearly all of it imports; a fork of this process takes a few
milliseconds. It runs no thread and starts nothing of gRPC, so that a fork is sound. One command a line comes in by
standard input and one answer goes out, both JSON; `support.servers.zygote` is the other end.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import sys
import threading
import time
import traceback
from typing import TYPE_CHECKING, Any

import grpc.aio  # noqa: F401  (imported, not started)
import psycopg  # noqa: F401  (loaded by the first connection otherwise)
import uvloop  # noqa: F401  (loaded by `serve` otherwise)
from sqlalchemy import event

import runtimestore_server.app  # loaded by `serve` otherwise
import runtimestore_server.cli.serve  # noqa: F401  (the same)
from runtimestore_server import cli
from runtimestore_server.store.commit_gate import CommitStop
from runtimestore_server.store.engines import open_database
from runtimestore_server.store.engines.postgres_pipeline import Pipeline
from runtimestore_server.store.transaction import commit_batch
from runtimestore_server.store.values import Outcome
from support.generators.lives import Life

if TYPE_CHECKING:
    from collections.abc import Callable

    from runtimestore_server.store.engines import Database

PR_SET_PDEATHSIG = 1
CRASHED = 99


def main() -> None:
    """Answer commands until standard input ends."""
    commands: dict[str, Callable[..., Any]] = {"serve": _serve, "commit": _commit, "wait": _wait}
    for line in sys.stdin:
        command = json.loads(line)
        answer = commands[command.pop("do")](**command)
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


def _serve(environment: dict[str, str], log: str) -> int:
    """`runtimestore serve` as a process of its own; its id."""

    def run() -> int:
        os.environ.update(environment)
        written = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        os.dup2(written, 1)
        os.dup2(written, 2)
        return cli.run(["serve"])

    return _forked(run)


def _commit(
    url: str, realm: str, turns: list[dict[str, int]], dies_at: int | None, dies_within_seconds: float | None
) -> dict[str, Any]:
    """Batches of lives' turns, committed one after the other by a process that kills itself at a step.

    The answer: how many batches it acknowledged, and how many steps it took if it lived to the end.
    """
    theirs, mine = os.pipe()

    def run() -> int:
        database = open_database(url, committer_threads=1, reader_threads=1)
        steps = _Steps(database, dies_at=dies_at, dies_within_seconds=dies_within_seconds)
        for batch in turns:
            writes = [Life(name).write(realm, turn) for name, turn in batch.items()]
            decisions, committed = commit_batch(database, writes, CommitStop().gate())
            if not committed or any(type(decision) is not Outcome for decision in decisions):
                raise RuntimeError(decisions)
            steps.passed()  # after COMMIT and before the answer
            os.write(mine, b"acknowledged\n")
        database.dispose()
        os.write(mine, b"steps %d\n" % steps.count)
        return 0

    process = _forked(run)
    os.close(mine)
    with os.fdopen(theirs) as answers:
        lines = answers.read().splitlines()
    status = _wait(process)
    steps = [int(line.split()[1]) for line in lines if line.startswith("steps")]
    return {"status": status, "acknowledged": lines.count("acknowledged"), "steps": steps[0] if steps else None}


def _wait(process: int) -> int:
    """The exit code of a process, or minus the signal that killed it."""
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def _forked(run: Callable[[], int]) -> int:
    process = os.fork()
    if process:
        return process
    code = CRASHED
    try:
        with contextlib.suppress(OSError, AttributeError):  # where there is such a call: no orphans
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        code = run()
    except BaseException:  # noqa: BLE001  (the parent's part of this program must not run twice)
        traceback.print_exc()
    os._exit(code)


class _Steps:
    """Counts the steps of the write path and kills the process at one of them, or some time into a COMMIT."""

    def __init__(self, database: Database, *, dies_at: int | None, dies_within_seconds: float | None) -> None:
        self.count = 0
        self._dies_at = dies_at
        self._dies_within_seconds = dies_within_seconds
        engine = database.writers
        for name in ("checkout", "begin"):
            event.listen(engine, name, self.passed)
        if database.concurrent_writers:  # by the pipeline of each
            # Who listens to statements has them sent one by one. The last ones are received behind COMMIT.
            for name in ("send", "_receive"):
                real = getattr(Pipeline, name)
                setattr(Pipeline, name, self._stepping(real))
        else:
            for name in ("before_cursor_execute", "after_cursor_execute"):
                event.listen(engine, name, self.passed)
        commit = engine.dialect.do_commit

        def do_commit(connection: Any) -> None:
            self.passed()
            if self._dies_within_seconds is not None:
                threading.Thread(target=self._die_soon, args=(self._dies_within_seconds,), daemon=True).start()
                self._dies_within_seconds = None
            commit(connection)
            self.passed()

        engine.dialect.do_commit = do_commit  # type: ignore[assignment, method-assign]  # no event tells of its end

    def _stepping(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def stepped(*given: Any, **named: Any) -> Any:
            self.passed()
            return real(*given, **named)

        return stepped

    def passed(self, *_: Any) -> None:
        """One step further."""
        self.count += 1
        if self.count == self._dies_at:
            os.kill(os.getpid(), signal.SIGKILL)

    @staticmethod
    def _die_soon(seconds: float) -> None:
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            time.sleep(0)  # others hold the interpreter until they enter the engine
        os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    main()
