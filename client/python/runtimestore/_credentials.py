"""What a client shows to a server, and by what it knows one: TLS and bearer tokens, the same for both clients."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import grpc

__all__ = ["BearerToken", "Tls", "Token"]

Token = str | Callable[[], str]
"""A bearer token, or what is asked for it before each call."""

Pem = str | Path | bytes
"""A file in PEM by its path, or its bytes."""

_PRINTABLE = re.compile(r"[!-~]+")
_LOOPBACK_NAMES = ("localhost", "ip6-localhost")


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

    def credentials(self) -> grpc.ChannelCredentials:
        """What gRPC makes a channel with.

        Raises:
            OSError: a file cannot be read.
        """
        return grpc.ssl_channel_credentials(_bytes(self.ca), _bytes(self.key), _bytes(self.certificate))

    def options(self) -> list[tuple[str, int | str]]:
        """The channel's options beside them."""
        return [("grpc.ssl_target_name_override", self.server_name)] if self.server_name else []


def _bytes(pem: Pem | None) -> bytes | None:
    return pem if pem is None or isinstance(pem, bytes) else Path(pem).read_bytes()


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
        """What an attempt of a call carries: the token, if there is one."""
        return _metadata_of(self._token()) if callable(self._token) else self._metadata


def _metadata_of(token: str) -> tuple[tuple[str, str], ...]:
    if not isinstance(token, str) or not _PRINTABLE.fullmatch(token):
        raise ValueError("token must be printable ASCII without spaces, such as rst_...; a file's end of line is none")
    return (("authorization", f"Bearer {token}"),)


def _is_local(target: str) -> bool:
    """Whether a target is reached without a network."""
    if target.startswith(("unix:", "unix-abstract:", "vsock:")):
        return True
    name = target.removeprefix("dns:").rpartition("/")[2].removeprefix("ipv4:").removeprefix("ipv6:")
    return all(_is_loopback(address.rpartition(":")[0]) for address in name.split(","))


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host.removeprefix("[").removesuffix("]")).is_loopback
    except ValueError:
        return host in _LOOPBACK_NAMES
