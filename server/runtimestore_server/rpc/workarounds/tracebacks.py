"""Takes an error apart before its call is aborted, since gRPC keeps what hangs on it.

**The defect.** `ServicerContext.abort` of `grpc.aio` keeps the exception that it raises in the state of the call. Its
traceback holds the frames of the handler, they hold the context, and that the state: a cycle, in which the error that
was being handled (its `__context__`), its own frames and the request that they name stay until Python's garbage
collector comes by. It counts objects, not bytes.

**Upstream.** https://github.com/grpc/grpc/pull/17899 mended the same in the synchronous server ("do not store raised
exception in _Context.abort()"); `grpc.aio` still stores it. To see it, with a server of one method, registered with
`request_deserializer=Request`, a class of one's own::

    async def Refuse(request, context):
        seen.append(weakref.ref(request))
        await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "no")

    gc.disable()
    for _ in range(50):
        with contextlib.suppress(grpc.aio.AioRpcError):
            await channel.unary_unary("/test.Test/Refuse")(b"x" * 1000)
    assert not any(found() for found in seen)  # fails: all fifty are alive

**Held by** `tests/conformance/test_requests_let_go.py`.

**May go** when that test passes without it.
"""

from __future__ import annotations


def let_go_of_frames(error: BaseException) -> None:
    """Take from an error, which was logged already, whatever leads to the request that it came from."""
    error.__traceback__ = error.__cause__ = error.__context__ = None
