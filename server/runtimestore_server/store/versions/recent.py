"""Caches the newest session documents in bounded memory, as bases for the edits of the next writes."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from runtimestore_server.store.values import CheckedPrefix, RuntimeKey

ENTRY_BYTES = 512
"""About what an entry takes beside its document."""


MOST_EDITS = 1000
"""After so many edits, about, a session is made a base anew, however small they are: what is read, or deleted at once,
is a base with its edits."""


class Fold(NamedTuple):
    """A version that became a base."""

    revision: int
    base_bytes: int
    former_revision: int
    """The base that it rested on before."""
    edits_bytes: int
    """How much the edits take that lead from there to it."""


class RecentSession(NamedTuple):
    """The session of a runtime as this server last saw it committed."""

    sha256: bytes
    body: bytes
    revision: int
    """The revision whose write left it."""
    base_bytes: int
    """The size of the base that it rests on."""
    edits_bytes: int
    """How much all the edits weigh that lead from there to it."""
    checked: CheckedPrefix | None = None
    """How much of it need not be checked again where the next one begins with the same; None where nobody looked."""
    base_revision: int = 0
    """The revision of the base that it rests on."""
    fold: Fold | None = None
    """How that became one, if this server made it one lately."""

    @property
    def outweighed(self) -> bool:
        """Whether a new base is to be made: the edits since the last one outweigh it."""
        return self.edits_bytes > self.base_bytes

    def after(self, fold: Fold | None) -> RecentSession:
        """Return the same with the base that a fold made of a version before it, or of itself.

        Who looked before the fold was committed counts from the base before, and would have another one made at once.
        """
        if fold is None or fold.former_revision != self.base_revision or fold.revision > self.revision:
            return self
        return self._replace(
            base_bytes=fold.base_bytes,
            edits_bytes=max(0, self.edits_bytes - fold.edits_bytes),
            base_revision=fold.revision,
            fold=fold,
        )


class RecentSessions:
    """Documents by runtime, the least recently used of which go first. May be used from any thread."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._entries: OrderedDict[RuntimeKey, RecentSession] = OrderedDict()
        self.bytes = 0
        """How much is held."""

    def __len__(self) -> int:
        """Count the documents that are held."""
        return len(self._entries)

    def get(self, runtime: RuntimeKey) -> RecentSession | None:
        """Return the document of a runtime, if it is held."""
        with self._lock:
            found = self._entries.get(runtime)
            if found is not None:
                self._entries.move_to_end(runtime)
            return found

    def put(self, runtime: RuntimeKey, session: RecentSession) -> RecentSession:
        """Hold a document, unless a newer one of the runtime is held; it, with the base that it rests on by now."""
        with self._lock:
            before = self._entries.get(runtime)
            if before is not None:
                session = session.after(before.fold)
                if before.revision > session.revision:
                    return session
            self._drop(runtime)
            size_bytes = _size_bytes(session)
            if size_bytes > self._max_bytes:
                return session
            self._entries[runtime] = session
            self.bytes += size_bytes
            while self.bytes > self._max_bytes:
                self._drop(next(iter(self._entries)))
        return session

    def drop(self, runtime: RuntimeKey) -> None:
        """Let go of the document of a runtime."""
        with self._lock:
            self._drop(runtime)

    def rebased(self, runtime: RuntimeKey, fold: Fold) -> None:
        """Take note that a version of a runtime's session became a base."""
        with self._lock:
            if (found := self._entries.get(runtime)) is not None:
                self._entries[runtime] = found.after(fold)

    def _drop(self, runtime: RuntimeKey) -> None:
        if (found := self._entries.pop(runtime, None)) is not None:
            self.bytes -= _size_bytes(found)


def weight_of_edits(size_bytes: int, *, base_bytes: int) -> int:
    """Weigh the edits of one version against its base: their size, but no less than one part in MOST_EDITS."""
    return max(size_bytes, -(-base_bytes // MOST_EDITS))


def _size_bytes(session: RecentSession) -> int:
    return len(session.body) + ENTRY_BYTES
