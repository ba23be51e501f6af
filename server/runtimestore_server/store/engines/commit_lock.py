"""The lock beside an SQLite file that keeps checkpoints and commits of all its servers apart.

SQLite up to 3.51.2 loses acknowledged commits when one connection commits and begins the log anew while another one
makes a checkpoint. So commits share this lock and a checkpoint has it alone, whatever SQLite each server uses. See
docs/decisions/0041.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import threading
import time
from pathlib import Path

from runtimestore_server.store.engines.answers import EngineRefusal

SUFFIX = "-lock"

_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK
"""A pipe of that name would be waited for without end."""


class CheckpointUnderWay(EngineRefusal):
    """Another server on the file has been making a checkpoint for longer than is waited for."""

    words = "another process has been bringing the log into the file for longer than is waited for: try again"


class NoLock(EngineRefusal):
    """The lock's file cannot be opened or made, or not be locked; `number` is the system's own."""

    def __init__(self, path: str, error: OSError) -> None:
        super().__init__(error.strerror)
        self.number = error.errno or 0
        self._path = path

    def sentence(self) -> str:
        """Say what is wrong, and the cure."""
        return f"{self._path}, by which commits and checkpoints exclude each other: {self}; let this user open it"


class CommitLock:
    """The lock of one server, on a file of its own: to close a handle on SQLite's own files would drop SQLite's locks.

    Take it once SQLite's write lock is held: who waits for that holds nothing, and keeps nobody from a checkpoint.
    """

    def __init__(self, database_file: str) -> None:
        self._database_file = database_file
        self._path = database_file + SUFFIX
        self._handle: int | None = None
        self._held = False
        self._kept = False
        """Whether it is held alone for a checkpoint beside the commits of this server."""
        self._kept_for_commit = False
        """Whether that has ended, and a commit that began within it has not."""
        self._committing = False
        self._mutex = threading.Lock()  # `close` comes from any thread

    def share(self, *, within_seconds: float) -> None:
        """Keep every checkpoint out until `release`.

        Raises:
            CheckpointUnderWay: one that had begun did not end in time.
            NoLock: there is no lock to be had.
        """
        with self._mutex:
            self._committing = True
            if self._kept:
                return  # others are kept out already
        deadline = time.monotonic() + within_seconds
        pause_seconds = 0.0005
        while not self._take(fcntl.LOCK_SH):
            if time.monotonic() > deadline:
                raise CheckpointUnderWay
            time.sleep(pause_seconds)
            pause_seconds = min(2 * pause_seconds, 0.01)

    def alone(self) -> bool:
        """Keep every commit and checkpoint of others out until `release`, if none is under way.

        A share that is held is given up for it, whatever comes of it.

        Raises:
            NoLock: there is no lock to be had.
        """
        return self._take(fcntl.LOCK_EX)

    def release(self) -> None:
        """Give up what is held, but for what is kept."""
        with self._mutex:
            self._committing = False
            if self._kept and not self._kept_for_commit:
                return
            self._kept = self._kept_for_commit = False
            self._unlock()

    def keep(self) -> bool:
        """Keep commits and checkpoints of others out until `end_keeping`, but not the commits of this server.

        As `alone` does; for a checkpoint by an SQLite that can be trusted to make it while its own process commits.

        Raises:
            NoLock: there is no lock to be had.
        """
        kept = self._take(fcntl.LOCK_EX)
        with self._mutex:
            self._kept, self._kept_for_commit = kept, False
        return kept

    def end_keeping(self) -> None:
        """Let others in again, once the commit is over that is under way."""
        with self._mutex:
            if self._committing:  # to turn this into a share is to hold nothing for a moment
                self._kept_for_commit = True
            else:
                self._kept = False
                self._unlock()

    def _unlock(self) -> None:
        if self._handle is not None and self._held:
            fcntl.flock(self._handle, fcntl.LOCK_UN)
        self._held = False

    def close(self) -> None:
        """Give up what is held, close the file, and remove it if nobody holds it; unless it is kept.

        Who has opened it and not locked it yet sees that it is removed, and makes a new one.
        """
        with self._mutex, contextlib.suppress(OSError):
            if self._handle is not None and not self._kept:
                try:
                    fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    path = Path(self._path)
                    if path.stat().st_ino == os.fstat(self._handle).st_ino:
                        path.unlink()
                finally:
                    self._close()

    def _take(self, kind: int) -> bool:
        with self._mutex:
            try:
                while True:
                    if self._handle is None:
                        self._handle = self._opened()
                    fcntl.flock(self._handle, kind | fcntl.LOCK_NB)
                    if os.fstat(self._handle).st_nlink:
                        self._held = True
                        return True
                    self._close()  # somebody removed it: who comes next would lock another file
            except BlockingIOError:
                self._held = False  # flock ends a share before it tries to have the file alone
                return False
            except OSError as error:
                raise NoLock(self._path, error) from error

    def problem(self) -> str | None:
        """Say why the lock cannot be had, as far as that is told without making its file; None if it can be tried."""
        try:
            os.close(os.open(self._path, _FLAGS))
        except FileNotFoundError as error:
            return NoLock(self._path, error).sentence() if Path(self._path).is_symlink() else None
        except OSError as error:
            return NoLock(self._path, error).sentence()
        return None

    def _opened(self) -> int:
        """Return the file, made as SQLite makes what lies beside its own: with the owner and the rights of that."""
        while True:
            try:
                return os.open(self._path, _FLAGS)
            except FileNotFoundError:
                if Path(self._path).is_symlink():  # there is no making it, however often that is tried
                    raise
            try:
                made = os.open(self._path, _FLAGS | os.O_CREAT | os.O_EXCL, 0o600)
            except FileExistsError:
                continue
            database = Path(self._database_file).stat()
            os.fchmod(made, database.st_mode & 0o666)
            if os.geteuid() == 0:
                os.fchown(made, database.st_uid, database.st_gid)
            return made

    def _close(self) -> None:
        if self._handle is not None:
            os.close(self._handle)
        self._handle = None
        self._held = False
