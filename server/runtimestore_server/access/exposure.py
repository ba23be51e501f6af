"""Decides whether a server may listen where it is told to: closed by default on whatever a network reaches."""

from __future__ import annotations

import ipaddress
import socket
from typing import TYPE_CHECKING

import structlog

from runtimestore_server.access.access_file import AccessFile
from runtimestore_server.access.authorization import Authorization
from runtimestore_server.access.rules import Unusable
from runtimestore_server.access.strangers import StrangersCalls

if TYPE_CHECKING:
    from collections.abc import Callable

    from runtimestore_server.access.tls import Certificates
    from runtimestore_server.settings import Settings

_log = structlog.get_logger(__name__)


def is_local(listen: str) -> bool:
    """Tell whether an address is reached from this machine only: loopback, or a Unix socket."""
    if listen.startswith("unix:"):
        return True
    host = listen.rpartition(":")[0].removeprefix("[").removesuffix("]")
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" and all(ipaddress.ip_address(found).is_loopback for found in _resolved(host))


def _resolved(host: str) -> set[str]:
    """Return the addresses of a name: what `localhost` is, files and name servers of the machine decide."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError:
        return set()  # listening fails for the same reason
    return {str(address[0]).partition("%")[0] for _, _, _, _, address in found}


def protection(
    settings: Settings, close_connection: Callable[[str], bool]
) -> tuple[Certificates | None, Authorization | None]:
    """Return what a server with these settings is protected by; `close_connection` closes that of a peer.

    Raises:
        Unusable: a file cannot be used, settings miss each other, or the server would be open to a network.
    """
    cert, key = settings.tls_cert, settings.tls_key
    if (cert is None) != (key is None):
        raise Unusable("--tls-cert and --tls-key belong together: give both, or neither")
    if settings.tls_client_ca is not None and cert is None:
        raise Unusable("--tls-client-ca asks clients for certificates over TLS: give --tls-cert and --tls-key too")
    if not is_local(settings.listen) and (cert is None or settings.access_file is None):
        if not settings.insecure:
            raise Unusable(
                f"will not serve on {settings.listen}, which a network may reach: whoever reached it could read and "
                "write everything. Give --tls-cert, --tls-key and --access-file; or --listen on 127.0.0.1, [::1] or "
                "unix:PATH; or say --insecure, where something else keeps strangers out"
            )
        missing = "TLS" if settings.access_file else "an access file" if cert else "TLS and an access file"
        _log.warning("insecure: serving on a network without what keeps strangers out", without=missing)
    if settings.metrics_listen and not is_local(settings.metrics_listen):
        # No refusal: Prometheus comes over a network, and --insecure would open more than this.
        _log.warning(
            "metrics on a network: whoever reaches them reads them, the realms of the access file too; let only those "
            "reach them who watch",
            listen=settings.metrics_listen,
        )
    certificates = None
    if cert is not None and key is not None:
        from runtimestore_server.access.tls import Certificates  # what reads certificates takes 8 MB

        certificates = Certificates(cert, key, settings.tls_client_ca)
    if settings.access_file is None:
        return certificates, None
    strangers = StrangersCalls(close_connection)
    return certificates, Authorization(AccessFile(settings.access_file), strangers, insecure=settings.insecure)
