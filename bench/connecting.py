"""How a load generator reaches a server: over TLS or not, with a token or not."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import grpc

from bench.variants import TOKEN_VARIABLE

if TYPE_CHECKING:
    import argparse


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Let a command line say where the server is and by what it is known."""
    parser.add_argument("--address", required=True)
    parser.add_argument("--tls-ca", type=Path, metavar="FILE", help="speak TLS, and trust this CA alone")


def credentials(arguments: argparse.Namespace) -> grpc.ChannelCredentials | None:
    """What TLS is spoken by; None speaks without."""
    ca: Path | None = arguments.tls_ca
    return None if ca is None else grpc.ssl_channel_credentials(ca.read_bytes())


def metadata() -> tuple[tuple[str, str], ...] | None:
    """What each call carries: the token, if there is one."""
    token = os.environ.get(TOKEN_VARIABLE)
    return None if token is None else (("authorization", f"Bearer {token}"),)
