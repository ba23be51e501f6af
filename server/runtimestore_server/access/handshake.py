"""Tries a certificate by a TLS handshake within this process: gRPC's own library alone knows what it accepts.

OpenSSL takes keys, curves and files that BoringSSL refuses, and a list of them would be right for one version.
"""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import grpc
import structlog

from runtimestore_server.access.rules import Unusable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_log = structlog.get_logger(__name__)

TRY_SECONDS = 10.0
"""How long a handshake may take: some milliseconds, unless the machine does not come to it."""

_OPTIONS: Sequence[tuple[str, int]] = (
    ("grpc.use_local_subchannel_pool", 1),  # a connection of its own
    ("grpc.enable_http_proxy", 0),  # the environment may name one
    ("grpc.so_reuseport", 0),  # nobody else's connection
)
_REASON = re.compile(r"OPENSSL_internal:([A-Z0-9_]+(: [a-z ]+)?)")
"""BoringSSL's own words for what is wrong, where gRPC passes them on."""


def prove(certificate: bytes, key: bytes, client_ca: bytes | None, *, name: str) -> None:
    """Check that gRPC can serve with a certificate, and that its clients accept that for this name.

    Where nothing can be tried, because there is no loopback or the time does not suffice, that is logged.

    Raises:
        Unusable: it does not. The message goes on after the names of the files.
    """
    with ThreadPoolExecutor(max_workers=1) as pool:
        server = grpc.server(pool, options=_OPTIONS)
        credentials = grpc.ssl_server_credentials([(key, certificate)], root_certificates=client_ca)
        address = _listening(server, credentials)
        if address is None:
            return
        server.start()
        try:
            _connect(address, certificate, name)
        finally:
            server.stop(None).wait()


def _listening(server: grpc.Server, credentials: grpc.ServerCredentials) -> str | None:
    """Tell where a server listens with credentials; None where it can listen nowhere.

    Raises:
        Unusable: gRPC cannot make use of them.
    """
    for loopback in ("127.0.0.1:0", "[::1]:0"):
        try:
            return f"{loopback.rpartition(':')[0]}:{server.add_secure_port(loopback, credentials)}"
        except RuntimeError:  # for whatever reason
            try:
                server.add_insecure_port(loopback)
            except RuntimeError:
                continue
            raise Unusable("gRPC cannot use them") from None
    _log.warning("the certificate was not tried: there is no loopback to listen on")
    return None


def _connect(address: str, certificate: bytes, name: str) -> None:
    """Do one handshake.

    Raises:
        Unusable: it failed.
    """
    # What the file has is trusted, for whoever issued it need not stand in it.
    trusted = grpc.ssl_channel_credentials(certificate)
    options = [*_OPTIONS, ("grpc.ssl_target_name_override", name)]
    with grpc.secure_channel(address, trusted, options=options) as channel:
        try:
            call: Callable[..., bytes] = channel.unary_unary("/handshake/Done")
            call(b"", timeout=TRY_SECONDS)
        except grpc.RpcError as error:
            if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
                _log.warning("the certificate was not tried: the machine does not come to it")
            # What gRPC says where the handshake is done and the certificate is of another host, or names none.
            elif error.code() is grpc.StatusCode.UNAVAILABLE and "Hostname Verification" not in (error.details() or ""):
                reason = _REASON.search(error.details() or "")
                raise Unusable(f"gRPC's clients end the handshake{f', {reason[1]}' if reason else ''}") from None
