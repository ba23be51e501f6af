"""Flags of every command that calls a server: where it is, by what it is known, and what is shown to it.

What is not given as a flag is taken from the environment, and then from the table `[client]` of the file of settings.
"""

from __future__ import annotations

import errno
import functools
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from runtimestore_server.cli.refusals import MISUSED, Refused

if TYPE_CHECKING:
    from collections.abc import Callable

    import grpc

_FILES = {
    "tls_ca": "The CA that signed the server's certificate, in PEM: speak TLS, and trust no other.",
    "tls_certificate": "The certificate to show to a server that asks for one, in PEM.",
    "tls_key": "The key of that certificate, in PEM.",
    "token_file": (
        "A file that holds the token to show, and nothing else. There is no flag for a token itself: others see the "
        "command lines of this machine."
    ),
}
_KEYS = (*_FILES, "tls_server_name", "token")


@dataclass(frozen=True)
class Connecting:
    """How a command reaches a server; what it shows is not in its `repr`."""

    _given: dict[str, str]

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {sorted(self._given)}>"

    def channel(self, address: str) -> grpc.Channel:
        """Open a channel to a server.

        Raises:
            Refused: a file cannot be read.
        """
        import grpc

        from runtimestore import Tls

        # http_proxy is meant for what the machine calls outside; a command asks this one server, and whoever it asks
        # through would answer for it.
        options: list[tuple[str, int | str]] = [("grpc.enable_http_proxy", 0)]
        given = self._given
        if not any(name.startswith("tls_") for name in given):
            return grpc.insecure_channel(address, options)
        try:
            tls = Tls(
                ca=given.get("tls_ca"),
                certificate=given.get("tls_certificate"),
                key=given.get("tls_key"),
                server_name=given.get("tls_server_name"),
            )
            credentials = tls.credentials()
            _refuse_unusable(given)
            return grpc.secure_channel(address, credentials, options + tls.options())
        except OSError as error:
            flags = "--tls-ca, --tls-certificate and --tls-key"
            raise Refused(f"{error.filename}: {error.strerror}; see {flags}", code=MISUSED) from None
        except ValueError as error:
            raise Refused(f"--tls-certificate, --tls-key: {error}", code=MISUSED) from None

    def metadata(self, address: str) -> tuple[tuple[str, str], ...]:
        """Return what each call carries: the token, if there is one.

        Raises:
            Refused: the file cannot be read, or there is no token that could be sent.
        """
        from runtimestore._credentials import BearerToken
        from runtimestore._files import read_regular

        token, where = self._given.get("token"), "the token"
        try:
            if (file := self._given.get("token_file")) is not None:
                where = "--token-file"  # what is no file may be a token, and is not repeated
                content, _ = read_regular(file, 64 * 1024)
                where = f"--token-file {file}"
                token = content.decode().strip()
            protected = any(name.startswith("tls_") for name in self._given)
            return BearerToken(token, target=address, protected=protected).metadata()
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG):
                where = f"--token-file {file}"
            raise Refused(f"{where}: {error.strerror}; it must be a file that holds the token", code=MISUSED) from None
        except UnicodeDecodeError:
            raise Refused(f"{where}: it is no UTF-8; it must hold the token and nothing else", code=MISUSED) from None
        except ValueError as error:
            raise Refused(f"{where}: {error}", code=MISUSED) from None


def _refuse_unusable(given: dict[str, str]) -> None:
    """See that files in PEM hold what they should: gRPC would only not connect, and tell nothing.

    Raises:
        Refused: one does not.
    """
    import ssl

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if (ca := given.get("tls_ca")) is not None:
        try:
            context.load_verify_locations(ca)
        except ssl.SSLError:
            raise Refused(f"--tls-ca {ca}: it must be certificates in PEM", code=MISUSED) from None
    if (certificate := given.get("tls_certificate")) is not None:
        key = given.get("tls_key")
        try:
            context.load_cert_chain(certificate, key, password=lambda: b"none")
        except (ssl.SSLError, ValueError):
            raise Refused(
                f"--tls-certificate {certificate}, --tls-key {key}: they must be a certificate in PEM and its key, "
                "without a password",
                code=MISUSED,
            ) from None


def takes_connection(command: Callable[..., int]) -> Callable[..., int]:
    """Add the flags that say how to reach a server to a command, which is called with `connecting`."""

    @functools.wraps(command)
    def with_connecting(**values: Any) -> int:
        flags = {name: values.pop(name) for name in (*_FILES, "tls_server_name")}
        found = _of_file(values.get("config")) | _of_environment() | {k: v for k, v in flags.items() if v is not None}
        return command(connecting=Connecting(found), **values)

    flagged: Callable[..., int] = click.option(
        "--tls-server-name", metavar="NAME", help="The name in the server's certificate, where the address has another."
    )(with_connecting)
    for name, told in reversed(_FILES.items()):
        flagged = click.option(
            f"--{name.replace('_', '-')}", type=click.Path(readable=False), metavar="FILE", help=told
        )(flagged)
    return flagged


def _of_environment() -> dict[str, str]:
    return {name: value for name in _KEYS if (value := os.environ.get(f"RUNTIMESTORE_CLIENT_{name.upper()}"))}


def _of_file(config: str | None) -> dict[str, str]:
    """Return the table `[client]` of the file of settings.

    Raises:
        Refused: the file cannot be read, or the table holds what nobody knows.
    """
    path = config or os.environ.get("RUNTIMESTORE_CONFIG")
    if not path:
        return {}
    from runtimestore_server.settings_sources import BadSource, read_file

    try:
        found = read_file(Path(path)).get("client", {})
    except BadSource as error:
        raise Refused(str(error), code=MISUSED) from None
    if (
        not isinstance(found, dict)
        or not found.keys() <= set(_KEYS)
        or not all(isinstance(v, str) for v in found.values())
    ):
        raise Refused(f"--config {path}: [client] may hold {', '.join(_KEYS)}, each a text", code=MISUSED)
    return found
