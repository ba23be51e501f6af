"""Holds a client's channel and stubs and reads how a call failed: all in which gRPC's two transports differ."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, ClassVar, cast

import grpc

from runtimestore._channel import channel_options
from runtimestore._status import refusal_of
from runtimestore.errors import CallFailed
from runtimestore.v1 import runtime_store_admin_pb2_grpc, runtime_store_pb2_grpc

if TYPE_CHECKING:
    from runtimestore._credentials import Tls
    from runtimestore.errors import RuntimeStoreError

__all__ = ["CLOSED", "AsyncConnection", "Connection", "closed_during_the_call"]

CLOSED = "the client is closed"


def closed_during_the_call() -> CallFailed:
    """Make the failure of a call whose client is closed before it has ended."""
    return CallFailed("the client was closed during the call", grpc.StatusCode.CANCELLED)


def _check_kind(channel: object, wanted: str, other: type) -> None:
    """See that a channel that the caller hands over is of the transport that the client goes by."""
    if channel is not None and (isinstance(channel, other) or not hasattr(channel, "unary_unary")):
        kind = type(channel)
        raise TypeError(f"channel must be a {wanted}, not {kind.__module__}.{kind.__qualname__}")


class AsyncConnection:
    """A connection through grpc.aio. It is made by the first call and belongs to the event loop of that call."""

    failures: ClassVar[tuple[type[BaseException], ...]] = (grpc.aio.AioRpcError, asyncio.CancelledError)
    """What a call raises that `failure_of` reads."""

    def __init__(
        self, target: str, max_message_bytes: int, channel: grpc.aio.Channel | None, tls: Tls | None = None
    ) -> None:
        _check_kind(channel, "grpc.aio.Channel", grpc.Channel)
        self.closed = False
        self._target = target
        self._max_message_bytes = max_message_bytes
        self._owns_channel = channel is None
        self._channel = channel
        self._tls = tls
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def store(self) -> runtime_store_pb2_grpc.RuntimeStoreAsyncStub:
        """The stub of the fifteen methods."""
        self._open()
        return self._store

    @property
    def admin(self) -> runtime_store_admin_pb2_grpc.RuntimeStoreAdminAsyncStub:
        """The stub of what a server tells of itself, and of fences."""
        self._open()
        return self._admin

    def _open(self) -> None:
        loop = asyncio.get_running_loop()
        if self._loop is loop:
            return
        if self._loop is not None:
            raise RuntimeError(
                "the client belongs to the event loop of its first call, and this is another one; make a client in "
                "each event loop, or use RuntimeStoreClient"
            )
        if self.closed:  # nobody would close a channel that is made now
            raise RuntimeError(CLOSED)
        # Not before the first call: the channel belongs to the event loop that runs when it is made.
        if self._channel is None:
            options = channel_options(self._target, self._max_message_bytes)
            if self._tls is None:
                self._channel = grpc.aio.insecure_channel(self._target, options=options)
            else:
                options += self._tls.options()
                self._channel = grpc.aio.secure_channel(self._target, self._tls.credentials(), options=options)
        self._store: runtime_store_pb2_grpc.RuntimeStoreAsyncStub
        self._store = runtime_store_pb2_grpc.RuntimeStoreStub(self._channel)
        self._admin: runtime_store_admin_pb2_grpc.RuntimeStoreAdminAsyncStub
        self._admin = runtime_store_admin_pb2_grpc.RuntimeStoreAdminStub(self._channel)
        self._loop = loop

    async def close(self) -> None:
        """Close the channel, unless it is the caller's."""
        self.closed = True
        if self._owns_channel and self._channel is not None:
            await self._channel.close()

    def failure_of(self, failed: BaseException) -> RuntimeStoreError:
        """Return the failure of a call by its class.

        Raises:
            CancelledError: the caller was cancelled; that is no failure of the call.
        """
        if isinstance(failed, grpc.aio.AioRpcError):
            return refusal_of(failed.code(), failed.details(), failed.trailing_metadata())
        task = asyncio.current_task()
        if not self.closed or (task is not None and task.cancelling()):
            raise failed
        # close() cancels calls, not the tasks that wait for them: those must not look cancelled.
        return closed_during_the_call()


class Connection:
    """A connection that any number of threads may use."""

    failures: ClassVar[tuple[type[BaseException], ...]] = (grpc.RpcError, ValueError)
    """What a call raises that `failure_of` reads."""

    def __init__(
        self, target: str, max_message_bytes: int, channel: grpc.Channel | None, tls: Tls | None = None
    ) -> None:
        _check_kind(channel, "grpc.Channel", grpc.aio.Channel)
        self.closed = False
        self._owns_channel = channel is None
        options = channel_options(target, max_message_bytes)
        if channel is not None:
            self._channel = channel
        elif tls is None:
            self._channel = grpc.insecure_channel(target, options=options)
        else:
            self._channel = grpc.secure_channel(target, tls.credentials(), options=options + tls.options())
        self.store = runtime_store_pb2_grpc.RuntimeStoreStub(self._channel)
        self.admin = runtime_store_admin_pb2_grpc.RuntimeStoreAdminStub(self._channel)

    def close(self) -> None:
        """Close the channel, unless it is the caller's."""
        self.closed = True
        if self._owns_channel:
            self._channel.close()

    def failure_of(self, failed: BaseException) -> RuntimeStoreError:
        """Return the failure of a call by its class.

        Raises:
            ValueError: the failure is no call's.
        """
        if isinstance(failed, ValueError):
            if self.closed:  # by another thread, just before this one called: gRPC has no other class for it
                return closed_during_the_call()
            raise failed
        call = cast("grpc.Call", failed)  # what a call raises is the call itself
        return refusal_of(call.code(), call.details(), call.trailing_metadata())
