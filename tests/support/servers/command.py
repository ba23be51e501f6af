"""The command `runtimestore` as a process of its own, in a folder and an environment of the test's."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

from support.servers.forked_command import ForkedCommand, can_be_forked
from support.servers.server_process import COMMAND, WAIT_SECONDS, ServerProcess, environment_with

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path


def run(
    *arguments: str, cwd: Path, extra: Mapping[str, str] | None = None, command: Sequence[str] | None = None
) -> subprocess.CompletedProcess[str]:
    """A command that ends by itself: forked, where that makes no difference to it, unless a `command` is given."""
    environment = environment_with({"COLUMNS": "120", **(extra or {})})
    if command is None and can_be_forked(environment):
        return ForkedCommand(arguments, environment=environment, cwd=cwd).outcome(WAIT_SECONDS)
    return subprocess.run(
        [*(command or COMMAND), *arguments],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=WAIT_SECONDS,
    )


def serving(
    *arguments: str,
    cwd: Path,
    extra: Mapping[str, str] | None = None,
    command: Sequence[str] | None = None,
    exit_code: int = 0,
) -> ServerProcess:
    """`runtimestore serve …` with nothing set but by these arguments and this environment."""
    return ServerProcess(
        listen=None, command=command, arguments=arguments, environment=extra, cwd=cwd, exit_code=exit_code
    )
