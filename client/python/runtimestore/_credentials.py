"""Holds what a client shows to a server and knows it by: TLS and bearer tokens, the same for both clients."""

from __future__ import annotations

import ipaddress
import os
import re
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import grpc

from runtimestore import _arguments as arguments
from runtimestore._files import read_regular

__all__ = ["BearerToken", "Tls", "Token"]

Token = str | Callable[[], str]
"""A bearer token, or what is asked for it before each call."""

Pem = str | Path | bytes
"""A file in PEM by its path, or its bytes."""

_PRINTABLE = re.compile(r"[!-~]+")

_MOST_PEM_BYTES = 16 * 1024 * 1024
"""How large a file may be; a bundle of all CAs that there are has a quarter of a megabyte."""


@dataclass(frozen=True, slots=True)
class Tls:
    """How a client speaks TLS. A file is given by its path, or as its bytes in PEM.

    `ca` signs the certificates of servers that are trusted; without it, those that gRPC brings along do. A server that
    asks for a certificate is shown `certificate`, whose key is `key`. `server_name` is the name that the server's
    certificate is for, where it is not the one in the address. The files are read when the client connects first.
    """

    ca: Pem | None = None
    certificate: Pem | None = None
    key: Pem | None = field(default=None, repr=False)
    server_name: str | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot be meant."""
        if (self.certificate is None) != (self.key is None):
            raise ValueError("certificate and key belong together: give both, or neither")
        for name in ("ca", "certificate", "key"):
            given = getattr(self, name)
            if given is not None and not isinstance(given, str | os.PathLike | bytes):
                raise TypeError(f"{name} must be a path, or bytes in PEM, not {type(given).__name__}")
            if not isinstance(given, bytes) and "-----BEGIN" in str(given):
                # Not quoted: as a path that is not there it would be, and it may be a key.
                raise ValueError(f"{name} is the text of a PEM where a path is meant: give its bytes")
        arguments.optional_text("server_name", self.server_name)

    def credentials(self) -> grpc.ChannelCredentials:
        """Return what gRPC makes a channel with.

        Raises:
            OSError: a file cannot be read, is no regular file, or is too large to be one of these.
        """
        return grpc.ssl_channel_credentials(_bytes(self.ca), _bytes(self.key), _bytes(self.certificate))

    def options(self) -> list[tuple[str, int | str]]:
        """Return the channel's options beside them."""
        return [("grpc.ssl_target_name_override", self.server_name)] if self.server_name else []


def _bytes(pem: Pem | None) -> bytes | None:
    return pem if pem is None or isinstance(pem, bytes) else read_regular(pem, _MOST_PEM_BYTES)[0]


class BearerToken:
    """The token of a client, which nothing shows: asked for before each attempt of a call where it may change.

    Raises (when it is made):
        ValueError: it cannot be a token, or would travel to another machine for all to read; nothing of it is quoted.
    """

    def __init__(self, token: Token | None, *, target: str, protected: bool) -> None:
        self._token = token
        self._metadata = () if token is None or callable(token) else _metadata_of(token)
        if token is not None and not protected and not _is_local(target):
            raise ValueError(
                "token would travel to another machine for all to read: speak TLS, or hand over a channel that is "
                "protected otherwise"
            )

    def metadata(self) -> tuple[tuple[str, str], ...]:
        """Return what an attempt of a call carries: the token, if there is one."""
        return _metadata_of(self._token()) if callable(self._token) else self._metadata


def _metadata_of(token: str) -> tuple[tuple[str, str], ...]:
    if not isinstance(token, str):
        raise TypeError(f"token must be a str, or a function that returns one, not {type(token).__name__}")
    if not _PRINTABLE.fullmatch(token):
        raise ValueError("token must be printable ASCII without spaces, such as rst_...; a file's end of line is none")
    return (("authorization", f"Bearer {token}"),)


def _is_local(target: str) -> bool:
    """Tell whether a target is surely reached without a network: all of its addresses are loopback or Unix sockets.

    What another decides is not sure: a name server that is named (`dns://8.8.8.8/localhost`), a control plane (`xds:`),
    a hypervisor (`vsock:`).
    """
    if target.startswith(("unix:", "unix-abstract:")):
        return True
    for literal in ("ipv4:", "ipv6:"):
        if target.startswith(literal):
            return all(_is_loopback(_host(one)) for one in target.removeprefix(literal).split(","))
    host = _host(target.removeprefix("dns:").removeprefix("///"))
    return _is_loopback(host) or (host == "localhost" and _is_loopback_by_name(host))


def _host(address: str) -> str:
    return address.rpartition(":")[0].removeprefix("[").removesuffix("]")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _is_loopback_by_name(host: str) -> bool:
    """Tell whether a name stands for loopback alone: what `localhost` is, the files of the machine decide."""
    try:
        found = {str(address[0]) for *_, address in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)}
    except OSError:
        return False
    return bool(found) and all(_is_loopback(address) for address in found)
