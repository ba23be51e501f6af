"""Kills a command of `runtimestore` in the midst of what it does to a file, at another system call each time."""

from __future__ import annotations

import subprocess
import sys

SCRIPT = """\
import os, signal, sys
left, watched, calls, *arguments = sys.argv[1:]
left = int(left)
def killing(call):
    def step(*args, **options):
        global left
        named = (os.fsdecode(a) for a in args if isinstance(a, (str, bytes, os.PathLike)))
        left -= call is fsync or any(watched in name for name in named)
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return call(*args, **options)
    return step
fsync = os.fsync
for name in calls.split(","):
    setattr(os, name, killing(getattr(os, name)))
from runtimestore_server.cli import run
sys.exit(run(arguments))
"""
WITHIN_SECONDS = 60


def run_killed_after(
    steps: int, *arguments: str, watched: str, calls: tuple[str, ...]
) -> subprocess.CompletedProcess[str]:
    """Run the command, and kill it before the one of these calls of `os` that comes after so many.

    Those count that name a file whose path has `watched` in it, and each `fsync`, which names none.
    """
    command = [sys.executable, "-c", SCRIPT, str(steps), watched, ",".join(calls), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=WITHIN_SECONDS)
