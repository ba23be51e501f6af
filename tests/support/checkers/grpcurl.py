"""The command `grpcurl`: itself where it is installed, else `buf curl` behind grpcurl's arguments.

Both are clients that nobody here wrote and that know the service by reflection only. Run as a program, this module is
the stand-in: the few arguments of grpcurl that the documentation uses, translated for `buf curl`.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

_TOOLS = Path(sys.executable).parent


def command_path() -> str:
    """A PATH on which the commands of this Python's environment come first."""
    return os.pathsep.join([str(_TOOLS), os.environ.get("PATH", os.defpath)])


def put_into(directory: Path) -> None:
    """Make `directory`/grpcurl a command that does what grpcurl does."""
    real = shutil.which("grpcurl", path=command_path())
    line = f'exec "{real}" "$@"' if real else f'exec "{sys.executable}" "{Path(__file__).resolve()}" "$@"'
    command = directory / "grpcurl"
    command.write_text(f"#!/bin/sh\n{line}\n", encoding="utf-8")
    command.chmod(0o755)


def answers(output: str) -> list[Any]:
    """The messages that grpcurl printed, with their fields named as in the proto files.

    Reflection does not carry the JSON names of fields, so grpcurl prints `run_id` and buf curl `runId`.
    """
    decoder = json.JSONDecoder(object_pairs_hook=lambda pairs: {_proto_name(name): value for name, value in pairs})
    found = []
    rest = output.strip()
    while rest:
        value, end = decoder.raw_decode(rest)
        found.append(value)
        rest = rest[end:].strip()
    return found


def _proto_name(name: str) -> str:
    return re.sub("[A-Z]", lambda capital: f"_{capital[0].lower()}", name)


def _connecting(given: argparse.Namespace) -> list[str]:
    """How buf is told of TLS and of what each call carries, reflection too."""
    told = ["--http2-prior-knowledge"] if given.plaintext else []
    for flag, value in (("--cacert", given.cacert), ("--cert", given.cert), ("--key", given.key)):
        told += [flag, value] if value else []
    for header in given.headers:
        told += ["-H", header, "--reflect-header", header]
    return told


def _buf_curl(given: argparse.Namespace, *arguments: str) -> subprocess.CompletedProcess[str]:
    buf = shutil.which("buf", path=command_path())
    assert buf, "neither grpcurl nor buf is installed"
    return subprocess.run(
        [buf, "curl", "--protocol", "grpc", *_connecting(given), *arguments],
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )


def _url(given: argparse.Namespace) -> str:
    return f"{'http' if given.plaintext else 'https'}://{given.address}"


def _methods(given: argparse.Namespace) -> list[str]:
    """Every method as grpcurl writes it, such as `grpc.health.v1.Health.Check`."""
    answer = _buf_curl(given, "--list-methods", _url(given))
    if answer.returncode:
        sys.exit(answer.returncode)
    return [line.strip().replace("/", ".") for line in answer.stdout.splitlines() if line.strip()]


def _list(given: argparse.Namespace, service: str | None) -> None:
    if service is None:
        answer = _buf_curl(given, "--list-services", _url(given))
        sys.stdout.write(answer.stdout)
        sys.exit(answer.returncode)
    found = [method for method in _methods(given) if method.rpartition(".")[0] == service]
    if not found:
        sys.exit(f"Failed to list methods for service {service!r}: Service not found: {service}")
    sys.stdout.writelines(f"{method}\n" for method in found)


def _describe(given: argparse.Namespace, service: str) -> None:
    """What buf can tell of a service: the names of its methods, not its text."""
    found = [method for method in _methods(given) if method.rpartition(".")[0] == service]
    if not found:
        sys.exit(f"Failed to resolve symbol {service!r}: Symbol not found: {service}")
    sys.stdout.writelines([f"{service} is a service:\n", *(f"{method}\n" for method in found)])


def main() -> None:
    """Take grpcurl's arguments and do what they ask for with `buf curl`."""
    parser = argparse.ArgumentParser(prog="grpcurl", allow_abbrev=False)
    parser.add_argument("-plaintext", action="store_true")
    for flag in ("-cacert", "-cert", "-key"):
        parser.add_argument(flag)
    parser.add_argument("-d", dest="data", default="{}")
    parser.add_argument("-H", dest="headers", action="append", default=[])
    parser.add_argument("address")
    parser.add_argument("verb")
    parser.add_argument("symbol", nargs="?")
    arguments = parser.parse_args()
    if arguments.verb == "list":
        _list(arguments, arguments.symbol)
    elif arguments.verb == "describe":
        _describe(arguments, arguments.symbol)
    else:
        data = "@-" if arguments.data == "@" else arguments.data
        answer = _buf_curl(arguments, "-d", data, f"{_url(arguments)}/{arguments.verb}")
        sys.stdout.write(answer.stdout)
        sys.exit(answer.returncode)


if __name__ == "__main__":
    main()
