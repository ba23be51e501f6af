"""Finds the documents that session deltas are made of, and remembers what they came to."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from runtimestore.errors import RevisionNotKept, StoredValueCorrupt
from runtimestore_server.documents import session
from runtimestore_server.services.fields import runtime_key
from runtimestore_server.store.versions.recent import RecentSession, weight_of_edits

if TYPE_CHECKING:
    from collections.abc import Iterator

    from runtimestore_server.store import Outcome, RuntimeKey, Store, Write
    from runtimestore_server.store.versions.chains import StoredSession


class Sessions:
    """The newest session of each runtime that was lately read or written, as the handlers need it."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def base_of(self, request: Any) -> RecentSession | None:
        """Return the document that a session delta applies to, or may be stored as edits of; None if none is at hand.

        For edits it is read from the store where it is not remembered. It may be another document than they name: the
        transaction decides, and refuses what repeats nothing.
        """
        if not request.HasField("session_delta"):
            return None
        base_sha256 = session.base_sha256(request.session_delta)
        runtime = runtime_key(request, store_error="write_failed")
        found = self.held(runtime)
        if base_sha256 is None or (found is not None and found.sha256 == base_sha256):
            return found
        try:
            _, stored = await self._store.read_to_write(session.load, runtime)
        except StoredValueCorrupt:
            return None  # as good as another document: the whole one, which is sent next, mends it
        return None if stored is None else self.loaded(runtime, stored)

    def held(self, runtime: RuntimeKey) -> RecentSession | None:
        """Return the newest session of a runtime, if it is in memory."""
        return self._store.recent_sessions.get(runtime)

    @contextlib.contextmanager
    def reading(self, runtime: RuntimeKey) -> Iterator[None]:
        """Read a session inside; is it damaged, nothing is stored as edits of it any more, so that it is mended."""
        try:
            yield
        except StoredValueCorrupt:
            self._store.recent_sessions.drop(runtime)
            raise

    def loaded(self, runtime: RuntimeKey, stored: StoredSession) -> RecentSession | None:
        """Remember the newest session of a runtime, if it was read whole."""
        if stored.body is None:
            return None
        found = RecentSession(
            stored.sha256,
            stored.body,
            stored.revision,
            stored.base_bytes,
            stored.edits_bytes,
            base_revision=stored.base_revision,
        )
        held = self.held(runtime)
        if held is not None and held.sha256 == found.sha256:
            # The same bytes, of which it is known what need not be checked again.
            found = found._replace(body=held.body, checked=held.checked)
        self._store.remember_session(runtime, found)
        return found

    async def check_repeat(self, runtime: RuntimeKey, revision: int, digest: bytes, belongs_to: str) -> None:
        """See that a repeat, whose edits could not be checked, is of the session that it must be of.

        Where that version is not kept any more, or damaged, nobody can tell: then it is the repeat that it seems.

        Raises:
            SessionKeyMismatch: it is another session.
        """
        with contextlib.suppress(StoredValueCorrupt, RevisionNotKept):
            _, stored = await self._store.read_to_write(
                session.load, runtime, as_of_revision=revision, known_sha256=digest
            )
            if stored is not None and stored.sha256 == digest:
                session.check_key(belongs_to, stored.session_id)

    def committed(self, write: Write, outcome: Outcome, base: RecentSession | None) -> None:
        """Remember the session of a write that landed."""
        snapshot = write.snapshot
        if snapshot is None or outcome.replayed or not snapshot.session_id:
            return
        if outcome.as_edits and base is not None and snapshot.edits is not None:
            base_revision, base_bytes, encoded = base.base_revision, base.base_bytes, snapshot.edits.encoded or b""
            edits_bytes = base.edits_bytes + weight_of_edits(len(encoded), base_bytes=base_bytes)
        else:
            base_revision, base_bytes, edits_bytes = outcome.revision, len(snapshot.body), 0
        found = RecentSession(
            snapshot.sha256,
            snapshot.body,
            outcome.revision,
            base_bytes,
            edits_bytes,
            snapshot.checked,
            base_revision=base_revision,
        )
        self._store.remember_session(write.runtime, found)
