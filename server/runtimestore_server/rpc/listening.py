"""The addresses behind `listen`, and why one of them cannot be listened on: gRPC hides the system's reason."""

from __future__ import annotations

import contextlib
import errno
import os
import socket

from runtimestore_server.access.peers import is_address

_REASONS = {
    errno.EADDRINUSE: "the address is taken",
    errno.EADDRNOTAVAIL: "the address is not this machine's",
    errno.EACCES: "no right to (a port below 1024, or the rights of the socket's folder)",
    errno.EPERM: "no right to",
    errno.ENOENT: "no such directory",
    errno.ENOTDIR: "a part of the path is no directory",
    errno.EROFS: "the file system is read-only",
    errno.EAFNOSUPPORT: "this machine does not speak that version of IP",
}


def addresses(listen: str) -> list[str]:
    """Return what to bind for this setting: each address of a name, so that none of them is left to another server.

    gRPC by itself is content with the first that works, and `localhost` would be another server's on the other family.

    Raises:
        OSError: the name is not found, or none of its addresses is this machine's.
    """
    host, _, port = listen.rpartition(":")
    if listen.startswith("unix:") or is_address(host.strip("[]")):
        return [listen]
    found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    hosts = list(dict.fromkeys((family, str(address[0])) for family, _, _, _, address in found))
    refusal: OSError | None = None
    own = []
    for family, numeric in hosts:
        try:
            _bind(family, (numeric, 0))
        except OSError as error:
            if error.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                raise
            refusal = error  # where IPv6 is switched off, nobody can take that half of localhost
        else:
            own.append(f"[{numeric}]:{port}" if family == socket.AF_INET6 else f"{numeric}:{port}")
    if not own and refusal is not None:
        raise refusal
    return own


def reason(listen: str) -> str:
    """Say why this address could not be listened on, found by trying it with a socket of one's own."""
    try:
        if listen.startswith("unix:"):
            _bind_path(listen.removeprefix("unix:"))
        else:
            host, _, port = listen.rpartition(":")
            for family, _, _, _, address in socket.getaddrinfo(
                host.strip("[]"), int(port), type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            ):
                _bind(family, address)
    except OSError as error:
        return in_words(error)
    return "the system gave no reason"


def in_words(error: OSError) -> str:
    """Return what the system says, in the words of an operator."""
    if isinstance(error, socket.gaierror):
        return f"the name is not found ({error.strerror})"
    if error.errno is None:
        return str(error)  # a path too long for a socket is refused before the system sees it
    return _REASONS.get(error.errno) or os.strerror(error.errno)


def _bind(family: int, address: tuple[object, ...]) -> None:
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as gRPC does: what lingers takes nothing
        if family == socket.AF_INET6:
            probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        probe.bind(address)
        probe.listen(1)


def _bind_path(path: str) -> None:
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.bind(path)
        except OSError as error:
            if error.errno is None:
                raise OSError(f"the path is too long for a socket ({len(os.fsencode(path))} bytes)") from None
            raise
    with contextlib.suppress(OSError):
        os.unlink(path)  # noqa: PTH108  (a path as it was given)
