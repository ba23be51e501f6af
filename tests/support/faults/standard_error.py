"""Ways in which standard error takes no lines: each a context that gives what a process is to be started with."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shlex
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SMALLEST_PIPE_BYTES = 4096

LARGEST_FILE_BYTES = 16 * 1024 * 1024
"""More than a small store and its log take."""


class StandardError:
    """What a process has as its standard error, for `subprocess.Popen`; `drained` reads what a pipe holds."""

    def __init__(self, *, stderr: int | None = None, reader: int | None = None, by_shell: str = "") -> None:
        self.stderr = stderr
        self.by_shell = by_shell
        """What a shell is to do with it as it starts the process."""
        self._reader = reader

    def drained(self) -> str:
        """All that was written, once no process has the other end any more."""
        assert self._reader is not None
        found = bytearray()
        while piece := os.read(self._reader, 65536):
            found += piece
        return found.decode(errors="replace")

    def read_some(self) -> str:
        """What is there now, a pipe full at most."""
        assert self._reader is not None
        return os.read(self._reader, 65536).decode(errors="replace")


@contextlib.contextmanager
def nobody_reads(*, blocking: bool = True) -> Iterator[StandardError]:
    """A pipe that nobody empties; it is full after a few lines."""
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, SMALLEST_PIPE_BYTES)
    os.set_blocking(writer, blocking)
    try:
        with _closing(writer):
            yield StandardError(stderr=writer, reader=reader)
    finally:
        os.close(reader)


@contextlib.contextmanager
def nobody_reads_and_it_does_not_block() -> Iterator[StandardError]:
    """The same, which another program that has it made such that a write to it fails instead of waiting."""
    with nobody_reads(blocking=False) as found:
        yield found


@contextlib.contextmanager
def reader_gone() -> Iterator[StandardError]:
    """A pipe whose reader has ended."""
    reader, writer = os.pipe()
    os.close(reader)
    with _closing(writer):
        yield StandardError(stderr=writer)


@contextlib.contextmanager
def disk_full() -> Iterator[StandardError]:
    """A file on a disk that is full."""
    writer = os.open("/dev/full", os.O_WRONLY)
    with _closing(writer):
        yield StandardError(stderr=writer)


@contextlib.contextmanager
def grown_to_its_limit() -> Iterator[StandardError]:
    """A file that is as large as the process may make one (RLIMIT_FSIZE)."""
    with tempfile.NamedTemporaryFile() as file:
        file.truncate(LARGEST_FILE_BYTES)
        blocks = LARGEST_FILE_BYTES // 512  # the unit of POSIX' ulimit
        yield StandardError(by_shell=f'ulimit -f {blocks}; exec "$@" 2>>{shlex.quote(file.name)}')
        assert Path(file.name).stat().st_size == LARGEST_FILE_BYTES


@contextlib.contextmanager
def closed() -> Iterator[StandardError]:
    """None at all: the first file that is opened has its number."""
    yield StandardError(by_shell='exec "$@" 2>&-')


@contextlib.contextmanager
def all_closed() -> Iterator[StandardError]:
    """None at all, and neither input nor output."""
    yield StandardError(by_shell='exec "$@" <&- >&- 2>&-')


@contextlib.contextmanager
def _closing(descriptor: int) -> Iterator[None]:
    try:
        yield
    finally:
        os.close(descriptor)


WAYS: tuple[Callable[[], contextlib.AbstractContextManager[StandardError]], ...] = (
    nobody_reads,
    nobody_reads_and_it_does_not_block,
    reader_gone,
    disk_full,
    grown_to_its_limit,
    closed,
    all_closed,
)


def started_with(found: StandardError, command: list[str]) -> tuple[list[str], dict[str, Any]]:
    """The command and the arguments with which `subprocess` starts it with this standard error."""
    if found.by_shell:
        return ["/bin/sh", "-c", found.by_shell, "sh", *command], {}
    return command, {"stderr": found.stderr}
