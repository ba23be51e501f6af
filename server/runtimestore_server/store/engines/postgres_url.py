"""Reads what a Postgres URL says beside its parts: options of libpq's, and what only this server understands."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import unquote

from sqlalchemy.exc import ArgumentError

if TYPE_CHECKING:
    from sqlalchemy.engine import URL

PREPARE_THRESHOLD = 5
"""How often a statement is run on a connection before it is prepared there; psycopg's own default."""

_MOST_RUNS = 1_000_000


def connectable(url: URL) -> tuple[URL, int | None]:
    """The URL as SQLAlchemy is to have it, and after how many runs a statement is prepared; None for never.

    Raises:
        ValueError: it holds what the driver would choke on; the message quotes none of it.
    """
    from psycopg.pq import Conninfo

    options = dict(url.query)
    threshold = _threshold(options.pop("prepare_threshold", str(PREPARE_THRESHOLD)))
    known = {option.keyword.decode() for option in Conninfo.get_defaults()}
    if not known.issuperset(options):
        raise ValueError(
            "behind the ? of a Postgres URL may stand libpq's connection options and prepare_threshold, nothing else"
        )
    host = url.host
    if host is not None and host[:3].upper() == "%2F":
        host = unquote(host)  # libpq's form of the folder with the socket
    elif host:
        try:
            host.encode("idna")
        except UnicodeError:
            raise ValueError("the host of the URL is no name that a host can have") from None
    found = url.set(drivername="postgresql+psycopg", host=host, query=options)
    try:
        found.get_dialect()().create_connect_args(found)
    except ArgumentError:
        raise ValueError("the hosts or ports behind the ? of the URL do not fit together") from None
    return found, threshold


def _threshold(given: str | tuple[str, ...]) -> int | None:
    """As everywhere but in psycopg, 0 is never: nobody who writes it wants every statement prepared at once."""
    if isinstance(given, str) and given.lower() == "none":
        return None
    if not (isinstance(given, str) and given.isascii() and given.isdecimal() and int(given[:9]) <= _MOST_RUNS):
        raise ValueError("prepare_threshold must be a number of runs, or 0 for a pooler that must see no session")
    return int(given) or None
