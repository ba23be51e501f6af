"""`runtimestore health`: ask a server whether it is ready. A probe runs it every few seconds, so it loads little."""

from __future__ import annotations

import click

from runtimestore_server.cli.connecting import Connecting, takes_connection
from runtimestore_server.cli.flags import Seconds, settings_from
from runtimestore_server.cli.output import show_if_possible
from runtimestore_server.cli.refusals import Refused


@click.command
@click.option("--address", metavar="HOST:PORT", help="Or unix:PATH (default: the one that `serve` listens on).")
@click.option("--service", default="", metavar="NAME", help="One service by its full name (default: the whole server).")
@click.option(
    "--config",
    type=click.Path(readable=False),
    metavar="FILE",
    help="A TOML file of settings (or RUNTIMESTORE_CONFIG).",
)
@click.option("--timeout-seconds", type=Seconds(), default=3.0, help="How long to wait (default: 3).")
@takes_connection
def command(
    address: str | None, service: str, config: str | None, timeout_seconds: float, connecting: Connecting
) -> int:
    """Ask a server whether it is ready: exit code 0 if it serves, 1 if not."""
    if address is None:
        listen = settings_from({"config": config}).listen
        address = listen.replace("0.0.0.0:", "127.0.0.1:").replace("[::]:", "[::1]:")
    import grpc
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    metadata = connecting.metadata(address)
    with connecting.channel(address) as channel:
        try:
            answer = health_pb2_grpc.HealthStub(channel).Check(
                health_pb2.HealthCheckRequest(service=service), timeout=timeout_seconds, metadata=metadata
            )
        except grpc.RpcError as error:
            cure = "is a server running there? --address takes HOST:PORT or unix:PATH"
            if error.code() is grpc.StatusCode.NOT_FOUND:
                cure = "there is no such --service"
            if error.code() in (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED):
                cure = "the server asks who calls, for a --service; see --token-file and --tls-certificate"
            raise Refused(f"{address}: {error.code().name}; {cure}", code=1) from None
    status = health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)
    show_if_possible(status)  # the exit code says it, too
    return 0 if answer.status == health_pb2.HealthCheckResponse.SERVING else 1
