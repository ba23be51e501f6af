"""Decides whether a COMMIT may still begin while the write path is shut down, and so what its writers can be told."""

from __future__ import annotations

import threading


class CommitAborted(Exception):
    """Nobody waits for this transaction any more: its writers were told that nothing is committed."""


class CommitStop:
    """How far a thread's shutdown has come: it drains, or it is aborted."""

    def __init__(self) -> None:
        self._draining = threading.Event()
        self.lock = threading.Lock()
        """Held for a moment by each batch that begins its COMMIT, and by `abort`."""
        self.aborted = False

    @property
    def draining(self) -> bool:
        """Whether nothing is to be run again."""
        return self._draining.is_set()

    def drain(self) -> None:
        """Run nothing again from now on for an error that may pass: "unavailable" sooner is better than never."""
        self._draining.set()

    def wait(self, seconds: float) -> None:
        """Pause, but no longer than until `drain`."""
        self._draining.wait(seconds)

    def abort(self) -> None:
        """Let no COMMIT begin after this, so that a gate that is not `begun` now never will be."""
        self.drain()
        with self.lock:
            self.aborted = True

    def gate(self) -> CommitGate:
        """Return the gate of one batch."""
        return CommitGate(self)


class CommitGate:
    """A batch's point of no return: before `enter` nothing of it can be stored, after it everything may be.

    Where its writes are committed one by one, it is passed by each.
    """

    __slots__ = ("commits", "shutdown")

    def __init__(self, shutdown: CommitStop) -> None:
        self.shutdown = shutdown
        self.commits = 0
        """How many COMMITs have begun that are not known to have failed."""

    @property
    def begun(self) -> bool:
        """Whether something of the batch may be there."""
        return self.commits > 0

    def enter(self) -> None:
        """Begin to COMMIT.

        Raises:
            CommitAborted: it is too late; roll back.
        """
        with self.shutdown.lock:
            if self.shutdown.aborted:
                raise CommitAborted
            self.commits += 1

    def leave(self) -> None:
        """Take note that nothing was committed by the COMMIT that began last."""
        self.commits -= 1
