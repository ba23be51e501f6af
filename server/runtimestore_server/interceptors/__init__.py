"""What happens around every call, outermost first. The order is here and nowhere else."""

from __future__ import annotations

from typing import TYPE_CHECKING

from runtimestore_server.interceptors.errors import ErrorInterceptor

if TYPE_CHECKING:
    import grpc.aio


def interceptors() -> list[grpc.aio.ServerInterceptor]:
    """The interceptors of a server, outermost first."""
    return [
        # Outermost: whatever raises within becomes a status here, once, from its class.
        ErrorInterceptor(),
    ]


__all__ = ["interceptors"]
