"""Kills a command of `runtimestore` in the midst of what it does to a file, at another system call each time."""

from __future__ import annotations

import os
import signal
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from support.servers.forked_command import ForkedCommand
from support.servers.server_process import environment_with

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable

WITHIN_SECONDS = 60


def run_killed_after(
    steps: int, *arguments: str, watched: str, calls: tuple[str, ...]
) -> subprocess.CompletedProcess[str]:
    """Run the command, and kill it before the one of these calls of `os` that comes after so many.

    Those count that name a file whose path has `watched` in it, and each `fsync`, which names none.
    """
    command = ForkedCommand(
        arguments, environment=environment_with({}), cwd=Path.cwd(), first=partial(_die_after, steps, watched, calls)
    )
    return command.outcome(WITHIN_SECONDS)


def _die_after(steps: int, watched: str, calls: tuple[str, ...]) -> None:
    """Have this process kill itself once it has come so far."""
    left, fsync = steps, os.fsync

    def killing(call: Callable[..., Any]) -> Callable[..., Any]:
        def step(*arguments: Any, **options: Any) -> Any:
            nonlocal left
            named = (os.fsdecode(one) for one in arguments if isinstance(one, (str, bytes, os.PathLike)))
            left -= call is fsync or any(watched in name for name in named)
            if left < 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*arguments, **options)

        return step

    for name in calls:
        setattr(os, name, killing(getattr(os, name)))
