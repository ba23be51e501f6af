"""Bounds the connections of callers: as many as are wanted, as long as files are left for the server itself.

A connection is an open file of the process, and anybody may open one: nobody is asked who it is before it has said
something. Without a bound those who only connect take every file that the process may open, and then nothing answers:
no call, no probe, no scrape. gRPC counts the connections of each address that it listens on, and closes at once what
comes beyond.
"""

from __future__ import annotations

import contextlib
import resource
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from runtimestore_server.settings import Settings

HANDSHAKE_SECONDS = 20.0
"""How long a connection may take to say what it is: TLS, and the first words of HTTP/2. gRPC's own time is two minutes,
in which who says nothing keeps a place."""

OWN_FILES = 128
"""How many files the server opens beside those of threads: logs, libraries, its addresses, the HTTP port with its
connections, a certificate that is tried, a collector of traces, a moment in which a connection is closed."""

FILES_OF_A_THREAD = 4
"""A socket; or SQLite's file, log and index; and one that is opened anew while the other is closed."""

POOLED = 4
"""How many connections to the engine there may be beside one for each thread."""


def own_files(settings: Settings) -> int:
    """Tell how many files a server with these settings may need beside its callers' connections."""
    return OWN_FILES + FILES_OF_A_THREAD * (settings.committer_threads + settings.reader_threads + POOLED)


def most_connections(settings: Settings) -> int:
    """Tell how many connections are taken on all addresses together: half of the files at least, if they are few."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if files == resource.RLIM_INFINITY:
        return settings.max_connections
    return min(settings.max_connections, max(files - own_files(settings), files // 2))


def allow_files(settings: Settings) -> None:
    """Let this process open as many files as its connections take, where the system lets it.

    Shells and supervisors give 1024 for the sake of programs that can count no further.
    """
    with contextlib.suppress(OSError, ValueError):  # then it is as before, and fewer connections are taken
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        wanted = settings.max_connections + own_files(settings)
        if hard != resource.RLIM_INFINITY:
            wanted = min(wanted, hard)
        if soft != resource.RLIM_INFINITY and soft < wanted:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
