"""`runtimestore backup`: one consistent copy of a store in one file, while servers go on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from runtimestore_server.cli.flags import SOURCES, takes_settings
from runtimestore_server.cli.output import show_if_possible
from runtimestore_server.cli.refusals import CANNOT, refusing

if TYPE_CHECKING:
    from runtimestore_server.settings import Settings

MANUAL = """\
Write a backup of the store into FILE, which must not be there yet.

It is one moment of the whole store, taken while servers go on, and a file of the same kind whatever engine the store is
on: an SQLite database with a manifest of what must be in it. So it is also the way from Postgres to SQLite and back. It
holds OAuth secrets: its owner alone may read it.

FILE appears when it is whole. It carries the memory of requests and the fences of that moment; what was written after
it is not in it, and runtimes that wrote since must be started anew after a restore (docs/operations.md).

\b
exit code: 0 written, 2 not; then no FILE is there
"""


@click.command(help=MANUAL, epilog=SOURCES)
@takes_settings("database_url", "config", "log_level", "log_format")
@click.argument("file", type=click.Path(path_type=Path, readable=False))
def command(settings: Settings, *, file: Path) -> int:
    """Back up the store that the settings name."""
    from runtimestore_server.backup import CannotBackUp, create
    from runtimestore_server.cli.introduction import warn_of_near_misses
    from runtimestore_server.cli.progress import progress
    from runtimestore_server.store.engines import ChangedMeanwhile
    from runtimestore_server.store.engines.naming import describe
    from runtimestore_server.verify.findings import printable

    warn_of_near_misses(settings)
    with refusing(CannotBackUp, ChangedMeanwhile, ValueError, code=CANNOT, escaped=True), progress() as shown:
        taken = create(settings.database_url.get_secret_value(), file, shown)
    manifest = taken.manifest
    store = printable(describe(settings.database_url.get_secret_value()))
    show_if_possible(
        f"{printable(str(file))}: {taken.size_bytes} bytes, {manifest.rows} rows, schema {manifest.schema_revision}",
        f"store   {manifest.store_id}, {store}, {manifest.taken_at}",
        f"sha256  {taken.sha256}",
        f"Look at every row of it: runtimestore verify --database-url sqlite:///{printable(str(file))}",
    )
    return 0
