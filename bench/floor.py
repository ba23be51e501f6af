"""The floor: a grpc.aio server that takes the same messages as the real one and answers at once.

What it costs is what gRPC costs; what the real server costs above it is RuntimeStore.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys

import grpc.aio
import uvloop

from runtimestore.v1 import runtime_store_pb2 as pb
from runtimestore.v1 import runtime_store_pb2_grpc as pb_grpc
from runtimestore_server.rpc.server import channel_options
from runtimestore_server.settings import Settings


class Floor(pb_grpc.RuntimeStoreServicer):
    """Answers without looking at the request."""

    async def AtomicApply(self, request: pb.AtomicApplyRequest, context: object) -> pb.AtomicApplyResponse:  # noqa: N802 - the proto's name
        """Answer at once."""
        del request, context
        return pb.AtomicApplyResponse(revision=1)

    async def PersistInputState(  # noqa: N802 - the proto's name
        self, request: pb.PersistInputStateRequest, context: object
    ) -> pb.PersistInputStateResponse:
        """Answer at once."""
        del request, context
        return pb.PersistInputStateResponse(revision=1)


async def serve() -> None:
    """Serve on a free port until SIGTERM, on the event loop and with the options of the real server."""
    told = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, told.set)
    server = grpc.aio.server(options=channel_options(Settings()))
    pb_grpc.add_RuntimeStoreServicer_to_server(
        Floor(),  # type: ignore[abstract]  # nobody calls the rest, and grpc's base class would refuse it
        server,
    )
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    sys.stderr.write(f"serving address=127.0.0.1:{port}\n")
    sys.stderr.flush()
    await told.wait()
    await server.stop(1.0)


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        uvloop.run(serve())
