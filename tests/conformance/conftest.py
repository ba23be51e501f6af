"""What the tests of the wire share beside that which every test may use."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from runtimestore.v1.runtime_store_admin_pb2_grpc import RuntimeStoreAdminStub

if TYPE_CHECKING:
    import grpc.aio


@pytest.fixture
def admin(channel: grpc.aio.Channel) -> Any:
    """The admin service, as gRPC calls it."""
    return RuntimeStoreAdminStub(channel)
