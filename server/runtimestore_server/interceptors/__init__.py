"""What happens around every call, outermost first. The order is here and nowhere else."""

from __future__ import annotations

from typing import TYPE_CHECKING

from runtimestore_server.interceptors.admission import Admission
from runtimestore_server.interceptors.arrivals import Arrivals
from runtimestore_server.interceptors.doors import Doors
from runtimestore_server.interceptors.errors import ErrorInterceptor

if TYPE_CHECKING:
    import grpc.aio


def interceptors(admission: Admission, arrivals: Arrivals) -> list[grpc.aio.ServerInterceptor]:
    """The interceptors of a server, outermost first."""
    return [
        # Outermost: whom it turns away costs nothing of what is within. It ends those calls by itself.
        admission,
        # Around the others: whatever raises within becomes a status here, once, from its class.
        ErrorInterceptor(),
        # It only counts: admission asks it whom a server that ends turns away.
        arrivals,
    ]


__all__ = ["Admission", "Arrivals", "Doors", "interceptors"]
