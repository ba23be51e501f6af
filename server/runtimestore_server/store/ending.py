"""How the write path comes to its end: told first, abandoned last, and truthful about every COMMIT."""

from __future__ import annotations

import threading


class Abandoned(Exception):
    """Nobody waits for this transaction any more: its writers were told that nothing is committed."""


class Ending:
    """Whether a thread should come to its end, and whether a COMMIT may still begin."""

    def __init__(self) -> None:
        self._told = threading.Event()
        self._lock = threading.Lock()
        self._abandoned = False

    @property
    def told(self) -> bool:
        """Whether nothing is to be run again."""
        return self._told.is_set()

    def tell(self) -> None:
        """From now on nothing is run again for an error that may pass: "unavailable" sooner is better than never."""
        self._told.set()

    def wait(self, seconds: float) -> None:
        """Pause, but no longer than until `tell`."""
        self._told.wait(seconds)

    def abandon(self) -> None:
        """No COMMIT begins after this, so that a gate that is not `begun` now never will be."""
        self.tell()
        with self._lock:
            self._abandoned = True

    def gate(self) -> CommitGate:
        """The gate of one batch."""
        return CommitGate(self)

    def open(self, gate: CommitGate) -> None:
        """Let one batch through to COMMIT.

        Raises:
            Abandoned: it is too late; roll back.
        """
        with self._lock:
            if self._abandoned:
                raise Abandoned
            gate.begun = True


class CommitGate:
    """What a batch passes on its way to COMMIT: before it nothing can be there, after it everything may."""

    __slots__ = ("begun", "ending")

    def __init__(self, ending: Ending) -> None:
        self.ending = ending
        self.begun = False

    def enter(self) -> None:
        """Begin to COMMIT.

        Raises:
            Abandoned: it is too late; roll back.
        """
        self.ending.open(self)
