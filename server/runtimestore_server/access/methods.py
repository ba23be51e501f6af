"""The access that each method needs: one table.

A method that is not in it needs `admin`, so that a new one is closed until somebody has decided; a test tells of it.
"""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING

from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection

from runtimestore.v1 import runtime_store_admin_pb2, runtime_store_pb2

if TYPE_CHECKING:
    from collections.abc import Iterator

    from google.protobuf.descriptor import ServiceDescriptor


class Access(IntEnum):
    """What a principal may call, and what a method needs; each includes those before it."""

    READ = 1
    WRITE = 2
    ADMIN = 3

    @property
    def told(self) -> str:
        """The word of the access file."""
        return self.name.lower()


BY_NAME = {access.told: access for access in Access}
"""The access of each word of the access file."""

_LEVELS: dict[str, dict[str, Access]] = {
    "runtimestore.v1.RuntimeStore": {
        "AuthAuthorityKey": Access.READ,
        "PersistAuthOAuthFlowSnapshot": Access.WRITE,
        "LoadAuthOAuthFlowSnapshot": Access.READ,
        "UpdateAuthOAuthFlowSnapshot": Access.WRITE,
        "CommitSessionSnapshot": Access.WRITE,
        "AtomicApply": Access.WRITE,
        "LoadInputStates": Access.READ,
        "LoadBoundaryReceipt": Access.READ,
        "LoadSessionSnapshot": Access.READ,
        "PersistInputState": Access.WRITE,
        "LoadInputState": Access.READ,
        "LoadRuntimeState": Access.READ,
        "CommitMachineLifecycle": Access.WRITE,
        "PersistOpsLifecycle": Access.WRITE,
        "LoadOpsLifecycle": Access.READ,
    },
    "runtimestore.v1.RuntimeStoreAdmin": {
        "GetServerInfo": Access.READ,
        "AcquireRuntime": Access.WRITE,
        "LoadRuntime": Access.READ,
        "ListSessionVersions": Access.READ,
    },
    "grpc.health.v1.Health": {"Check": Access.READ, "List": Access.READ, "Watch": Access.READ},
    reflection.SERVICE_NAME: {"ServerReflectionInfo": Access.READ},
}

TABLE = {f"/{service}/{method}": access for service, methods in _LEVELS.items() for method, access in methods.items()}
"""The access of each method by its path."""

OPEN_TO_ALL = frozenset({"/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/Watch"})
"""Where nobody needs a credential, as long as the request is about the server as a whole."""


def needed(path: str) -> Access:
    """Return the access that the method with this path needs."""
    return TABLE.get(path, Access.ADMIN)


def _services() -> Iterator[ServiceDescriptor]:
    for file in (runtime_store_pb2, runtime_store_admin_pb2, health_pb2):
        yield from file.DESCRIPTOR.services_by_name.values()


IN_A_REALM = frozenset(
    f"/{service.full_name}/{method.name}"
    for service in _services()
    for method in service.methods
    if "realm" in method.input_type.fields_by_name
)
"""The paths of the methods whose requests name a realm."""
