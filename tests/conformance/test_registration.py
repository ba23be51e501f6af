"""How the server waits for calls: with few tasks, since gRPC goes over all of them after each call."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import grpc
from grpc_health.v1 import health_pb2

from runtimestore_server.rpc.registration import Registrar

if TYPE_CHECKING:
    from runtimestore_server.app import Application

HEALTH = len(health_pb2.DESCRIPTOR.services_by_name["Health"].methods)


class _Server:
    """Takes what a registrar registers."""

    def __init__(self) -> None:
        self.by_name: dict[str, Any] = {}
        self.generic: list[Any] = []

    def add_registered_method_handlers(self, service: str, handlers: dict[str, Any]) -> None:
        self.by_name |= {f"/{service}/{name}": handler for name, handler in handlers.items()}

    def add_generic_rpc_handlers(self, handlers: tuple[Any, ...]) -> None:
        self.generic += handlers


class _Calls:
    """Wraps a handler by its path."""

    def wrap(self, path: str, handler: object) -> object:
        return path, handler


def _details(method: str) -> Any:
    """What gRPC tells of a call."""
    return SimpleNamespace(method=method)


async def test_health_alone_has_a_place_of_its_own_among_the_calls_that_are_not_begun(app: Application) -> None:
    del app  # which serves, on this loop

    waiting = [task.get_coro().__qualname__ for task in asyncio.all_tasks()]  # type: ignore[union-attr]  # coroutines

    assert waiting.count("AioServer._request_registered_call") == HEALTH
    assert waiting.count("AioServer._request_call") == 1


def test_every_method_is_found_by_its_path_and_is_wrapped() -> None:
    server: Any = _Server()
    calls: Any = _Calls()
    registrar = Registrar(calls, server)

    registrar.add_registered_method_handlers("a.A", {"One": 1, "Two": 2})
    registrar.add_registered_method_handlers("b.B", {"One": 3})
    registrar.add_registered_method_handlers("grpc.health.v1.Health", {"Check": 4})

    (methods,) = server.generic
    assert isinstance(methods, grpc.GenericRpcHandler)
    paths = ("/a.A/One", "/a.A/Two", "/b.B/One", "/b.B/Two")
    found: dict[str, Any] = {path: methods.service(_details(path)) for path in paths}
    expected = {"/a.A/One": ("/a.A/One", 1), "/a.A/Two": ("/a.A/Two", 2), "/b.B/One": ("/b.B/One", 3)}
    assert found == {**expected, "/b.B/Two": None}
    assert server.by_name == {"/grpc.health.v1.Health/Check": ("/grpc.health.v1.Health/Check", 4)}
