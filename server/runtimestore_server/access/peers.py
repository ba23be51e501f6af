"""How a call came: whether what it carries could be read on its way."""

from __future__ import annotations

import ipaddress
from typing import Any
from urllib.parse import unquote

_TRANSPORT = "transport_security_type"


def is_carried_safely(context: Any) -> bool:
    """Whether a call came over TLS, or without leaving this machine."""
    if is_this_machine(context.peer()):
        return True
    return b"insecure" not in context.auth_context().get(_TRANSPORT, (b"insecure",))


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
