"""Cleans up behind a Postgres of one's own when whoever started it is gone."""
# ruff: noqa: INP001 - tests and bench import it from the root of the repository; it is part of neither

from __future__ import annotations

import contextlib
import subprocess
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from scripts.postgres_installation import Installation

# Its standard input is a pipe from us: whatever ends us, be it SIGKILL, the pipe ends too, and with it the server and
# its folder. Nobody has to be alive to clean up. A server that we froze is woken first, or it would not hear.
_KEEPER = """
cat >/dev/null
if [ -e "$2/data/postmaster.pid" ]; then
    pid=$(head -n 1 "$2/data/postmaster.pid")
    pkill -CONT -P "$pid"
    kill -CONT "$pid"
    "$1/pg_ctl" stop -D "$2/data" -m immediate
fi
rm -rf "$2"
"""


@contextlib.contextmanager
def keeper(installation: Installation, folder: Path) -> Iterator[None]:
    """Somebody who cleans up when we are gone, in whatever way."""
    command = ["/bin/sh", "-c", _KEEPER, "keeper-of-postgres", str(installation.binaries), str(folder)]
    with subprocess.Popen(  # noqa: S603 - a shell with a script of our own
        installation.account.command(*command),
        cwd="/",
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    ):
        yield  # leaving ends the pipe, and waits
