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


def _buf_curl(*arguments: str) -> subprocess.CompletedProcess[str]:
    buf = shutil.which("buf", path=command_path())
    assert buf, "neither grpcurl nor buf is installed"
    return subprocess.run(
        [buf, "curl", "--protocol", "grpc", "--http2-prior-knowledge", *arguments],
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )


def _methods(address: str) -> list[str]:
    """Every method as grpcurl writes it, such as `grpc.health.v1.Health.Check`."""
    answer = _buf_curl("--list-methods", f"http://{address}")
    if answer.returncode:
        sys.exit(answer.returncode)
    return [line.strip().replace("/", ".") for line in answer.stdout.splitlines() if line.strip()]


def _list(address: str, service: str | None) -> None:
    if service is None:
        answer = _buf_curl("--list-services", f"http://{address}")
        sys.stdout.write(answer.stdout)
        sys.exit(answer.returncode)
    found = [method for method in _methods(address) if method.rpartition(".")[0] == service]
    if not found:
        sys.exit(f"Failed to list methods for service {service!r}: Service not found: {service}")
    sys.stdout.writelines(f"{method}\n" for method in found)


def _describe(address: str, service: str) -> None:
    """What buf can tell of a service: the names of its methods, not its text."""
    found = [method for method in _methods(address) if method.rpartition(".")[0] == service]
    if not found:
        sys.exit(f"Failed to resolve symbol {service!r}: Symbol not found: {service}")
    sys.stdout.writelines([f"{service} is a service:\n", *(f"{method}\n" for method in found)])


def main() -> None:
    """Take grpcurl's arguments and do what they ask for with `buf curl`."""
    parser = argparse.ArgumentParser(prog="grpcurl", allow_abbrev=False)
    parser.add_argument("-plaintext", action="store_true", required=True)
    parser.add_argument("-d", dest="data", default="{}")
    parser.add_argument("-H", dest="headers", action="append", default=[])
    parser.add_argument("address")
    parser.add_argument("verb")
    parser.add_argument("symbol", nargs="?")
    arguments = parser.parse_args()
    if arguments.verb == "list":
        _list(arguments.address, arguments.symbol)
    elif arguments.verb == "describe":
        _describe(arguments.address, arguments.symbol)
    else:
        headers = [part for header in arguments.headers for part in ("-H", header)]
        data = "@-" if arguments.data == "@" else arguments.data
        answer = _buf_curl(*headers, "-d", data, f"http://{arguments.address}/{arguments.verb}")
        sys.stdout.write(answer.stdout)
        sys.exit(answer.returncode)


if __name__ == "__main__":
    main()
