"""The store as the service sees it: `commit` for writes, `read` for loads, each on threads of its own."""

from __future__ import annotations

import asyncio
import contextlib
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Concatenate, ParamSpec, TypeVar

from runtimestore.errors import Overloaded, RuntimeStoreError, StoreUnavailable
from runtimestore_server.store import reads, requests, schema
from runtimestore_server.store.committer import CommitCounters, Committer
from runtimestore_server.store.engines import Fault
from runtimestore_server.store.transaction import refusal_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sqlalchemy.engine import Connection

    from runtimestore_server.settings import Settings
    from runtimestore_server.store.engines import Database
    from runtimestore_server.store.values import OAuthFlowWrite, Outcome, Write

P = ParamSpec("P")
T = TypeVar("T")

FORGET_BATCH = 1000
FORGET_INTERVAL_SECONDS = 60.0


class Store:
    """A database with its committer and its readers, on the running event loop.

    Open it on a database whose schema is current; close it on the same loop.
    """

    def __init__(self, database: Database, settings: Settings) -> None:
        self.database = database
        self._committer = Committer(
            database,
            threads=settings.committer_threads,
            max_batch_writes=settings.max_batch_writes,
            max_waiting_writes=settings.max_waiting_writes,
            max_waiting_bytes=settings.max_waiting_bytes,
        )
        self._readers = ThreadPoolExecutor(settings.reader_threads, thread_name_prefix="reader")
        self._max_waiting_reads = settings.max_waiting_reads
        self._waiting_reads = 0
        self._sending = 0
        self._draining = False
        self._retention_ms = settings.request_retention_seconds * 1000
        self._store_id: str | None = None
        self._forgetting = asyncio.create_task(self._forget_old_requests(), name="forget-old-requests")

    @property
    def counters(self) -> CommitCounters:
        """What the write path has done since the store was opened."""
        return self._committer.counters

    async def commit(self, write: Write | OAuthFlowWrite) -> Outcome:
        """Put one write into the store; returns after COMMIT.

        Raises:
            RuntimeStoreError: it was refused, or the store could not commit it.
        """
        self._refuse_while_draining(store_error="write_failed")
        return await self._committer.commit(write)

    async def read(self, load: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """What a function of `tx` reads, on a reader thread.

        Raises:
            Overloaded: too many loads are waiting.
            RuntimeStoreError: the value is damaged, or the store cannot be reached.
        """
        self._refuse_while_draining(store_error="read_failed")
        return await self.on_reader_thread(lambda: self._read(load, *args, **kwargs))

    async def on_reader_thread(self, work: Callable[[], T]) -> T:
        """Run what would keep the event loop too long.

        Raises:
            Overloaded: too much is waiting for a reader thread.
        """
        if self._waiting_reads >= self._max_waiting_reads:
            raise Overloaded(
                f"{self._waiting_reads} loads are waiting; try again later",
                metadata={"waiting_reads": str(self._waiting_reads)},
            )
        self._waiting_reads += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._readers, work)
        finally:
            self._waiting_reads -= 1

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

    async def check(self) -> None:
        """See that the engine answers and the schema is current.

        Raises:
            StoreUnavailable: it is not so; the message says why.
        """
        problem = (await self.read(schema.inspect)).problem()
        if problem:
            raise StoreUnavailable(problem)

    @contextlib.contextmanager
    def sending(self) -> Iterator[None]:
        """While an answer of many messages is being sent, draining waits for it."""
        self._sending += 1
        try:
            yield
        finally:
            self._sending -= 1

    def _refuse_while_draining(self, *, store_error: str) -> None:
        if self._draining:
            raise StoreUnavailable(
                "the server is shutting down; nothing was done, try again", metadata={"store_error": store_error}
            )

    async def drain(self, seconds: float) -> None:
        """Refuse what is new as unavailable and wait, at most `seconds`, until what was taken in is answered.

        gRPC's own stop comes after this: it cancels calls that arrive while it begins, and a cancelled call tells its
        caller nothing.
        """
        self._draining = True
        deadline = time.monotonic() + seconds
        # Polling, once in a process' life: an event would be set and cleared on every call.
        while self._busy() and time.monotonic() < deadline:  # noqa: ASYNC110  (see above)
            await asyncio.sleep(0.005)

    def _busy(self) -> bool:
        return bool(self._waiting_reads or self._sending or self._committer.waiting_writes)

    async def close(self) -> None:
        """Commit what is waiting, end every thread, close every connection."""
        self._forgetting.cancel()
        await asyncio.wait([self._forgetting])
        await self._committer.close()
        await asyncio.to_thread(self._readers.shutdown)
        self.database.dispose()

    async def _forget_old_requests(self) -> None:
        """Delete remembered requests past their retention, a bounded number at a time, while the store is open."""
        while True:
            try:
                forgotten = await self.on_reader_thread(self._forget_some)
            except Exception:  # noqa: BLE001  (the next round tries again; the health check tells of a lasting fault)
                forgotten = 0
            if forgotten < FORGET_BATCH:
                await asyncio.sleep(FORGET_INTERVAL_SECONDS)

    def _forget_some(self) -> int:
        before_ms = time.time_ns() // 1_000_000 - self._retention_ms
        with self.database.writers.begin() as connection:
            return requests.forget(connection, before_ms=before_ms, most=FORGET_BATCH)
