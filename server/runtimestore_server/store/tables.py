"""Every table of the store. The migrations build exactly this; a test compares the two on both engines.

Where one type needs two forms an engine's name stands here; the code of the store knows none.

Ids are text compared as bytes (`COLLATE "C"`, SQLite's BINARY). Documents are bytes, never JSON or text columns, each
with the SHA-256 of those bytes beside it. Nothing in these tables is ever deleted except remembered requests and
earlier versions of sessions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import BigInteger, Column, Index, Integer, LargeBinary, MetaData, String, Table, Text, event, text
from sqlalchemy.types import TypeDecorator

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection, Dialect

metadata = MetaData()

SMALL_ROWS = {"with_rowid": False}
"""The `info` of a table whose rows lie in the tree of the key, not in a second one beside it, where that can be had."""
WHERE = "where"
"""In the `info` of an index, the condition of the rows that it has."""

UINT64_DIGITS = 20
"""2^64 - 1 has twenty decimal digits."""


class UInt64(TypeDecorator[int]):
    """An unsigned 64-bit number as twenty decimal digits.

    SQLite's integers and Postgres' bigint end at 2^63 - 1; zero-padded text holds all of uint64, sorts as a number on
    both engines and can be read by a person.
    """

    impl = String(UINT64_DIGITS).with_variant(String(UINT64_DIGITS, collation="C"), "postgresql")
    cache_ok = True

    def process_bind_param(self, value: int | None, dialect: Dialect) -> str | None:
        """Return the digits of `value`."""
        del dialect
        return None if value is None else f"{value:0{UINT64_DIGITS}d}"

    def process_result_value(self, value: str | None, dialect: Dialect) -> int | None:
        """Return the number of the digits; ValueError if they are none."""
        del dialect
        return None if value is None else int(value)


def _id() -> Text:
    """Return a type for ids: text that is compared as bytes on every engine."""
    return Text().with_variant(Text(collation="C"), "postgresql")


def _key(*names: str) -> list[Column[str]]:
    """Make the columns of ids that a key consists of."""
    return [Column(name, _id(), primary_key=True) for name in names]


store_identity = Table(
    "store_identity",
    metadata,
    # Always 1: the primary key that keeps this table at one row.
    Column("singleton", Integer, primary_key=True, autoincrement=False),
    Column("store_id", _id(), nullable=False),
)

runtimes = Table(
    "runtimes",
    metadata,
    *_key("realm", "runtime_id"),
    # Counts the committed writes; a committed row is never at 0.
    Column("revision", BigInteger, nullable=False),
    Column("runtime_state", Text),
    # The newest version of its session and the digest of that, with a seal over both; NULL before the first.
    Column("session_revision", BigInteger),
    Column("session_sha256", LargeBinary),
    info=SMALL_ROWS,
)

fences = Table(
    "fences",
    metadata,
    *_key("realm", "runtime_id"),
    # Counts the acquisitions. There may be a fence before there is a runtime.
    Column("fence", BigInteger, nullable=False),
    Column("owner", Text, nullable=False),
    Column("acquired_at_ms", BigInteger, nullable=False),
    info=SMALL_ROWS,
)

requests = Table(
    "requests",
    metadata,
    *_key("realm", "request_id"),
    # What makes two requests the same, and a seal over this row.
    Column("fingerprint", LargeBinary, nullable=False),
    # The answer: the runtime's revision, or the OAuth snapshot's version.
    Column("revision", BigInteger, nullable=False),
    Column("recorded_at_ms", BigInteger, nullable=False),
    Index("requests_recorded_at_ms", "recorded_at_ms"),
    info=SMALL_ROWS,
)

BASE = "base"
EDITS = "edits"
"""The two kinds of versions: the whole document, or edits of the version before it."""

session_versions = Table(
    "session_versions",
    metadata,
    *_key("realm", "runtime_id"),
    # The revision of the runtime whose write left this version.
    Column("revision", BigInteger, primary_key=True, autoincrement=False),
    Column("kind", Text, nullable=False),
    Column("session_id", _id(), nullable=False),
    # Of the whole document, whichever way it is stored.
    Column("sha256", LargeBinary, nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    # The version before it; NULL of the first one, 0 where nobody knows.
    Column("previous_revision", BigInteger),
    # By the database's clock; NULL of one that came over from a store without history, as its seal is.
    Column("committed_at_ms", BigInteger),
    # The boundary that was committed with it, if one was.
    Column("run_id", _id()),
    Column("sequence", UInt64),
    # Over all of the columns before it.
    Column("seal", LargeBinary),
    # The document, or the edits.
    Column("body", LargeBinary, nullable=False),
    # What may be pruned follows from the age of bases, of which there are few.
    Index("session_versions_bases", "committed_at_ms", info={WHERE: text("kind = 'base'")}),
)

sessions = Table(
    "sessions",
    metadata,
    *_key("realm", "session_id"),
    Column("runtime_id", _id(), nullable=False),
    # Milliseconds since the epoch and counts, capped at 2^63 - 1: this table is for listing, the snapshot is the truth.
    Column("created_at_ms", BigInteger, nullable=False),
    Column("updated_at_ms", BigInteger, nullable=False),
    Column("message_count", BigInteger, nullable=False),
    Column("total_tokens", BigInteger, nullable=False),
    Index("sessions_runtime", "realm", "runtime_id"),
    info=SMALL_ROWS,
)

inputs = Table(
    "inputs",
    metadata,
    *_key("realm", "runtime_id", "input_id"),
    Column("sha256", LargeBinary, nullable=False),
    Column("state_json", LargeBinary, nullable=False),
)

receipts = Table(
    "receipts",
    metadata,
    *_key("realm", "runtime_id", "run_id"),
    Column("sequence", UInt64, primary_key=True),
    # Of the receipt; behind it a seal over the revision.
    Column("sha256", LargeBinary, nullable=False),
    Column("receipt", LargeBinary, nullable=False),
    # The revision that it was committed with; NULL where that was before the store kept this.
    Column("committed_revision", BigInteger),
    info=SMALL_ROWS,
)

ops_snapshots = Table(
    "ops_snapshots",
    metadata,
    *_key("realm", "runtime_id"),
    Column("epoch_id", _id(), nullable=False),
    Column("sha256", LargeBinary, nullable=False),
    Column("snapshot_json", LargeBinary, nullable=False),
)

oauth_flow_snapshots = Table(
    "oauth_flow_snapshots",
    metadata,
    Column("realm", _id(), primary_key=True),
    # Counts the writes of this row.
    Column("version", BigInteger, nullable=False),
    # Of the bytes; behind it a seal over the version.
    Column("sha256", LargeBinary, nullable=False),
    Column("snapshot_json", LargeBinary, nullable=False),
)


@event.listens_for(metadata, "before_create")
def _take_the_engines_own_options(made: MetaData, connection: Connection, **_: object) -> None:
    """Say what an engine has options for, before tables are made on it: naming an option loads its whole dialect."""
    engine = connection.dialect.name
    of_tables = dict(connection.dialect.construct_arguments or ()).get(Table, {})
    for table in made.tables.values():
        for option in of_tables.keys() & table.info.keys():
            table.dialect_kwargs[f"{engine}_{option}"] = table.info[option]
        for index in table.indexes:
            if WHERE in index.info:
                index.dialect_kwargs[f"{engine}_where"] = index.info[WHERE]
