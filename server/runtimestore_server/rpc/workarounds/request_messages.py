"""Reads the messages of a call by hand, since gRPC's own iterator keeps the last one, and an end looks like another.

**The defect.** `grpc.aio` hands a handler of streams an iterator over its requests. What of it is left when the call is
over is one cycle with the call's state, and with it the last message: megabytes, until Python's garbage collector comes
by, which counts objects and not bytes. And a call that its caller gives up first reads as one that ends without a
message, and is cancelled a moment later.

**Upstream.** No issue is known. To see it, with a server of one method, registered with `request_deserializer=Request`,
a class of one's own::

    async def Take(requests, context):
        async for request in requests:
            seen.append(weakref.ref(request))
            return b""

    gc.disable()
    for _ in range(50):
        await channel.stream_unary("/test.Test/Take")(iter([b"x" * 1000]))
    assert not any(found() for found in seen)  # fails: all fifty are alive

**Held by** `tests/conformance/test_requests_let_go.py`, above all its exchange that is refused; the moment by
`test_upload_slots.py::test_a_call_that_its_caller_gives_up_is_not_told_as_refused`.

**May go** when both pass with `async for request in requests` in `rpc/call.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import grpc.aio

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

GIVEN_UP_SECONDS = 0.1
"""A call that its caller gives up looks, for a moment before it is cancelled, like one that ends without a message."""


async def messages(
    context: grpc.aio.ServicerContext[Any, Any], decode: Callable[[bytes], Any]
) -> AsyncGenerator[Any, None]:
    """Yield what gRPC's own iterator gives, without keeping the last message when it is closed."""
    while (message := await context.read()) is not grpc.aio.EOF:
        message = decode(message)  # the encoded one is not to stay beside it
        yield message
