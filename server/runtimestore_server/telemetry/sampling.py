"""Looks into the store from time to time for what a scrape must not wait for: its size, and its oldest request."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, NamedTuple

import sqlalchemy as sa
import structlog

from runtimestore_server.store.engines import error_name
from runtimestore_server.store.tables import metadata, requests
from runtimestore_server.supervision import stopped

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

    from runtimestore_server.store import Store
    from runtimestore_server.store.engines import Sizes
    from runtimestore_server.supervision import Supervision

_log = structlog.get_logger(__name__)

INTERVAL_SECONDS = 30.0


class Sample(NamedTuple):
    """What was found, and when, in seconds since the epoch."""

    at: float
    oldest_request_ms: int | None
    sizes: Sizes


class Sampling:
    """The latest sample of a store."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._task: asyncio.Task[None] | None = None
        self.latest: Sample | None = None
        """None before the first, and while the store cannot be asked."""

    def start(self, supervision: Supervision) -> None:
        """Look now, and from time to time."""
        self._task = supervision.task("sampling", self._keep_looking, vital=False)

    async def close(self) -> None:
        """Look no more."""
        await stopped(self._task)

    async def _keep_looking(self) -> None:
        while True:
            try:
                self.latest = await self._store.read(self._look)
            except Exception as error:  # noqa: BLE001  (health tells of a store that does not answer)
                self.latest = None
                _log.debug("no sample of the store", error=error_name(error))
            await asyncio.sleep(INTERVAL_SECONDS)

    def _look(self, tx: Connection) -> Sample:
        oldest = tx.execute(sa.select(sa.func.min(requests.c.recorded_at_ms))).scalar_one()
        sizes = self._store.database.sizes(tx, [table.name for table in metadata.sorted_tables])
        return Sample(time.time(), oldest if isinstance(oldest, int) else None, sizes)
