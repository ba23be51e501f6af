"""grpc.aio: the options of the server, the address that it listens on, with TLS or without, and the services."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import grpc.aio

from runtimestore_server.rpc.connections import HANDSHAKE_SECONDS, most_connections
from runtimestore_server.rpc.listening import addresses, in_words, reason
from runtimestore_server.rpc.registration import Registrar, UnknownMethods
from runtimestore_server.rpc.workarounds.log_filter import keep_callers_out_of_the_log
from runtimestore_server.rpc.workarounds.serving_on import ServingOn
from runtimestore_server.rpc.workarounds.socket_file import SocketFile

if TYPE_CHECKING:
    from collections.abc import Callable

    from runtimestore_server.access.authorization import Authorization
    from runtimestore_server.access.tls import Certificates
    from runtimestore_server.rpc.call import Calls
    from runtimestore_server.settings import Settings
    from runtimestore_server.supervision import Supervision

PENDING_CALLS = 10_000
"""How many calls may have arrived and not be begun, 130 MB of them. Nobody knows yet whose they are: whoever sends them
faster than they are refused fills this, and gRPC cancels what comes beyond."""

WINDOW_BYTES = 256 * 1024
"""How much of a message may come before it is being received. As much of it takes one round trip."""

KEEPALIVE_TIME_MS = 20_000
"""How long a connection may be silent before the server asks whether anybody is there."""

KEEPALIVE_TIMEOUT_MS = 60_000
"""How long the answer may take: on a slow link it stands behind the answers that are on their way."""


class CannotServe(Exception):
    """The server cannot start; the message says why and what to do."""


class Server:
    """A gRPC server of services, on one address, for as long as it is not stopped.

    Args:
        calls: wraps every method.
        register: registers the services.
        stopped: told when gRPC stopped by itself, before it is started again.
        supervision: keeps up what starts it again.
        certificates: what TLS is made from; None speaks without it.
        authorization: asks who calls a method that nobody registered; None asks nobody.
    """

    def __init__(
        self,
        settings: Settings,
        calls: Calls,
        register: Callable[[Registrar], None],
        *,
        stopped: Callable[[], None],
        supervision: Supervision,
        certificates: Certificates | None = None,
        authorization: Authorization | None = None,
    ) -> None:
        self._authorization = authorization
        self._settings = settings
        self._calls = calls
        self._register = register
        self._certificates = certificates
        self.most_connections = most_connections(settings)
        """How many connections are taken, on all addresses together."""
        self.address = ""
        """Where it listens, once it is started: with the port that it was given where it asked for any."""
        self._hosts: list[str] = []
        self._socket: SocketFile | None = None
        self._serving = ServingOn(lambda: self._listening(self.address)[0], stopped, supervision)

    async def start(self) -> None:
        """Listen, and serve.

        Raises:
            CannotServe: the address is taken or cannot be listened on.
        """
        keep_callers_out_of_the_log()
        listen = self._settings.listen
        if listen.startswith("unix:") and _answers(listen.removeprefix("unix:")):
            raise CannotServe(f"cannot listen on {listen}: a server answers there; choose another --listen")
        if listen.startswith("unix:"):
            self._socket = SocketFile(listen.removeprefix("unix:"))
        try:
            self._hosts = [address.rpartition(":")[0] for address in addresses(listen)]
            server, port = self._listening(listen)
        except OSError as error:
            raise CannotServe(f"cannot listen on {listen}: {in_words(error)}; choose another --listen") from None
        except RuntimeError as error:
            raise CannotServe(f"cannot listen on {listen}: {error}; choose another --listen") from None
        self.address = listen if listen.startswith("unix:") else f"{listen.rpartition(':')[0]}:{port}"
        try:
            await self._serving.start(server, address=self.address, socket=self._socket)
        except BaseException:
            self._unlink()
            raise

    async def drain(self) -> None:
        """Go on with what came, but start nothing anew."""
        await self._serving.end()

    async def stop(self, grace_seconds: float) -> None:
        """Close every connection, after this time at the latest; what is open then is cancelled."""
        self._unlink()
        await self._serving.stop(grace_seconds)

    def _unlink(self) -> None:
        if self._socket is not None:
            self._socket.remove()

    def _listening(self, address: str) -> tuple[grpc.aio.Server, int]:
        """Return a server of all services that listens but is not started, and its port.

        Raises:
            RuntimeError: the address is taken or cannot be listened on.
        """
        of_an_address = max(1, self.most_connections // max(1, len(self._hosts)))
        most = ("grpc.max_allowed_incoming_connections", of_an_address)  # what comes beyond is accepted, and closed
        server = grpc.aio.server(options=[*channel_options(self._settings), most])
        self._register(Registrar(self._calls, server))
        server.add_generic_rpc_handlers((UnknownMethods(self._calls.counts, self._authorization),))
        if (file := self._socket) is not None:
            try:
                file.listen(lambda path: self._bound(server, f"unix:{path}"))
            except OSError:
                raise RuntimeError(reason(address)) from None
            return server, 0
        port = int(address.rpartition(":")[2])
        for host in self._hosts:  # each must be had; the first decides what port 0 is
            port = self._bound(server, f"{host}:{port}")
        return server, port

    def _bound(self, server: grpc.aio.Server, address: str) -> int:
        """Return the port that a server was given on one address.

        Raises:
            RuntimeError: it was given none; the message is the system's reason.
        """
        try:
            if self._certificates is None:
                return server.add_insecure_port(address)
            return server.add_secure_port(address, self._certificates.credentials())
        except RuntimeError:
            raise RuntimeError(reason(address)) from None


def _answers(path: str) -> bool:
    """Tell whether somebody serves on a Unix socket; the file of one that was killed stays, and gRPC replaces any."""
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(path)
        except OSError:
            return False
        return True


def channel_options(settings: Settings) -> list[tuple[str, int]]:
    """Return the gRPC options of the server."""
    return [
        ("grpc.max_receive_message_length", settings.max_message_bytes),
        ("grpc.max_send_message_length", -1),  # whatever was accepted, under whatever limits then, can be read
        ("grpc.max_concurrent_streams", 10_000),  # on one connection; what is beyond waits in the client, out of sight
        # Beyond its own bounds gRPC cancels calls without a word; ours refuse them with a reason.
        ("grpc.server.max_pending_requests", PENDING_CALLS),
        ("grpc.server.max_pending_requests_hard_limit", PENDING_CALLS),
        # What is not received yet holds as much as its window lets in. Left to itself gRPC widens the windows of a busy
        # connection until every message that waits is there whole.
        ("grpc.http2.bdp_probe", 0),
        ("grpc.http2.lookahead_bytes", WINDOW_BYTES),
        # Identity alone: a few KB can inflate to the largest message, many at once; nothing tells before how large.
        ("grpc.compression_enabled_algorithms_bitset", 0b1),
        # Calls of a peer that is gone, or hangs, must not stay for hours.
        ("grpc.keepalive_time_ms", KEEPALIVE_TIME_MS),
        ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_MS),
        ("grpc.http2.ping_timeout_ms", KEEPALIVE_TIMEOUT_MS),  # what gRPC really goes by; a minute by itself
        ("grpc.server_handshake_timeout_ms", int(HANDSHAKE_SECONDS * 1000)),
        ("grpc.so_reuseport", 0),  # two servers on one port would share its calls in silence
        # Clients may ping an idle connection this often without being sent away.
        ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
        ("grpc.keepalive_permit_without_calls", 1),
    ]
