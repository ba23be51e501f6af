"""Who may come in, for tests: a throw-away CA, certificates, and files of access."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta, tzinfo
from functools import cache
from typing import TYPE_CHECKING, Any

import grpc
import trustme

from runtimestore_server.access import rules
from runtimestore_server.access.tokens import digest_of, new_token

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    import pytest

    from support.generators.certificates import Issued


@cache
def ca() -> trustme.CA:
    """The CA of a run of tests: making keys takes a while."""
    return trustme.CA()


def server_files(folder: Path, authority: trustme.CA | None = None, *, client_ca: bool = False) -> dict[str, Path]:
    """The settings of a server with a certificate for `localhost` and 127.0.0.1, put into a folder."""
    made = (authority or ca()).issue_cert("localhost", "127.0.0.1")
    folder.mkdir(exist_ok=True)
    contents = {
        "tls_key": made.private_key_pem.bytes(),
        "tls_cert": b"".join(blob.bytes() for blob in made.cert_chain_pems),
    }
    if client_ca:
        contents["tls_client_ca"] = ca().cert_pem.bytes()
    for name, content in contents.items():
        put(folder / f"{name}.pem", content)
    return {name: folder / f"{name}.pem" for name in contents}


def files_of(folder: Path, pair: Issued, *chain: Issued, client_ca: bytes | None = None) -> dict[str, Path]:
    """The settings of a server with a certificate, put into a folder: the key last."""
    contents = {"tls_cert": b"".join(one.pem for one in (pair, *chain)), "tls_key": pair.key_pem}
    if client_ca is not None:
        contents["tls_client_ca"] = client_ca
    for name, content in contents.items():
        put(folder / f"{name}.pem", content)
    return {name: folder / f"{name}.pem" for name in contents}


def put(path: Path, content: bytes) -> None:
    """Put a file in the place of another in one step, readable by its owner."""
    new = path.with_suffix(".new")
    new.write_bytes(content)
    new.chmod(0o600)
    os.replace(new, path)  # noqa: PTH105  (pathlib has it under another name only)


def credentials(certificate: trustme.LeafCert | None = None) -> grpc.ChannelCredentials:
    """What a client needs to trust servers of the CA, and to show a certificate of its own."""
    roots = ca().cert_pem.bytes()
    if certificate is None:
        return grpc.ssl_channel_credentials(roots)
    chain = b"".join(blob.bytes() for blob in certificate.cert_chain_pems)
    return grpc.ssl_channel_credentials(roots, certificate.private_key_pem.bytes(), chain)


def bearer(token: str) -> tuple[tuple[str, str], ...]:
    """The metadata that a token travels in."""
    return (("authorization", f"Bearer {token}"),)


def entry(name: str, *tokens: str, **keys: Any) -> str:
    """One principal of an access file, with these tokens and other keys as TOML has them."""
    lines = ["[[principal]]", f'name = "{name}"']
    if tokens:
        lines.append(f"token_sha256 = {[digest_of(token).hex() for token in tokens]}")
    given = {"realms": ["default"], "access": "write"} | keys
    lines += [f"{key} = {_toml(value)}" for key, value in given.items()]
    return "\n".join(lines) + "\n"


def _toml(value: Any) -> str:
    return repr(value) if isinstance(value, str | list) else str(value)


def access_file(path: Path, entries: Iterable[str]) -> Path:
    """An access file with these principals."""
    put(path, "\n".join(entries).encode())
    return path


def in_an_hour() -> datetime:
    """An end that no test comes to by itself, however slow the machine is."""
    return datetime.now(UTC) + timedelta(hours=1)


def have_an_hour_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have it be later than `in_an_hour` for those whose time may be over."""

    class Later(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> Any:
            return datetime.now(tz) + timedelta(hours=1)

    monkeypatch.setattr(rules, "datetime", Later)


__all__ = [
    "access_file",
    "bearer",
    "ca",
    "credentials",
    "entry",
    "have_an_hour_pass",
    "in_an_hour",
    "new_token",
    "put",
    "server_files",
]
