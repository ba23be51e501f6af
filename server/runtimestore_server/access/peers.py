"""Tells how a call came: whether what it carries could be read on its way, and which names its certificate shows."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence


def is_carried_safely(context: Any) -> bool:
    """Tell whether a call came over TLS, or without leaving this machine."""
    if is_this_machine(context.peer()):
        return True
    return b"insecure" not in context.auth_context().get("transport_security_type", (b"insecure",))


def names_shown(auth_context: Mapping[str, Sequence[bytes]]) -> tuple[str, ...]:
    """Return the names (SAN) in the certificate that a caller showed, none if it showed none.

    The access file says of no name of which kind it is, so one counts that cannot be meant as another kind: a CA that
    lets its clients choose the one must not let them have what it gives as the other.
    """
    found: list[str] = []
    for kind, looks_so in _KINDS.items():
        names = [name.decode(errors="replace") for name in auth_context.get(kind, ())]
        found += [name for name in names if looks_so(name)]
    return tuple(found)


def is_address(name: str) -> bool:
    """Tell whether a name is an address of IP."""
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


_KINDS: dict[str, Callable[[str], bool]] = {
    "peer_dns": lambda name: not {":", "@", "/"} & {*name} and not is_address(name),
    "peer_email": lambda name: "@" in name and not {":", "/"} & {*name},
    "peer_uri": lambda name: ":" in name and not is_address(name),
    "peer_ip": lambda _: True,
}
"""Each kind of name, by gRPC's word for it, and whether a text looks like one."""


def host_of(peer: str) -> str:
    """Return the part of a peer, as gRPC writes one, that all connections of its machine have in common.

    Of IPv6 that is the network: one machine has every address in it.
    """
    family, _, address = peer.partition(":")
    if family not in ("ipv4", "ipv6"):
        return peer
    found = _address_of(address)
    if isinstance(found, ipaddress.IPv6Address):
        mapped = found.ipv4_mapped
        return f"ipv4:{mapped}" if mapped else f"ipv6:{ipaddress.IPv6Network((int(found), 64), strict=False)}"
    return f"{family}:{address.rpartition(':')[0]}"


def address_and_port(peer: str) -> tuple[object, int] | None:
    """Return what a peer is at, as gRPC writes one; None if that is no address. One of IPv4 is the same within IPv6."""
    family, _, address = peer.partition(":")
    found = _address_of(address) if family in ("ipv4", "ipv6") else None
    port = address.rpartition(":")[2]
    if found is None or not port.isdecimal():
        return None
    return getattr(found, "ipv4_mapped", None) or found, int(port)


def _address_of(address: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """Return the address in HOST:PORT as gRPC writes it; None if there is none."""
    try:
        host = unquote(address).rpartition(":")[0].removeprefix("[").removesuffix("]")
        return ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return None


def is_this_machine(peer: str) -> bool:
    """Tell whether a peer, as gRPC writes one, is on this machine: on loopback, or at a Unix socket."""
    family, _, address = peer.partition(":")
    if family in ("unix", "unix-abstract"):
        return True
    found = _address_of(address)
    return found is not None and (getattr(found, "ipv4_mapped", None) or found).is_loopback
