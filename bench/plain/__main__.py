"""`python -m bench.plain --database-url URL`: serve the plain peer, on aiosqlite or asyncpg, until SIGTERM."""

from __future__ import annotations

import argparse
import contextlib

import grpc.aio
import uvloop
from sqlalchemy import event, make_url
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker, create_async_engine

from bench.plain.service import PlainStore
from bench.plain.tables import Table
from bench.running import serve_until_told
from runtimestore.v1 import runtime_store_pb2_grpc as pb_grpc
from runtimestore_server.rpc.server import channel_options
from runtimestore_server.settings import Settings

BUSY_SECONDS = 60
POSTGRES_CONNECTIONS = 16


def engine_of(url: str) -> AsyncEngine:
    """The engine behind `sqlite:///…` or `postgresql://…`, as durable as RuntimeStore: FULL, and fsync as it is set."""
    parsed = make_url(url)
    if parsed.get_backend_name() == "sqlite":
        # SQLite has one writer: with one connection calls wait in line, with several they poll for the lock. Measured,
        # one is faster.
        engine = create_async_engine(
            parsed.set(drivername="sqlite+aiosqlite"), pool_size=1, max_overflow=0, pool_timeout=BUSY_SECONDS
        )

        @event.listens_for(engine.sync_engine, "connect")
        def _(connection: sqlite.aiosqlite.AsyncAdapt_aiosqlite_connection, _record: object) -> None:
            cursor = connection.cursor()
            for pragma in ("journal_mode=WAL", "synchronous=FULL", f"busy_timeout={BUSY_SECONDS * 1000}"):
                cursor.execute(f"PRAGMA {pragma}")
            cursor.close()

        return engine
    return create_async_engine(
        parsed.set(drivername="postgresql+asyncpg"), pool_size=POSTGRES_CONNECTIONS, max_overflow=0, pool_timeout=60
    )


async def serve(url: str) -> None:
    """Serve on a free port, on the event loop and with the options of the real server."""
    engine = engine_of(url)
    async with engine.begin() as connection:
        await connection.run_sync(Table.metadata.create_all)
    insert = sqlite.insert if engine.dialect.name == "sqlite" else postgresql.insert
    server = grpc.aio.server(options=channel_options(Settings()))
    pb_grpc.add_RuntimeStoreServicer_to_server(
        PlainStore(async_sessionmaker(engine, expire_on_commit=False), insert),  # type: ignore[abstract]  # nobody calls the rest
        server,
    )
    await serve_until_told(server)
    await engine.dispose()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m bench.plain", description=__doc__)
    parser.add_argument("--database-url", required=True)
    with contextlib.suppress(KeyboardInterrupt):
        uvloop.run(serve(parser.parse_args().database_url))
