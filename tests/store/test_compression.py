"""Postgres compresses documents by lz4, where it was built with that."""

from __future__ import annotations

from typing import TYPE_CHECKING

import sqlalchemy as sa

from runtimestore_server.store import tables
from runtimestore_server.store.values import Outcome
from runtimestore_server.store.writes import Write
from support.generators.store_writes import commit, new_id, ops, runtime

if TYPE_CHECKING:
    from runtimestore_server.store.engines import Database

DIGESTS = ("sha256", "session_sha256", "fingerprint", "seal")
"""All other columns of bytes have documents."""

LZ4 = "SELECT 'lz4' = ANY (enumvals) FROM pg_settings WHERE name = 'default_toast_compression'"

COLUMNS = """
    SELECT relname, attname, attcompression FROM pg_attribute JOIN pg_class ON pg_class.oid = attrelid
    WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace AND atttypid = 'bytea'::regtype AND attnum > 0
"""


def test_every_document_is_compressed_by_lz4_where_postgres_has_it(postgres_database: Database) -> None:
    database = postgres_database
    write = Write(runtime(), new_id(), ops=ops("alike " * 10_000))
    assert commit(database, write) == [Outcome(1)]

    with database.readers.connect() as tx:
        has_lz4 = tx.execute(sa.text(LZ4)).scalar_one()
        columns = {(table, column): how for table, column, how in tx.execute(sa.text(COLUMNS))}
        stored = tx.execute(sa.select(sa.func.pg_column_compression(tables.ops_snapshots.c.snapshot_json))).scalar_one()

    documents = {key: how for key, how in columns.items() if key[1] not in DIGESTS}
    assert documents == dict.fromkeys(documents, "l" if has_lz4 else "\0")
    assert len(documents) == 5
    assert stored == ("lz4" if has_lz4 else "pglz")
