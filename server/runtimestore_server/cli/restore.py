"""`runtimestore restore`: make a database what a backup is, all or nothing."""

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
Restore the store that --database-url names from the backup in FILE, on either engine.

The backup is checked before anything is touched: one that was cut off, altered, or written by a newer version is
refused. So is a store that is there already, unless --replace says so, and one that a server has open: stop every
server first. What takes effect was read back and compared, row by row; a backup of an older version is brought to this
one's schema. On SQLite what was there before is kept beside it under another name, and no log is left behind.

What happened after the backup is gone, and with it the memory of its requests and fences: stop the runtimes first, and
let each acquire its runtime again (docs/operations.md).

\b
exit code: 0 restored, 2 not; then the database is as it was
"""


@click.command(help=MANUAL, epilog=SOURCES)
@takes_settings("database_url", "config", "log_level", "log_format")
@click.argument("file", type=click.Path(path_type=Path, readable=False))
@click.option("--replace", is_flag=True, help="Take the place of a store that is there already.")
def command(settings: Settings, *, file: Path, replace: bool) -> int:
    """Restore the store that the settings name."""
    from runtimestore_server.backup import CannotRestore, restore
    from runtimestore_server.cli.introduction import warn_of_near_misses
    from runtimestore_server.cli.progress import progress
    from runtimestore_server.store.engines.naming import describe
    from runtimestore_server.verify.findings import printable

    warn_of_near_misses(settings)
    url = settings.database_url.get_secret_value()
    with refusing(CannotRestore, ValueError, code=CANNOT, escaped=True), progress() as shown:
        done = restore(file, url, shown, replace=replace)
    width = max(map(len, done.tables))
    show_if_possible(
        f"store   {done.manifest.store_id} as of {done.manifest.taken_at}, schema {done.schema_revision}",
        f"in      {printable(describe(url))}",
        *(
            f"{name:<{width}}  {table.rows:>9} rows  sha256 {table.sha256}"
            for name, table in sorted(done.tables.items())
        ),
        *([f"What was there before is in {printable(done.kept)}"] if done.kept else []),
        "Look at every row of it: runtimestore verify, with the same --database-url",
    )
    return 0
