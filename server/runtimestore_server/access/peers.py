"""How a call came: whether what it carries could be read on its way, and which names its certificate shows."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

_TRANSPORT = "transport_security_type"


def is_carried_safely(context: Any) -> bool:
    """Whether a call came over TLS, or without leaving this machine."""
    if is_this_machine(context.peer()):
        return True
    return b"insecure" not in context.auth_context().get(_TRANSPORT, (b"insecure",))


def names_shown(auth_context: Mapping[str, Sequence[bytes]]) -> tuple[str, ...]:
    """The names (SAN) in the certificate that a caller showed, none if it showed none.

    The access file says of no name of which kind it is, so one counts that cannot be meant as another kind: a CA that
    lets its clients choose the one must not let them have what it gives as the other.
    """
    found: list[str] = []
    for kind, looks_so in _KINDS.items():
        names = [name.decode(errors="replace") for name in auth_context.get(kind, ())]
        found += [name for name in names if looks_so(name)]
    return tuple(found)


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


_KINDS: dict[str, Callable[[str], bool]] = {
    "peer_dns": lambda name: not {":", "@", "/"} & {*name} and not _is_address(name),
    "peer_email": lambda name: "@" in name and not {":", "/"} & {*name},
    "peer_uri": lambda name: ":" in name and not _is_address(name),
    "peer_ip": lambda _: True,
}
"""Each kind of name, by gRPC's word for it, and whether a text looks like one."""


def host_of(peer: str) -> str:
    """The part of a peer, as gRPC writes one, that all connections of its machine have in common."""
    family, _, address = peer.partition(":")
    return f"{family}:{address.rpartition(':')[0]}" if family in ("ipv4", "ipv6") else peer


def is_this_machine(peer: str) -> bool:
    """Whether a peer, as gRPC writes one, is on this machine: on loopback, or at a Unix socket."""
    family, _, address = peer.partition(":")
    if family in ("unix", "unix-abstract"):
        return True
    host = unquote(address).rpartition(":")[0].removeprefix("[").removesuffix("]")
    try:
        found = ipaddress.ip_address(host)
    except ValueError:
        return False
    mapped = getattr(found, "ipv4_mapped", None)
    return bool((mapped or found).is_loopback)
