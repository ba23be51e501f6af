"""A backlog of requests that are to be forgotten, as days without a server or a lowered retention leave it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import sqlalchemy as sa

from runtimestore_server.store.digests import SHA256_BYTES
from runtimestore_server.store.tables import requests

if TYPE_CHECKING:
    from runtimestore_server.store.engines import Database

_INSERTED_AT_ONCE = 20_000
_RECENT_MS = 10**12
"""Requests of tests have real dates; those of a backlog are of 1970."""


def insert_backlog(database: Database, number: int) -> None:
    """Insert as many requests as that, all long expired, past the store: as if they had come in any order of ids."""
    with database.writers.connect() as connection, connection.begin():
        for first in range(0, number, _INSERTED_AT_ONCE):
            count = min(_INSERTED_AT_ONCE, number - first)
            rows = [
                {
                    "realm": "backlog",
                    "request_id": _scattered(n),
                    "fingerprint": bytes(SHA256_BYTES),
                    "revision": 1,
                    "recorded_at_ms": n,
                }
                for n in range(first, first + count)
            ]
            connection.execute(sa.insert(requests), rows)


def left_of_backlog(database: Database) -> bool:
    """Whether something of it is not forgotten yet."""
    oldest = sa.select(sa.func.min(requests.c.recorded_at_ms))
    with database.readers.connect() as connection:
        found: int | None = connection.execute(oldest).scalar_one()
    return found is not None and found < _RECENT_MS


def size_of_backlog(database: Database) -> int:
    """How much of it is not forgotten yet."""
    count = sa.select(sa.func.count()).where(requests.c.recorded_at_ms < _RECENT_MS)
    with database.readers.connect() as connection:
        found: int = connection.execute(count).scalar_one()
    return found


async def forgotten(database: Database) -> None:
    """Wait until all of it is forgotten."""
    while await asyncio.to_thread(left_of_backlog, database):  # noqa: ASYNC110  (nothing tells of it)
        await asyncio.sleep(0.05)


def _scattered(number: int) -> str:
    """An id as good as random, different for each number: multiplication by an odd number permutes 64 bits."""
    return f"{number * 0x9E3779B97F4A7C15 % 2**64:016x}-{number:x}"
