"""Counts what calls and commits do, in plain numbers: what is exported is made of them when somebody asks.

Each is written by one thread alone and read by any. Nothing here raises into a call or a thread: what cannot be counted
is left out.
"""

from __future__ import annotations

import contextlib
import time
from bisect import bisect_left
from collections import defaultdict
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from runtimestore.errors import RuntimeStoreError
    from runtimestore_server.telemetry.lines import LineLimit

CALL_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
"""From a load of a small document to the longest that a write waits for a row."""

COMMIT_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 20.0)
"""From a sync of a fast disk to one of a disk that is about to fail."""

BATCH_WRITES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)

MOST_REALMS = 150
"""How many labels of realms are counted apart since the start."""

OTHER_REALMS = "other"


class CallEnd(NamedTuple):
    """How a call ended and what it was about, as far as that may be told."""

    code: str
    reason: str | None
    principal: str | None
    realm: str | None
    runtime: str | None
    request_id: str | None


class Histogram:
    """How many values were up to each bound, and what they come to."""

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        """By the first bound that a value does not exceed; the last is beyond all."""
        self.sum = 0.0

    def observe(self, value: float) -> None:
        """Count a value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value


class RealmCounts:
    """Calls by their realm, as far as realms are told apart.

    Args:
        label: what the realm of this task's call is called, which is not for its caller to choose; None if it has none.
    """

    __slots__ = ("_label", "_labels", "ended")

    def __init__(self, label: Callable[[], str | None]) -> None:
        self._label = label
        self._labels: set[str] = set()
        self.ended: defaultdict[tuple[str, str], int] = defaultdict(int)
        """By the realm's label and the name of the code."""

    def count(self, code: str) -> None:
        """Count the call of this task, which has ended with this code."""
        if (label := self._label()) is None:
            return
        if label not in self._labels:
            if len(self._labels) >= MOST_REALMS:  # labels come and go with what names them, and series stay
                label = OTHER_REALMS
            self._labels.add(label)
        self.ended[label, code] += 1


class MethodCounts:
    """The calls of one method: how they ended, and how long they took."""

    __slots__ = ("_realms", "ended", "path", "seconds")

    def __init__(self, path: str, realms: RealmCounts | None = None) -> None:
        self.path = path
        self._realms = realms
        self.ended: defaultdict[tuple[str, str], int] = defaultdict(int)
        """By the name of the code and the reason."""
        self.seconds = Histogram(CALL_SECONDS)

    def answered(self, started: float) -> None:
        """Count a call that began at `started` and was answered."""
        self._count(("OK", ""), started)

    def refused(self, refusal: RuntimeStoreError, started: float) -> None:
        """Count a call that was refused."""
        with contextlib.suppress(Exception):
            self._count((refusal.code.name, refusal.reason), started)

    def ended_by(self, code: str, started: float) -> None:
        """Count a call that was neither answered nor refused by the store, by the name of its code."""
        self._count((code, ""), started)

    def _count(self, end: tuple[str, str], started: float) -> None:
        try:
            self.ended[end] += 1
            self.seconds.observe(time.perf_counter() - started)
            if self._realms is not None:
                self._realms.count(end[0])
        except Exception:  # noqa: BLE001, S110  (a count is never worth a call)
            pass


class CallCounts:
    """The calls of a server, method by method, and how they are logged."""

    def __init__(self, lines: LineLimit, *, log_served: bool = False, realms: RealmCounts | None = None) -> None:
        self.methods: dict[str, MethodCounts] = {}
        """By their paths."""
        self.realms = realms
        """Calls by realm, where it is known which realms there are."""
        self.lines = lines
        self.log_served = log_served
        """Whether the log has a line for a call that was answered as well."""

    def of(self, path: str) -> MethodCounts:
        """Return the counts of the method with this path: the services decide which there are, never a caller."""
        return self.methods.setdefault(path, MethodCounts(path, self.realms))


class BatchCounts:
    """The batches of one commit thread."""

    __slots__ = ("batch_writes", "commit_seconds", "queue_seconds")

    def __init__(self) -> None:
        self.queue_seconds = Histogram(CALL_SECONDS)
        self.commit_seconds = Histogram(COMMIT_SECONDS)
        self.batch_writes = Histogram(BATCH_WRITES)

    def ended(self, came: Iterable[float], began: float, ended: float) -> None:
        """Count a batch that was begun and ended at these times, and whose writes came at those. Never raises."""
        try:
            writes = 0
            for writes, since in enumerate(came, 1):  # noqa: B007  (the last one is how many there were)
                self.queue_seconds.observe(began - since)
            self.batch_writes.observe(writes)
            self.commit_seconds.observe(ended - began)
        except Exception:  # noqa: BLE001, S110  (what was committed stands, counted or not)
            pass
