"""The health service, with the method that the library leaves to others."""

from __future__ import annotations

from typing import Any

from grpc_health.v1 import health, health_pb2


class HealthService(health.aio.HealthServicer):  # type: ignore[misc]  # published without types
    """`grpc.health.v1.Health` as the library has it, and `List`, which there would end as an unforeseen error."""

    async def List(self, request: Any, context: Any) -> Any:
        """The status of every service."""
        del request, context
        statuses = {
            service: health_pb2.HealthCheckResponse(status=status) for service, status in self._server_status.items()
        }
        return health_pb2.HealthListResponse(statuses=statuses)
