"""The command line: serve, migrate, verify, health, version."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import signal
import sys
from typing import TYPE_CHECKING

import structlog
from pydantic import ValidationError

from runtimestore_server import logs
from runtimestore_server.arguments import Parser, seconds
from runtimestore_server.settings import BadConfigFile, Settings, from_command_line

if TYPE_CHECKING:
    from collections.abc import Callable

_log = structlog.get_logger(__name__)

ECHO_SECONDS = 0.5
"""A second signal that comes so soon is the first once more: who starts us sends it to us and to our process group."""

SERVE = """\
Serve the store until SIGTERM or SIGINT, then drain: health says NOT_SERVING, calls in flight finish within the grace
period, what waits is committed, and the exit code is 0. A missing SQLite file is created; on any other database whose
schema is not current, serve refuses and says what to run. Every setting can be given as a flag (shown here), in the
environment as RUNTIMESTORE_ and its name in capitals with underscores (RUNTIMESTORE_LISTEN), or in the TOML file that
--config names (listen = "0.0.0.0:50051"); a flag wins over the environment, the environment over the file.
"""
MIGRATE = """\
Bring the database to the schema of this version, under a lock, so that several replicas may run it at once; does
nothing, quickly, when it is current. Only --database-url, --config and the log settings matter here.
"""


def run(arguments: list[str]) -> int:
    """Run one command; the exit code."""
    parser = Parser(
        prog="runtimestore",
        description="A durable gRPC store for AI agent runtimes, on SQLite or Postgres.",
        epilog="`runtimestore COMMAND --help` tells what a command takes.",
    )
    parser.add_argument("command", metavar="COMMAND", help=" | ".join(COMMANDS))
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    if not arguments:
        parser.error("what is to be done? " + " | ".join(COMMANDS))
    if arguments[0].startswith("-") and arguments[0] not in ("-h", "--help"):
        parser.error("the command comes first, its flags behind it: " + " | ".join(COMMANDS))
    parsed = parser.parse_args(arguments)
    if parsed.command not in COMMANDS:
        parser.error("no such command; there are " + " | ".join(COMMANDS))
    try:
        return COMMANDS[parsed.command](parsed.arguments)
    except ValidationError as error:
        for problem in error.errors(include_input=False, include_url=False):
            name = ".".join(str(part) for part in problem["loc"])
            said = "there is no such setting; see `runtimestore serve --help`"
            if problem["type"] != "extra_forbidden":
                said = problem["msg"].removeprefix("Value error, ")
            _complain(f"setting {name}: {said}")
        return 2
    except BadConfigFile as error:
        _complain(str(error))
        return 2
    except KeyboardInterrupt:
        return 130


def _serve(arguments: list[str]) -> int:
    settings = from_command_line(arguments, command="serve", description=SERVE)
    logs.configure(level=settings.log_level, style=settings.log_format)
    from runtimestore_server.app import CannotServe
    from runtimestore_server.store.schema import SchemaNotCurrent

    try:
        import uvloop

        if not uvloop.run(_serve_until_told(settings)):
            _leave_at_once(0)
    except (SchemaNotCurrent, CannotServe, ValueError) as error:
        _complain(str(error))
        return 1
    except Exception as error:
        if (problem := _engine_problem(error)) is None:
            raise
        _complain(problem)
        return 1
    return 0


async def _serve_until_told(settings: Settings) -> bool:
    """Serve until a signal says to end; whether every thread has ended then."""
    from runtimestore import RuntimeStoreError
    from runtimestore_server.app import Application

    told = asyncio.Event()
    loop = asyncio.get_running_loop()
    first = 0.0

    def tell(number: signal.Signals) -> None:
        nonlocal first
        if not told.is_set():
            first = loop.time()
        elif loop.time() - first > ECHO_SECONDS:
            _log.warning("told again: ending at once", signal=number.name)
            _leave_at_once(1)
        told.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, tell, number)
    async with Application(settings) as app:
        if app.store.database.ephemeral:
            _log.warning("this store is in memory only: it forgets everything when it stops")
        with contextlib.suppress(RuntimeStoreError):  # whether the database answers, health tells
            if warnings := await app.store.durability_warnings():
                _log.warning("durability settings are off", settings="; ".join(warnings))
        _log.info("serving", address=app.address, engine=app.store.database.name)
        await told.wait()
        _log.info("draining", grace_period_seconds=settings.grace_period_seconds)
    counters = app.store.counters
    if not app.ended:
        _log.warning("the database does not answer: ending without it; whoever waited was told so")
    _log.info("stopped", transactions=counters.transactions, writes=counters.writes)
    return app.ended


def _leave_at_once(code: int) -> None:
    """End the process without waiting for a thread that a database keeps. The store is safe against any crash."""
    sys.stderr.flush()
    os._exit(code)


def _migrate(arguments: list[str]) -> int:
    settings = from_command_line(arguments, command="migrate", description=MIGRATE)
    logs.configure(level=settings.log_level, style=settings.log_format)
    from runtimestore_server.store.schema import SchemaNotCurrent, upgrade

    url = settings.database_url.get_secret_value()
    if url == "memory:":
        _complain("memory: needs no migration; it is made anew at every start")
        return 2
    try:
        before, after = upgrade(url)
    except (SchemaNotCurrent, ValueError) as error:
        _complain(str(error))
        return 1
    except Exception as error:
        if (problem := _engine_problem(error)) is None:
            raise
        _complain(problem)
        return 1
    if before == after:
        _log.info("schema is current", revision=after)
    else:
        _log.info("schema upgraded", before=before or "empty", after=after)
    return 0


def _health(arguments: list[str]) -> int:
    parser = Parser(
        prog="runtimestore health",
        description="Ask a server whether it is ready: exit code 0 if it serves, 1 if not.",
    )
    parser.add_argument(
        "--address", default=None, help="HOST:PORT or unix:PATH (default: the one that `serve` listens on)"
    )
    parser.add_argument("--service", default="", help="the full name of one service (default: the whole server)")
    parser.add_argument("--config", metavar="FILE", help="a TOML file of settings (or RUNTIMESTORE_CONFIG)")
    parser.add_argument("--timeout-seconds", type=seconds, default=3.0, help="how long to wait (default: 3)")
    parsed = parser.parse_args(arguments)
    import grpc
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    address = parsed.address
    if address is None:
        flags = ["--config", parsed.config] if parsed.config else []
        listen = from_command_line(flags, command="health", description="").listen
        address = listen.replace("0.0.0.0:", "127.0.0.1:").replace("[::]:", "[::1]:")
    with grpc.insecure_channel(address) as channel:
        try:
            answer = health_pb2_grpc.HealthStub(channel).Check(
                health_pb2.HealthCheckRequest(service=parsed.service), timeout=parsed.timeout_seconds
            )
        except grpc.RpcError as error:
            cure = "is a server running there? --address takes HOST:PORT or unix:PATH"
            if error.code() is grpc.StatusCode.NOT_FOUND:
                cure = "there is no such --service"
            _complain(f"{address}: {error.code().name}; {cure}")
            return 1
    status = health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)
    sys.stdout.write(f"{status}\n")
    return 0 if answer.status == health_pb2.HealthCheckResponse.SERVING else 1


def _version(arguments: list[str]) -> int:
    Parser(prog="runtimestore version", description="Print the version.").parse_args(arguments)
    from importlib.metadata import version

    sys.stdout.write(f"runtimestore {version('runtimestore')}\n")
    return 0


def _verify(arguments: list[str]) -> int:
    from runtimestore_server.verify import main

    try:
        return main(arguments)
    except Exception as error:
        if (problem := _engine_problem(error)) is None:
            raise
        _complain(problem)
        return 2


def _engine_problem(error: Exception) -> str | None:
    """What to tell an operator whose database does not answer; None for any other error."""
    from sqlalchemy.exc import DBAPIError

    if not isinstance(error, DBAPIError):
        return None
    # The driver's words name the host, the file or the role, never the password; they are for the operator's own eyes.
    return f"the database does not answer: {' '.join(str(error.orig).split())}; see --database-url"


def _complain(sentence: str) -> None:
    sys.stderr.write(f"runtimestore: {sentence}\n")


COMMANDS: dict[str, Callable[[list[str]], int]] = {
    "serve": _serve,
    "migrate": _migrate,
    "verify": _verify,
    "health": _health,
    "version": _version,
}
