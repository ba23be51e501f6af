"""Names the store that a command speaks of, and greets a person who looks at a terminal for `serve`."""

from __future__ import annotations

import os
import re
import sys
from typing import TYPE_CHECKING

import click
import structlog
from click.core import ParameterSource

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

    from runtimestore_server.settings import Settings

_log = structlog.get_logger(__name__)

COUNTED = 10_000
"""Runtimes are counted up to here: a start must not wait until a large table is read."""


def contents(tx: Connection) -> str:
    """Tell how much is in a store and its schema, such as `3 runtimes, schema 0002`."""
    import sqlalchemy as sa

    from runtimestore_server.store.schema import inspect
    from runtimestore_server.store.tables import runtimes

    some = sa.select(sa.literal(1)).select_from(runtimes).limit(COUNTED + 1).subquery()
    count = tx.execute(sa.select(sa.func.count()).select_from(some)).scalar_one()
    revision = inspect(tx).revision
    told = f"over {COUNTED} runtimes" if count > COUNTED else "1 runtime" if count == 1 else f"{count} runtimes"
    return f"{told}, schema {revision}"


def warn_of_near_misses(settings: Settings) -> None:
    """Log each variable that may have been meant as a setting, and is none."""
    from runtimestore_server.settings_sources import near_misses

    for told in near_misses(os.environ, settings):
        _log.warning(told)


def warn_of_traces() -> None:
    """Tell that gRPC's own traces, which somebody asked for, hold what ours never do."""
    if os.environ.get("GRPC_TRACE"):
        _log.warning(
            "GRPC_TRACE is set: gRPC's own lines may hold tokens and documents; unset it unless you look for a fault"
        )


def warn_of_a_visible_password(settings: Settings) -> None:
    """Log that the database's password was given as a flag: whoever is on this machine sees it while we run."""
    source = click.get_current_context().get_parameter_source("database_url")
    if source is ParameterSource.COMMANDLINE and settings.database_url.has_password:
        _log.warning(
            "the database's password is in a flag, which everybody on this machine can see; give it in a file that "
            "PGPASSFILE or --config names, or in RUNTIMESTORE_DATABASE_URL"
        )


def introduce(settings: Settings, *, address: str, store: str) -> None:
    """Say what a person needs first, where standard error is a terminal; logs that machines read stay as they are."""
    if settings.log_format == "text" and sys.stderr is not None and sys.stderr.isatty():
        sys.stderr.write(for_a_person(settings.database_url.get_secret_value(), address=address, store=store))
        sys.stderr.flush()


def for_a_person(url: str, *, address: str, store: str) -> str:
    """Tell where it listens, where the data is, whether it survives, one thing to try, and how to stop."""
    from runtimestore_server.store.engines.naming import survives

    reached = re.sub(r"^0\.0\.0\.0:", "127.0.0.1:", re.sub(r"^\[::\]:", "[::1]:", address))
    return (
        f"\n  RuntimeStore listens on {address}\n"
        f"  data      {store}\n"
        f"            {survives(url)}\n"
        f"  try       runtimestore health --address {reached}\n"
        "  stop      Ctrl-C; calls in flight finish first\n\n"
    )
