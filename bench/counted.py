"""A channel that counts the bytes of all messages, where they are bytes: no interceptor takes part in the calls."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    import grpc.aio


class CountedChannel:
    """Makes a client's methods on another channel; whoever made that closes it."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.sent_bytes = 0
        self.received_bytes = 0
        self.unary_unary = self._counted(channel.unary_unary)
        """Makes a method of one answer."""
        self.unary_stream = self._counted(channel.unary_stream)
        """Makes a method of many answers."""

    def _counted(self, make: Callable[..., Any]) -> Callable[..., Any]:
        def made(
            method: str,
            request_serializer: Callable[[Any], bytes],
            response_deserializer: Callable[[bytes], Any],
            **options: Any,
        ) -> Any:
            def write(request: Any) -> bytes:
                message = request_serializer(request)
                self.sent_bytes += len(message)
                return message

            def read(message: bytes) -> Any:
                self.received_bytes += len(message)
                return response_deserializer(message)

            return make(method, request_serializer=write, response_deserializer=read, **options)

        return made
