"""Asks Postgres which rights its role has, and tells why a connection was not made."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from runtimestore_server.store.engines.answers import Lacking

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sqlalchemy.engine import Connection

_LACKING = sa.text(
    "SELECT needed.privilege, needed.name FROM unnest(CAST(:names AS text[]), CAST(:rights AS text[]))"
    " WITH ORDINALITY AS needed (name, privilege, place)"
    " CROSS JOIN to_regclass(quote_ident(needed.name)) AS found"
    # NULL where there is no such table: what is missing is for the schema's revision to tell.
    " WHERE NOT CASE needed.privilege WHEN 'BYPASSRLS' THEN NOT row_security_active(found)"
    " ELSE has_table_privilege(found, needed.privilege) END"
    " ORDER BY needed.place"
)
# Without USAGE a schema's tables are not there at all, as if the database were empty.
_CLOSED = sa.text(
    "SELECT nspname::text FROM pg_namespace JOIN pg_class ON relnamespace = pg_namespace.oid"
    " WHERE relname = ANY (CAST(:names AS text[])) AND relkind IN ('r', 'p')"
    " AND nspname = ANY (string_to_array(replace(replace(current_setting('search_path'), ' ', ''), '\"', ''), ','))"
    " AND NOT has_schema_privilege(pg_namespace.oid, 'USAGE') GROUP BY nspname ORDER BY nspname"
)


_ANSWERS = {
    "42501": "the database role lacks a right",  # insufficient_privilege
    "XX001": "what Postgres stores is damaged",  # data_corrupted
    "XX002": "what Postgres stores is damaged",  # index_corrupted
    "08P01": "a pooler before the database refuses what is needed (pool_mode must be transaction or session)",
}


def missing_rights(connection: Connection, needed: Mapping[str, Sequence[str]]) -> list[Lacking]:
    """Find which rights the role that is connected lacks: on the tables of the search path, and to their schema.

    A policy of row-level security hides rows as if they were not there, which takes the right to all of them.
    """
    closed = [Lacking("USAGE", schema) for schema in connection.execute(_CLOSED, {"names": [*needed]}).scalars()]
    pairs = [(table, right) for table, rights in needed.items() for right in (*rights, "BYPASSRLS")]
    asked = {"names": [table for table, _ in pairs], "rights": [right for _, right in pairs]}
    return closed + [Lacking(right, table) for right, table in connection.execute(_LACKING, asked)]


def why_not(error: Any) -> str | None:
    """Return what a driver's error at start says, as the beginning of a sentence; None if it is not psycopg's."""
    import psycopg
    from psycopg.pq import Ping

    if not isinstance(error, psycopg.Error):
        return None
    if error.sqlstate is not None:
        return _ANSWERS.get(error.sqlstate, "the database answers with an error")
    if isinstance(error, psycopg.errors.ConnectionTimeout):
        return "the database does not answer"
    if error.pgconn is None:
        return "the database's host cannot be found"
    # libpq keeps the code of what a server says instead of letting us in to itself; the text may be in any language.
    return {
        Ping.OK: "the database server answers, but refuses this connection",
        Ping.REJECT: "the database server lets nobody in now: it starts, stops or recovers",
        Ping.NO_ATTEMPT: "the database URL cannot be used",
    }.get(_ping(error.pgconn), "the database does not answer")


def _ping(failed: Any) -> Any:
    """Tell how the server behind a connection that was not made answers anybody, whether it lets them in or not."""
    from psycopg.conninfo import make_conninfo
    from psycopg.pq import PGconn, Ping

    try:
        parts = {option.keyword.decode(): option.val.decode() for option in failed.info if option.val}
        return PGconn.ping(make_conninfo(**parts | {"connect_timeout": "1"}).encode())
    except Exception:  # noqa: BLE001  (a second look at what has failed already: it must not fail in another way)
        return Ping.NO_RESPONSE
