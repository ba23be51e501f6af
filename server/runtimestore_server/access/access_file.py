"""The access file on the disk: read anew when it changes, and never in the way of a call for long."""

from __future__ import annotations

import contextlib
import os
import stat
import time
from typing import TYPE_CHECKING

import structlog

from runtimestore._files import read_regular
from runtimestore_server.access.rules import Rules, Unusable, parsed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

_log = structlog.get_logger(__name__)

MOST_BYTES = 4 * 1024 * 1024
"""How large the file may be: some twenty thousand principals. Reading that many takes a second, and calls wait."""

EMPTY_SECONDS = 1.0
"""How long a file must have been empty before it counts as one that lets nobody in. Whoever writes it in place makes
it empty first, for a moment in which every call would be refused."""

TICK_NS = 100_000_000
"""How long after a change another one may leave the file's times as they are: the clock of a file system has ticks."""

COARSE_TICK_NS = 2_100_000_000
"""The same where the file system counts whole seconds, as ext2, ext3 and HFS+ do, or every other one, as FAT does."""


class AccessFile:
    """The rules of a file, as the file is now; what cannot be used leaves those in force that were there before.

    Raises (when it is made):
        Unusable: the file cannot be used.
    """

    def __init__(self, path: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._path = path
        self._clock = clock
        self._empty_since: float | None = None
        self.unusable: str | None = None
        """Why the file as it is now is not in force; None if it is."""
        content, self._stamp = self._content()
        self._seen: bytes | None = content
        self.current = self._parsed(content)
        """The rules that are in force, as of the last look at the file."""
        self._warn_if_others_write()

    def rules(self) -> Rules:
        """Return the rules that are in force: read anew if the file has changed, which is asked for one system call."""
        if (now := stamp(self._path)) != self._stamp:
            self._stamp = now
            try:
                self._take_up()
            except Unusable as wrong:
                if self._seen is None:
                    self._stamp = None  # it could not be read: for a reason that may pass, and change nothing of it
                if self.unusable != str(wrong):
                    _log.error("the access file cannot be used; the rules before it stay in force", error=str(wrong))
                self.unusable = str(wrong)
        return self.current

    def _take_up(self) -> None:
        """Parse what the file holds and put it into force.

        Raises:
            Unusable: the file cannot be used; told once for each content.
        """
        seen, self._seen = self._seen, None
        content, self._stamp = self._content()
        self._seen = content
        if content.strip():
            self._empty_since = None
        if content == seen:
            return  # looked at again because the clock had not ticked, or touched
        if not content.strip() and self.current.entries:
            now = self._clock()
            self._empty_since = now if self._empty_since is None else self._empty_since
            if now - self._empty_since < EMPTY_SECONDS:
                self._seen, self._stamp = seen, None  # the next look is as if this had not been
                return
        self._empty_since = None
        self.current = self._parsed(content)
        self.unusable = None
        _log.info("the access file is read anew", entries=len(self.current.entries))
        self._warn_if_others_write()

    def _content(self) -> tuple[bytes, object]:
        """Return what the file holds, and its stamp as of before that; None where a change may leave the same stamp.

        Raises:
            Unusable: the file cannot be read.
        """
        with named(self._path):
            content, status = read_regular(self._path, MOST_BYTES)
        return content, _of(status) if has_settled(status) else None

    def _parsed(self, content: bytes) -> Rules:
        with named(self._path):
            return parsed(content.decode())

    def _warn_if_others_write(self) -> None:
        # That others read it is no harm: of tokens it has digests, and by those nobody comes in.
        with contextlib.suppress(OSError):
            if self._path.stat().st_mode & stat.S_IWOTH:
                _log.warning("everybody on this machine can write the access file; chmod o-w it", path=str(self._path))


@contextlib.contextmanager
def named(path: Path) -> Iterator[None]:
    """Raise what is wrong with an access file as an error that names its flag and its path.

    Raises:
        Unusable: it cannot be read, is no UTF-8, or cannot be used.
    """
    try:
        yield
    except OSError as error:
        raise Unusable(f"--access-file {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise Unusable(f"--access-file {path}: it is no UTF-8") from None
    except Unusable as wrong:
        raise Unusable(f"--access-file {path}: {wrong}") from None


def stamp(path: Path) -> object:
    """Return a value that differs once a file has changed; costs one system call, and means nothing else."""
    try:
        return _of(os.stat(path))  # noqa: PTH116  (a third of pathlib's time, in every call)
    except OSError as error:
        return error.errno


def has_settled(status: os.stat_result) -> bool:
    """Tell whether the next change of this file is sure to alter its timestamps, whose resolution is coarse."""
    tick_ns = TICK_NS if status.st_ctime_ns % 1_000_000_000 else COARSE_TICK_NS
    return abs(time.time_ns() - status.st_ctime_ns) > tick_ns


def _of(status: os.stat_result) -> tuple[int, ...]:
    return status.st_mtime_ns, status.st_ctime_ns, status.st_size, status.st_ino
