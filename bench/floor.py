"""The floor: a grpc.aio server that takes the same messages as the real one and answers at once.

What it costs is what gRPC costs; what the real server costs above it is RuntimeStore.
"""

from __future__ import annotations

import argparse
import contextlib
from typing import TYPE_CHECKING

import grpc.aio
import uvloop

from bench import cold_start
from bench.running import serve_until_told
from bench.workloads.lives import Life
from runtimestore.v1 import runtime_store_admin_pb2 as admin_pb
from runtimestore.v1 import runtime_store_admin_pb2_grpc as admin_grpc
from runtimestore.v1 import runtime_store_pb2 as pb
from runtimestore.v1 import runtime_store_pb2_grpc as pb_grpc
from runtimestore_server.rpc.server import channel_options
from runtimestore_server.settings import Settings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


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


class FloorAdmin(admin_grpc.RuntimeStoreAdminServicer):
    """Answers LoadRuntime with a runtime that it has made before."""

    def __init__(self, inputs: int, session_bytes: int) -> None:
        self._messages = list(cold_start.messages_of(Life(session_bytes=session_bytes, inputs=inputs)))

    async def LoadRuntime(  # noqa: N802 - the proto's name
        self, request: admin_pb.LoadRuntimeRequest, context: object
    ) -> AsyncIterator[admin_pb.LoadRuntimeResponse]:
        """Send it."""
        del request, context
        for message in self._messages:
            yield message


async def serve(arguments: argparse.Namespace) -> None:
    """Serve on a free port until SIGTERM, on the event loop and with the options of the real server."""
    server = grpc.aio.server(options=channel_options(Settings()))
    pb_grpc.add_RuntimeStoreServicer_to_server(
        Floor(),  # type: ignore[abstract]  # nobody calls the rest, and grpc's base class would refuse it
        server,
    )
    admin_grpc.add_RuntimeStoreAdminServicer_to_server(
        FloorAdmin(arguments.inputs, arguments.session_bytes),  # type: ignore[abstract]  # as above
        server,
    )
    await serve_until_told(server)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m bench.floor", description=__doc__)
    parser.add_argument("--inputs", type=int, default=0, help="of the runtime that LoadRuntime answers")
    parser.add_argument("--session-bytes", type=int, default=0, help="of that runtime")
    with contextlib.suppress(KeyboardInterrupt):
        uvloop.run(serve(parser.parse_args()))
