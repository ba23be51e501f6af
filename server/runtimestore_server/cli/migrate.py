"""`runtimestore migrate`: bring a database to the schema of this version."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click
import structlog

from runtimestore_server.cli.flags import SOURCES, takes_settings
from runtimestore_server.cli.introduction import warn_of_near_misses
from runtimestore_server.cli.refusals import MISUSED, Refused, refusing

if TYPE_CHECKING:
    from runtimestore_server.settings import Settings

_log = structlog.get_logger(__name__)


@click.command(epilog=SOURCES)
@takes_settings("database_url", "config", "log_level", "log_format")
def command(settings: Settings) -> int:
    """Bring the database to the schema of this version.

    It happens under a lock, so that several replicas may run it at once, and does nothing, quickly, when the schema is
    current. The file and the environment of `runtimestore serve` can be used as they are.
    """
    from runtimestore_server.store.engines.naming import describe
    from runtimestore_server.store.schema import SchemaNotCurrent, upgrade

    url = settings.database_url.get_secret_value()
    if url == "memory:":
        raise Refused("memory: needs no migration; it is made anew at every start", code=MISUSED)
    warn_of_near_misses(settings)
    with refusing(SchemaNotCurrent, ValueError, code=1):
        before, after = upgrade(url)
    if before == after:
        _log.info("schema is current", store=describe(url), revision=after)
    else:
        _log.info("schema upgraded", store=describe(url), before=before or "empty", after=after)
    return 0
