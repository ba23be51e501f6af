"""Reads what a Postgres URL says beside its parts: options of libpq's, and what only this server understands."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING
from urllib.parse import unquote

from sqlalchemy.exc import ArgumentError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sqlalchemy.engine import URL

_FILES = ("passfile", "sslcert", "sslkey", "sslrootcert", "sslcrl")
"""The options of libpq's that name files which it reads."""


def connectable(url: URL) -> tuple[URL, int | None]:
    """Return the URL as SQLAlchemy is to have it, and after how many runs a statement is prepared; None for never.

    Raises:
        ValueError: it holds what the driver would choke on; the message quotes none of it.
    """
    from psycopg.pq import Conninfo

    options = dict(url.query)
    threshold = _threshold(options.pop("prepare_threshold", "5"))  # psycopg's own default
    defaults = {option.keyword.decode(): option.val for option in Conninfo.get_defaults()}
    if not defaults.keys() >= options.keys():
        raise ValueError(
            "behind the ? of a Postgres URL may stand libpq's connection options and prepare_threshold, nothing else"
        )
    _refuse_what_is_no_file(options, {name: val.decode(errors="replace") for name, val in defaults.items() if val})
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


def _refuse_what_is_no_file(options: Mapping[str, str | tuple[str, ...]], defaults: Mapping[str, str]) -> None:
    """See that libpq finds files where it reads some: it would wait for whoever writes into a pipe.

    Raises:
        ValueError: one is a pipe, a folder or a socket. Of devices there is /dev/null, which stands for no file.
    """
    unsaid = {"passfile": os.path.expanduser("~/.pgpass")}  # noqa: PTH111  (where there is no home, pathlib raises)
    for name in _FILES:
        named = options.get(name) or defaults.get(name) or unsaid.get(name)
        try:
            mode = os.stat(named).st_mode if isinstance(named, str) else stat.S_IFREG  # noqa: PTH116  (may be anything)
        except (OSError, ValueError):
            continue  # what is not there, or cannot be a path, libpq tells of
        if not stat.S_ISREG(mode) and not stat.S_ISCHR(mode):
            raise ValueError(f"{name}: what the driver is to read there is no regular file; name one, or none")


def _threshold(given: str | tuple[str, ...]) -> int | None:
    """Read the threshold: 0 is never, as everywhere but in psycopg, where every statement would be prepared at once."""
    if isinstance(given, str) and given.lower() == "none":
        return None
    if not (isinstance(given, str) and given.isascii() and given.isdecimal() and int(given[:9]) <= 10**6):
        raise ValueError("prepare_threshold must be a number of runs, or 0 for a pooler that must see no session")
    return int(given) or None
