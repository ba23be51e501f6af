"""Closes the connection of a peer, for which gRPC for Python has no way.

A caller that lets nothing be sent to it (a window of no bytes) takes no answer, and its calls stay for as long as its
connection does, ten thousand of them on each; it may answer the pings that ask whether it is there. The connection is a
socket of this process: shut down, it ends for gRPC as if the peer had gone. The test is
`access/test_untaken_answers.py`; this may go when a servicer can close a connection, or gRPC bounds what waits to be
sent on one.
"""

from __future__ import annotations

import contextlib
import os
import socket
import stat
from pathlib import Path

from runtimestore_server.access.peers import address_and_port

FILES = Path("/proc/self/fd") if Path("/proc/self/fd").exists() else Path("/dev/fd")


def close_connection(peer: str) -> bool:
    """Close the connection of a peer, as gRPC writes one; whether there was one that it could be."""
    wanted = address_and_port(peer)
    if wanted is None:
        return False  # on a Unix socket nobody has a name
    for descriptor in _descriptors():
        with contextlib.suppress(OSError):
            if stat.S_ISSOCK(os.fstat(descriptor).st_mode) and _shut_down(descriptor, wanted):
                return True
    return False


def _descriptors() -> list[int]:
    with contextlib.suppress(OSError):
        return [int(name) for name in os.listdir(FILES)]  # noqa: PTH208  (names alone)
    return []


def _shut_down(descriptor: int, wanted: tuple[object, int]) -> bool:
    # A duplicate: whatever becomes of the descriptor meanwhile, what is looked at is what is shut down.
    with socket.socket(fileno=os.dup(descriptor)) as connection:
        if connection.family not in (socket.AF_INET, socket.AF_INET6):
            return False
        host, port, *_ = connection.getpeername()
        family = "ipv6" if connection.family == socket.AF_INET6 else "ipv4"
        if address_and_port(f"{family}:[{host.partition('%')[0]}]:{port}") != wanted:
            return False
        connection.shutdown(socket.SHUT_RDWR)
        return True
