"""Ends a call from beside while it waits for its message, since a read that is cancelled loses what it read.

**The defect.** A task that awaits `ServicerContext.read` of `grpc.aio` can be cancelled, but not the read: gRPC's core
goes on, and what it has read when the call ends at last nobody frees. Each call that was given up in the middle of its
message left up to a whole message behind, for as long as the process lived.

**Upstream.** https://github.com/grpc/grpc/issues/43360 tells of the same of a batch's operations, a hundred bytes each.
To see it, with a server that is allowed messages of 16 MiB::

    async def Take(requests, context):
        reading = asyncio.ensure_future(context.read())
        await asyncio.sleep(0.01)
        reading.cancel()  # the message is on its way
        await asyncio.sleep(0.1)
        await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "no")

    for _ in range(50):
        with contextlib.suppress(grpc.aio.AioRpcError):
            await channel.stream_unary("/test.Test/Take")(iter([bytes(16 * 2**20)]))
    # the server holds 800 MiB

**Held by** `tests/conformance/test_given_up.py`.

**May go**, and the calls be cancelled instead, when that test passes so.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import grpc
    import grpc.aio


class Told(NamedTuple):
    """What a caller is told of its call, while the call's own task waits for its message."""

    call_id: str
    telling: asyncio.Task[None]
    """Ends by the same error as the read."""


def tell(
    context: grpc.aio.ServicerContext[Any, Any],
    code: grpc.StatusCode,
    message: str,
    trailing_metadata: tuple[tuple[str, bytes], ...],
    call_id: str,
) -> Told:
    """End a call with a status: gRPC then drops what it has of the message, and the read ends by `AbortError`."""
    telling = context.abort(code, message, trailing_metadata)
    return Told(call_id, asyncio.get_running_loop().create_task(telling))
