"""Tells whether Postgres takes as many connections as this server may open."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection, Engine

OVERFLOW = 1
"""How many connections a pool opens beyond its size."""


def connection_warnings(connection: Connection, *engines: Engine) -> list[str]:
    """Return a sentence for each limit that leaves too little room for all that these engines may open.

    Others' connections are counted as they are now: those that idle servers will open later are seen by nobody.
    """
    pools: list[Any] = [engine.pool for engine in engines]
    most = sum(pool.size() + OVERFLOW for pool in pools)
    ours = sum(pool.checkedin() + pool.checkedout() for pool in pools)
    found = connection.execute(_LIMITS).mappings().one()
    limits = {
        "max_connections": (found["most"] - found["reserved"], max(found["open_in_all"] - ours, 0)),
        "the database's CONNECTION LIMIT": (found["of_database"], max(found["open_in_database"] - ours, 0)),
        "the role's CONNECTION LIMIT": (found["of_role"], 0),  # a superuser has none
    }
    return [
        f"{name} leaves {limit - others} connections ({limit} less {others} open by others), and this server opens up "
        f"to {most}: raise it, or lower committer_threads or reader_threads, or put a pooler between"
        for name, (limit, others) in limits.items()
        if limit >= 0 and most > limit - others
    ]


# pg_stat_database tells its counts to every role; pg_stat_activity hides others' rows in part. Older releases lack
# reserved_connections, and a superuser may use what is reserved: it is left out for everybody.
_LIMITS = sa.text(
    "SELECT current_setting('max_connections')::int AS most,"
    " current_setting('superuser_reserved_connections')::int"
    " + coalesce(current_setting('reserved_connections', true), '0')::int AS reserved,"
    " (SELECT sum(numbackends) FROM pg_stat_database)::int AS open_in_all,"
    " d.datconnlimit AS of_database, pg_stat_get_db_numbackends(d.oid) AS open_in_database,"
    " CASE WHEN r.rolsuper THEN -1 ELSE r.rolconnlimit END AS of_role"
    " FROM pg_database d, pg_roles r WHERE d.datname = current_database() AND r.rolname = current_user"
)
