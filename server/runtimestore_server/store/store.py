"""The store as the service sees it: `commit` for writes, on threads of its own, `read` for loads, on the workers."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Concatenate, ParamSpec, TypeVar

from runtimestore.errors import RuntimeStoreError, StoredValueCorrupt
from runtimestore_server.store import reads, requests, schema
from runtimestore_server.store.committer import Committer
from runtimestore_server.store.engines import Fault
from runtimestore_server.store.maintenance import FOLD_SECONDS, ROUND_SECONDS, Maintenance
from runtimestore_server.store.retention import Retention
from runtimestore_server.store.transaction import REPLACED, refusal_by
from runtimestore_server.store.versions.folding import Folding
from runtimestore_server.store.versions.pruning import Pruning
from runtimestore_server.store.versions.recent import RecentSessions
from runtimestore_server.supervision import CLOSE_SECONDS, reached
from runtimestore_server.workers import Workers

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy.engine import Connection

    from runtimestore_server.budget import RetryPacing
    from runtimestore_server.settings import Settings
    from runtimestore_server.store.engines import Database
    from runtimestore_server.store.requests import Decision
    from runtimestore_server.store.values import RuntimeKey
    from runtimestore_server.store.versions.recent import RecentSession
    from runtimestore_server.supervision import Supervision
    from runtimestore_server.telemetry.spans import Traces

P = ParamSpec("P")
T = TypeVar("T")


class Store:
    """A database with its committer and what looks after it, on the running event loop.

    Open it on a database whose schema is current; close it on the same loop. The workers are the server's: whoever
    opened them closes them, after the loads have ended and before the store.
    """

    def __init__(
        self,
        database: Database,
        settings: Settings,
        *,
        workers: Workers,
        pacing: RetryPacing,
        supervision: Supervision,
        traces: Traces | None = None,
        unanswered: Callable[[Decision], None] | None = None,
    ) -> None:
        self.database = database
        self._traces = traces
        self.request_retention_seconds = settings.request_retention_seconds
        self._retention = Retention(settings.request_retention_seconds)
        self._history_ms = settings.session_history_seconds * 1000
        self.recent_sessions = RecentSessions(settings.session_cache_bytes)
        self.folding = Folding(database, self.recent_sessions)
        self.pruning = Pruning(self._history_began_ms, self.folding)
        self._committer = Committer(
            database,
            threads=settings.committer_threads,
            max_batch_writes=settings.max_batch_writes,
            max_waiting_writes=settings.max_waiting_writes,
            max_waiting_bytes=settings.max_waiting_bytes,
            pacing=pacing,
            supervision=supervision,
            maintenance=Maintenance(
                database, [self._forget_some], [(self.folding, FOLD_SECONDS), (self.pruning, ROUND_SECONDS)]
            ),
            traces=traces,
            unanswered=unanswered,
        )
        self.commit = self._committer.commit
        """Puts one write into the store; returns after COMMIT."""
        self.counters, self.batch_counts = self._committer.counters, self._committer.batch_counts
        """What the write path has done since the store was opened; what the batches of each commit thread were."""
        self.budget = self._committer.budget
        """What bounds the writes that wait for their transaction."""
        self._workers = workers
        self.folding.start(supervision, prepared=self._committer.wake_maintenance)
        # Of its own: that every worker is busy does not mean that the engine does not answer.
        self._checker = Workers(threads=1, max_waiting=1, max_waiting_bytes=0, supervision=supervision)
        self._store_id: str | None = None

    async def read_to_write(
        self, load: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Do the same for a write, which failed where this does.

        Raises:
            RuntimeStoreError: as `read`, but for the trait's error.
        """
        try:
            return await self.read(load, *args, **kwargs)
        except StoredValueCorrupt:
            raise  # the value could not be read, whoever needs it
        except RuntimeStoreError as refusal:
            if refusal.store_error != "read_failed":
                raise
            raise type(refusal)(
                refusal.message, metadata=refusal.metadata | {"store_error": "write_failed"}
            ) from refusal

    async def read(self, load: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Read what a function of `tx` reads, on a worker's thread.

        Raises:
            Overloaded: too many loads are waiting.
            RuntimeStoreError: the value is damaged, or the store cannot be reached.
        """
        if self._traces is None:
            return await self._workers.run(lambda: self._read(load, *args, **kwargs))
        work = self._traces.in_this_call("load", lambda: self._read(load, *args, **kwargs))
        return await self._workers.run(work)

    def _read(self, load: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        attempt = 0
        while True:
            attempt += 1
            try:
                with self.database.readers.connect() as connection:
                    found = load(connection, *args, **kwargs)
                    self.database.release_buffers(connection, reads.size_bytes(found))
                    return found
            except RuntimeStoreError:
                raise
            except Exception as error:
                fault = self.database.classify(error)
                if fault in (Fault.TRANSIENT, Fault.UNAVAILABLE) and attempt == 1:
                    continue  # a connection that went stale in the pool; the next one is new
                if fault is Fault.OTHER:
                    raise
                raise refusal_by(self.database, fault, store_error="read_failed") from error

    async def authority_key(self, realm: str) -> str | None:
        """Return the name of the authority behind a realm's OAuth flows; None for an ephemeral store."""
        if self.database.ephemeral:
            return None
        if self._store_id is None:
            self._store_id = await self.read(schema.store_id)
        return f"runtimestore:{self._store_id}:{realm}"

    async def checks(self) -> dict[str, str | None]:
        """Say why the store cannot be served, by name of what was looked at; None where nothing is wrong with it."""
        found: dict[str, str | None] = {"engine": None, "file": None}
        try:
            found |= await self._checker.run(lambda: self._read(schema.problems, self.database))
        except RuntimeStoreError as refusal:
            return found | {"file" if refusal.message == REPLACED else "engine": refusal.message}
        return found | {"writes": self.database.problem_of_writes()}

    def remember_session(self, runtime: RuntimeKey, session: RecentSession) -> None:
        """Hold the newest session of a runtime in memory; a new base is made of it if its edits outweigh the last."""
        session = self.recent_sessions.put(runtime, session)
        if session.outweighed:
            self.folding.add(runtime, session)

    @property
    def busy(self) -> bool:
        """Whether a write was taken in that has not come to its end, even if its caller gave up."""
        return bool(self._committer.waiting_writes)

    def drain(self) -> None:
        """Run nothing again, and wait for no row: what cannot be committed now is refused."""
        self._committer.drain()

    def abort(self) -> None:
        """Answer whoever still waits, truthfully: no COMMIT begins after this, and one under way is unknown."""
        self._committer.abort()
        self._checker.abort()

    async def close(self, within_seconds: float) -> bool:
        """Commit what is waiting, end every thread, close every connection; whether all threads have ended in time."""
        self.folding.close()
        deadline = time.monotonic() + within_seconds

        def left_seconds() -> float:
            return max(deadline - time.monotonic(), min(within_seconds, CLOSE_SECONDS))

        ended = await self._committer.close(within_seconds=left_seconds())
        ended &= await self._checker.close(within_seconds=left_seconds())
        ended &= await reached(lambda: not self.folding.alive, within_seconds=left_seconds())
        self.database.dispose()
        return ended

    def _history_began_ms(self, tx: Connection) -> int:
        """Return since when all versions are kept; of older ones, only the one that was current then."""
        return self._retention.now_ms(self.database, tx) - self._history_ms

    def _forget_some(self, tx: Connection, most: int) -> int:
        """Delete up to `most` remembered requests past their retention; how many."""
        return requests.forget(tx, before_ms=self._retention.expired_before_ms(self.database, tx), most=most)
