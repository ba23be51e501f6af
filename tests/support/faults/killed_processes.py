"""Kills processes in the midst of what they do to a database, each at another statement, until one comes through.

A script of these runs in a process of its own: SQLite must not be open where one forks, for the fork would inherit it.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

from sqlalchemy import event

from support.servers.forked_command import LOADED_BY_USE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from sqlalchemy.engine import Engine

TESTS = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))  # noqa: PTH100, PTH120

Found = dict[str, Any]


def run_killed(script: Path, *arguments: str, within_seconds: float) -> tuple[list[Found], Found]:
    """Run such a script; what was found after each process that was killed, and after the one that was not."""
    done = subprocess.run(
        [sys.executable, script, *arguments],
        env={**os.environ, "PYTHONPATH": os.pathsep.join((TESTS, *sys.path))},
        capture_output=True,
        text=True,
        timeout=within_seconds,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    *killed, last = [json.loads(line) for line in done.stdout.splitlines()]
    assert all(found.pop("killed") for found in killed)
    assert not last.pop("killed")
    return killed, last


def kill_one_after_the_other(steps: Iterable[int], work: Callable[[int], None], look: Callable[[], Found]) -> None:
    """Fork for each step a process that works, and another one that looks afterwards: a JSON object a line."""
    for name in LOADED_BY_USE:  # once, and not in each process
        importlib.import_module(name)
    gc.freeze()
    for step in steps:
        child = os.fork()
        if child == 0:
            work(step)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        killed = os.WIFSIGNALED(status)
        if not killed and os.waitstatus_to_exitcode(status) != 0:
            raise SystemExit("a process failed")
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            os.write(writer, json.dumps({"killed": killed, **look()}).encode())
            os._exit(0)
        os.close(writer)
        with os.fdopen(reader) as found:
            print(found.read(), flush=True)  # noqa: T201  (the answer)
        os.waitpid(child, 0)
        if not killed:
            return


def die_before(engine: Engine, step: int) -> None:
    """Have this process kill itself before the statement, or the COMMIT, with this number."""
    steps = 0

    def die(*_: object) -> None:
        nonlocal steps
        steps += 1
        if steps == step:
            os.kill(os.getpid(), signal.SIGKILL)

    event.listen(engine, "before_cursor_execute", die)
    event.listen(engine, "commit", die)
