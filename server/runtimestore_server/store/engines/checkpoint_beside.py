"""A checkpoint beside the commits: it brings most of a long log into SQLite's file while others write.

Of a log that a large commit made long, a checkpoint between the commits keeps every writer waiting. SQLite lets one
connection make it while another one commits; what is committed meanwhile, and the beginning of the log anew, is left to
the next checkpoint between the commits, which has little to do then. See docs/decisions/0113.
"""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING

from runtimestore_server.store.engines.commit_lock import NoLock

if TYPE_CHECKING:
    from collections.abc import Callable

    from runtimestore_server.store.engines.commit_lock import CommitLock


class CheckpointBeside:
    """One such checkpoint at a time, on a thread of its own.

    Args:
        bring: makes it, and has the file synced; may raise anything.
        lock: keeps other servers out meanwhile, as from any checkpoint.
        failed: told what it raised, on that thread.
    """

    def __init__(self, bring: Callable[[], None], lock: CommitLock, failed: Callable[[Exception], None]) -> None:
        self._bring = bring
        self._lock = lock
        self._failed = failed
        self._thread: threading.Thread | None = None

    @property
    def under_way(self) -> bool:
        """Whether there is one; asked on the thread that commits, which alone begins them."""
        if self._thread is not None and not self._thread.is_alive():
            self._thread = None
        return self._thread is not None

    def begin(self) -> bool:
        """Begin one unless there is one, or another server commits just now; whether there is one now. Never raises."""
        if self.under_way:
            return True
        with contextlib.suppress(NoLock, OSError):
            if not self._lock.keep():
                return False
            self._thread = threading.Thread(target=self._run, name="checkpoint", daemon=True)
            try:
                self._thread.start()
            except RuntimeError:  # no thread is to be had
                self._thread = None
                self._lock.end_keeping()
        return self._thread is not None

    def wait(self, seconds: float) -> None:
        """Wait for the one that is under way."""
        if self._thread is not None:
            self._thread.join(seconds)

    def _run(self) -> None:
        try:
            self._bring()
        except Exception as error:  # noqa: BLE001  (told: the next checkpoint begins anew)
            self._failed(error)
        finally:
            with contextlib.suppress(OSError):
                self._lock.end_keeping()
