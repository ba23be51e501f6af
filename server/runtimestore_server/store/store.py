"""The store as the service sees it: `commit` for writes, `read` for loads, each on threads of its own."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Concatenate, ParamSpec, TypeVar

from runtimestore.errors import Overloaded, RuntimeStoreError, StoreUnavailable
from runtimestore_server.store import reads, requests, schema
from runtimestore_server.store.comebacks import Comebacks
from runtimestore_server.store.committer import CommitCounters, Committer
from runtimestore_server.store.engines import Fault
from runtimestore_server.store.readers import Readers
from runtimestore_server.store.transaction import refusal_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy.engine import Connection

    from runtimestore_server.settings import Settings
    from runtimestore_server.store.engines import Database
    from runtimestore_server.store.values import AnyWrite, Outcome

P = ParamSpec("P")
T = TypeVar("T")

FORGET_BATCH = 1000
FORGET_INTERVAL_SECONDS = 60.0

CLOSE_SECONDS = 0.3
"""How long threads may take to end when nothing waits for them any more; what a database keeps is left behind."""


class Store:
    """A database with its committer and its readers, on the running event loop.

    Open it on a database whose schema is current; close it on the same loop.
    """

    def __init__(self, database: Database, settings: Settings) -> None:
        self.database = database
        self._comebacks = Comebacks()
        self._committer = Committer(
            database,
            threads=settings.committer_threads,
            max_batch_writes=settings.max_batch_writes,
            max_waiting_writes=settings.max_waiting_writes,
            max_waiting_bytes=settings.max_waiting_bytes,
            comebacks=self._comebacks,
        )
        self._readers = Readers(
            threads=settings.reader_threads,
            max_waiting=settings.max_waiting_reads,
            max_waiting_bytes=settings.max_waiting_bytes,
            comebacks=self._comebacks,
        )
        # Of its own: that every thread for loads is busy does not mean that the engine does not answer.
        self._checker = Readers(threads=1, max_waiting=1, max_waiting_bytes=0)
        self._max_sending_bytes = settings.max_waiting_bytes
        self._sending_bytes = 0
        self._retention_ms = settings.request_retention_seconds * 1000
        self._store_id: str | None = None
        self._forgetting = asyncio.create_task(self._forget_old_requests(), name="forget-old-requests")

    @property
    def counters(self) -> CommitCounters:
        """What the write path has done since the store was opened."""
        return self._committer.counters

    async def check_aside(self, check: Callable[[], T], *, size_bytes: int) -> T:
        """What `check` makes of a large request of `size_bytes`, where it keeps nobody waiting.

        Raises:
            Overloaded: too much is waiting to be checked.
        """
        return await self._readers.run(check, size_bytes=size_bytes)

    async def commit(self, write: AnyWrite) -> Outcome:
        """Put one write into the store; returns after COMMIT.

        Raises:
            RuntimeStoreError: it was refused, or the store could not commit it.
        """
        return await self._committer.commit(write)

    def overload(self, arriving: int = 0) -> Overloaded | None:
        """Why no write can be taken in now, however small, when so many are arriving before it; None if one can."""
        return self._committer.overload(arriving=arriving)

    def comeback_seconds(self) -> float:
        """After how long one more caller who is refused should come back."""
        return self._comebacks.seconds()

    async def read(self, load: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """What a function of `tx` reads, on a reader thread.

        Raises:
            Overloaded: too many loads are waiting.
            RuntimeStoreError: the value is damaged, or the store cannot be reached.
        """
        return await self._readers.run(lambda: self._read(load, *args, **kwargs))

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
                raise refusal_of(fault, store_error="read_failed") from error

    async def authority_key(self, realm: str) -> str | None:
        """The name of the authority behind a realm's OAuth flows; None for an ephemeral store."""
        if self.database.ephemeral:
            return None
        if self._store_id is None:
            self._store_id = await self.read(schema.store_id)
        return f"runtimestore:{self._store_id}:{realm}"

    async def durability_warnings(self) -> list[str]:
        """What the engine's settings take from the promises: a sentence each."""
        return await self.read(self.database.durability_warnings)

    async def check(self) -> None:
        """See that the engine answers and the schema is current.

        Raises:
            StoreUnavailable: it is not so; the message says why.
        """
        problem = (await self._checker.run(lambda: self._read(schema.inspect))).problem()
        if problem:
            raise StoreUnavailable(problem)

    def sending(self, size_bytes: int) -> None:
        """Count the documents of an answer, `size_bytes` altogether, until the call of this task is over.

        Raises:
            Overloaded: too many bytes are on their way to callers that read slowly.
        """
        # An answer larger than the whole bound must still find its way out when nothing else is being sent.
        if self._sending_bytes and self._sending_bytes + size_bytes > self._max_sending_bytes:
            raise Overloaded(
                f"{self._sending_bytes} bytes are being sent; try again later",
                metadata={"sending_bytes": str(self._sending_bytes)},
                retry_after_seconds=self._comebacks.seconds(),
            )
        call = asyncio.current_task()
        if not size_bytes or call is None:
            return

        def sent(_call: asyncio.Task[object]) -> None:
            self._sending_bytes -= size_bytes

        self._sending_bytes += size_bytes
        call.add_done_callback(sent)  # gRPC sends in the task of the call

    @property
    def busy(self) -> bool:
        """Whether something was taken in that has not come to its end, even if its caller gave up."""
        return bool(self._readers.waiting or self._committer.waiting_writes)

    def hurry(self) -> None:
        """Run nothing again, and wait for no row: what cannot be committed now is refused."""
        self._committer.hurry()

    def abandon(self) -> None:
        """Answer whoever still waits, truthfully: no COMMIT begins after this, and one under way is unknown."""
        self._committer.abandon()
        self._readers.abandon()
        self._checker.abandon()

    async def close(self) -> bool:
        """Commit what is waiting, end every thread, close every connection; whether no thread had to be left behind."""
        self._forgetting.cancel()
        await asyncio.wait([self._forgetting])
        ended = await self._committer.close(within_seconds=CLOSE_SECONDS)
        ended &= await self._readers.close(within_seconds=CLOSE_SECONDS)
        ended &= await self._checker.close(within_seconds=CLOSE_SECONDS)
        self.database.dispose()
        return ended

    async def _forget_old_requests(self) -> None:
        """Delete remembered requests past their retention, a bounded number at a time, while the store is open."""
        while True:
            try:
                forgotten = await self._readers.run(self._forget_some)
            except Exception:  # noqa: BLE001  (the next round tries again; the health check tells of a lasting fault)
                forgotten = 0
            if forgotten < FORGET_BATCH:
                await asyncio.sleep(FORGET_INTERVAL_SECONDS)

    def _forget_some(self) -> int:
        before_ms = time.time_ns() // 1_000_000 - self._retention_ms
        with self.database.writers.begin() as connection:
            return requests.forget(connection, before_ms=before_ms, most=FORGET_BATCH)
