"""Writes lines to a file descriptor on a thread of its own, so that no caller ever waits for it or sees it fail.

What takes log lines may be gone, full, closed or standing still: a pipe whose reader ended, a file on a full disk, a
terminal that somebody stopped. Then lines are lost, and counted; how many is told once it works again.
"""

from __future__ import annotations

import contextlib
import os
import select
import threading
import time
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    Event = Mapping[str, Any]

MOST_WAITING = 4096
"""How many events may wait to be written; what comes on top of them is lost."""

AT_ONCE = 128
"""How many events one write takes together at most."""

TRY_SECONDS = 2.0
"""How often it is tried to tell of what was lost, while nothing else is to be written."""

FAILED_PAUSE_SECONDS = 0.05
"""How long nothing is tried after an error that nobody foresaw."""


class LogWriter:
    """A bounded queue of events, and the thread that writes a line of each.

    Args:
        descriptor: where the lines go; duplicated, so that whoever closes it cannot make us write into another file.
        line: makes the line of an event, without its end; called on the thread.
        lost: the event that tells how many are lost.
    """

    def __init__(self, descriptor: int, *, line: Callable[[Event], str], lost: Callable[[int], Event]) -> None:
        self._descriptor = os.dup(descriptor)
        self._line = line
        self._lost_event = lost
        # Reentrant, unlike other queues: what is collected as garbage meanwhile may log as well.
        self._queue: SimpleQueue[Event | threading.Event] = SimpleQueue()
        self._counting = threading.RLock()
        self.lost = 0
        """How many events were lost and not told of yet."""
        self._torn = False
        """Whether the last thing that was written is a part of a line."""
        # A daemon: a process that is told to go must not wait for a pipe that nobody empties.
        threading.Thread(target=self._run, name="log-writer", daemon=True).start()

    def put(self, event: Event) -> None:
        """Write a line of an event, soon, or lose it. Never waits, never raises."""
        if self._queue.qsize() < MOST_WAITING:
            self._queue.put(event)
        else:
            self._lose(1)

    def flush(self, *, within_seconds: float) -> bool:
        """Wait until what was put before is written or lost, but no longer than this; whether it is."""
        reached = threading.Event()
        self._queue.put(reached)
        return reached.wait(within_seconds)

    def _lose(self, count: int) -> None:
        with self._counting:
            self.lost += count

    def _run(self) -> None:
        while True:
            events: list[Event] = []
            reached: threading.Event | None = None
            try:
                reached = self._take(events)
                self._write(events)
            except BaseException:  # noqa: BLE001  (whatever it is: there is nowhere to tell it, and the next lines may pass)
                self._lose(len(events))
                time.sleep(FAILED_PAUSE_SECONDS)
            if reached is not None:
                reached.set()

    def _take(self, events: list[Event]) -> threading.Event | None:
        """Wait for events and take what waits, up to who waits for that; None if nobody does, or not yet."""
        with contextlib.suppress(Empty):
            found = self._queue.get(timeout=TRY_SECONDS if self.lost else None)
            while not isinstance(found, threading.Event):
                events.append(found)
                if len(events) == AT_ONCE:
                    return None
                found = self._queue.get_nowait()
            return found
        return None

    def _write(self, events: list[Event]) -> None:
        """Write the lines of these events, and before them how many were lost."""
        told = self.lost
        lines = [self._bytes(self._lost_event(told))] if told else []
        lines += [self._bytes(event) for event in events]
        if not lines:
            return
        if self._torn:
            lines[0] = b"\n" + lines[0]
        whole = self._written(lines)
        if told and whole:
            self._lose(-told)
            whole -= 1
        self._lose(len(events) - whole)

    def _bytes(self, event: Event) -> bytes:
        try:
            line = self._line(event)
        except Exception:  # noqa: BLE001  (a value that cannot be shown must not take the others along)
            line = "?"
        return f"{line}\n".encode(errors="backslashreplace")  # a path may hold what is no UTF-8

    def _written(self, lines: list[bytes]) -> int:
        """Tell how many of these lines could be written, from the first on."""
        rest = memoryview(b"".join(lines))
        total = len(rest)
        try:
            while rest:
                try:
                    rest = rest[os.write(self._descriptor, rest) :]
                except BlockingIOError:  # whoever shares it with us has made it so
                    waiting = select.poll()
                    waiting.register(self._descriptor, select.POLLOUT)
                    waiting.poll()
        except OSError:
            done = total - len(rest)
            count = 0
            for line in lines:
                if done < len(line):
                    break
                done -= len(line)
                count += 1
            self._torn = bool(done) or (self._torn and not count)
            return count
        self._torn = False
        return len(lines)
