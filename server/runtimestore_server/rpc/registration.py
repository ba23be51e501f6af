"""Registers the methods of services with gRPC's server, each in the wrapper of its calls."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    import grpc.aio

    from runtimestore_server.rpc.call import Calls


class Registrar:
    """What generated code registers the methods of its service with, instead of the server itself."""

    def __init__(self, calls: Calls, server: grpc.aio.Server) -> None:
        self._calls = calls
        self._server = server

    def add_generic_rpc_handlers(self, _handlers: object) -> None:
        """Leave out what generated code registers a second time, for runtimes older than the registration by name."""

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, Any]) -> None:
        """Register the methods of a service."""
        wrapped = {name: self._calls.wrap(f"/{service}/{name}", handler) for name, handler in handlers.items()}
        self._server.add_registered_method_handlers(service, wrapped)
