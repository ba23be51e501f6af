"""The command `runtimestore` without its start: forked from a process that has loaded all that any command needs.

Loading that takes a second of CPU, a fork a few milliseconds, and the tests run the command many hundred times. What is
forked is a process of its own all the same, with a session, an environment, a folder and pipes of its own. It lacks
what the interpreter does before the command and after it: tests of that start the command as people do.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import pkgutil
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import connection, forkserver
from typing import TYPE_CHECKING, TextIO

import runtimestore_server

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from multiprocessing.connection import Connection
    from pathlib import Path
    from typing import NoReturn

_CONTEXT = multiprocessing.get_context("forkserver")

_READ_AT_START = ("PYTHON", "LD_", "MALLOC_", "GRPC_", "OTEL_", "LANG", "LC_")
"""How the names of variables begin that count only when the interpreter starts or a library is loaded."""

LOADED_BY_USE = (
    "alembic.command",
    "psycopg",
    "sqlalchemy.dialects.postgresql.psycopg",
    "sqlalchemy.dialects.sqlite.pysqlite",
    "uvloop",
)
"""What no module of the server loads before a command comes to it."""

_lock = threading.Lock()
"""Held while a process is started or its end is looked at: `multiprocessing` takes one thread at a time for both."""


def can_be_forked(environment: Mapping[str, str]) -> bool:
    """Tell whether a command with this environment is the same when it is forked from a process that has ours."""
    return _read_at_start(environment) == _read_at_start(os.environ)


def _read_at_start(environment: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in environment.items() if name.startswith(_READ_AT_START)}


class ForkedCommand:
    """What the tests use of `subprocess.Popen`, with standard output and standard error as pipes.

    In the new process `first` is called before the command, if it is given: a function that can be pickled.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        *,
        environment: Mapping[str, str],
        cwd: Path | None,
        first: Callable[[], None] | None = None,
    ) -> None:
        (started, started_writer), (stdout, stdout_writer), (stderr, stderr_writer) = (
            _CONTEXT.Pipe(duplex=False) for _ in range(3)
        )
        writers = (started_writer, stdout_writer, stderr_writer)
        with _lock:
            _start_forking()
            given = (list(arguments), dict(environment), str(cwd or os.curdir), *writers, first)
            self._process = _CONTEXT.Process(target=_run, args=given, daemon=True)
            self._process.start()
        for writer in writers:
            writer.close()
        connection.wait([started])  # until it has a session of its own, in which it is sent signals
        started.close()
        self.pid: int = self._process.pid or 0
        self.returncode: int | None = None
        self.stdout, self.stderr = _text_of(stdout), _text_of(stderr)

    def poll(self) -> int | None:
        """Its exit code, or minus the signal that killed it; nothing as long as it runs."""
        with _lock:
            if self.returncode is None:
                self.returncode = self._process.exitcode
                if self.returncode is not None:
                    self._process.close()
        return self.returncode

    def wait(self, timeout: float) -> int:
        """Its exit code, once it has ended.

        Raises:
            TimeoutExpired: it has not.
        """
        if self.returncode is None:
            connection.wait([self._process.sentinel], timeout)
        code = self.poll()
        if code is None:
            raise subprocess.TimeoutExpired("runtimestore", timeout)
        return code

    def outcome(self, timeout: float) -> subprocess.CompletedProcess[str]:
        """Its exit code and all that it wrote, once it has ended.

        Raises:
            TimeoutExpired: it had not, and was killed.
        """
        with self.stdout, self.stderr, ThreadPoolExecutor(2) as pool:
            output, errors = (pool.submit(stream.read) for stream in (self.stdout, self.stderr))
            try:
                code = self.wait(timeout)
            except subprocess.TimeoutExpired:
                self._process.kill()
                raise
            return subprocess.CompletedProcess("runtimestore", code, output.result(), errors.result())


def _start_forking() -> None:
    """Start the process that forks the others, if it does not run yet."""
    _CONTEXT.set_forkserver_preload([*_modules(), *LOADED_BY_USE])
    before = os.environ.get("GRPC_VERBOSITY")
    os.environ["GRPC_VERBOSITY"] = "NONE"  # as `runtimestore` has it when it loads gRPC
    try:
        forkserver.ensure_running()
    finally:
        del os.environ["GRPC_VERBOSITY"]
        if before is not None:
            os.environ["GRPC_VERBOSITY"] = before


def _modules() -> Iterator[str]:
    for module in pkgutil.walk_packages(runtimestore_server.__path__, f"{runtimestore_server.__name__}."):
        yield module.name


def _text_of(pipe: Connection) -> TextIO:
    with pipe:
        return os.fdopen(os.dup(pipe.fileno()), errors="replace")


def _run(
    arguments: list[str],
    environment: dict[str, str],
    cwd: str,
    started: Connection,
    stdout: Connection,
    stderr: Connection,
    first: Callable[[], None] | None,
) -> NoReturn:
    """Be the command: this is the forked process."""
    from runtimestore_server.__main__ import main

    os.setsid()
    started.close()
    for number, pipe in ((1, stdout), (2, stderr)):
        os.dup2(pipe.fileno(), number)
        pipe.close()
    sys.stdout = os.fdopen(1, "w", closefd=False)
    sys.stderr = os.fdopen(2, "w", buffering=1, errors="backslashreplace", closefd=False)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd)
    sys.argv = ["runtimestore", *arguments]
    gc.freeze()  # what was loaded is not looked through again, and so not copied
    if first is not None:
        first()
    sys.exit(main())
