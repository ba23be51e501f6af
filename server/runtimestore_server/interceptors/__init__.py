"""What happens around every call, outermost first. The order is here and nowhere else."""

from __future__ import annotations

from typing import TYPE_CHECKING

from runtimestore_server.interceptors.arrivals import Arrivals
from runtimestore_server.interceptors.errors import ErrorInterceptor

if TYPE_CHECKING:
    import grpc.aio


def interceptors(arrivals: Arrivals) -> list[grpc.aio.ServerInterceptor]:
    """The interceptors of a server, outermost first."""
    return [
        # Outermost: whatever raises within becomes a status here, once, from its class.
        ErrorInterceptor(),
        # Within, so that the refusals of a server that ends become statuses too.
        arrivals,
    ]


__all__ = ["Arrivals", "interceptors"]
