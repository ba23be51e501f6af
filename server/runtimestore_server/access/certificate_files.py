"""The files that TLS is made from: read as they are at one moment, and made into what gRPC is given."""

from __future__ import annotations

import contextlib
import stat
from typing import TYPE_CHECKING, NamedTuple

import grpc
import structlog

from runtimestore._files import read_regular
from runtimestore_server.access.access_file import has_settled, stamp
from runtimestore_server.access.certificate_contents import Pair, Validity, read_authorities, read_pair
from runtimestore_server.access.handshake import prove
from runtimestore_server.access.rules import Unusable

if TYPE_CHECKING:
    from datetime import datetime
    from pathlib import Path

_log = structlog.get_logger(__name__)


class Made(NamedTuple):
    """What was made of the files."""

    contents: tuple[bytes, ...]
    configuration: grpc.ServerCertificateConfiguration
    pair: Pair
    validity: dict[str, Validity]
    """How long each file holds: `certificate`, `client_ca`."""


class CertificateFiles:
    """A server's certificate, its key and, where there is one, its clients' CA."""

    def __init__(self, certificate: Path, key: Path, client_ca: Path | None) -> None:
        self.certificate, self._key, self.client_ca = certificate, key, client_ca
        self._paths = [path for path in (certificate, key, client_ca) if path is not None]
        self._pair = f"--tls-cert {certificate}, --tls-key {key}"

    def stamps(self) -> list[object]:
        """Return what tells of a change of the files."""
        return [stamp(path) for path in self._paths]

    def settled(self) -> bool:
        """Tell whether the next change of a file will be seen: the clock of a file system has ticks."""
        with contextlib.suppress(OSError):
            return all(has_settled(path.stat()) for path in self._paths)
        return True

    def contents(self) -> tuple[bytes, ...]:
        """Return what the files hold, all of them at one moment.

        Raises:
            Unusable: one cannot be read.
        """
        for _ in range(5):  # they may change meanwhile, as when the folder that they lie in is swapped
            before = self.stamps()
            contents = tuple(self._content(path) for path in self._paths)
            if self.stamps() == before:
                return contents
        raise Unusable(f"--tls-cert {self.certificate}: it changed while it was read")

    def made(self, contents: tuple[bytes, ...], now: datetime) -> Made:
        """Return what gRPC is to be given, as far as reading tells: nothing is tried.

        Raises:
            Unusable: a file cannot be used, or they do not belong together.
        """
        certificate, key, *rest = contents
        client_ca = rest[0] if rest else None
        validity = {}
        if client_ca is not None:
            try:
                validity["client_ca"] = read_authorities(client_ca, now)
            except Unusable as wrong:
                raise Unusable(f"--tls-client-ca {self.client_ca}: {wrong}") from None
        try:
            pair = read_pair(certificate, key, now)
        except Unusable as wrong:
            raise Unusable(f"{self._pair}: {wrong}") from None
        validity["certificate"] = pair.validity
        configuration = grpc.ssl_server_certificate_configuration([(key, certificate)], root_certificates=client_ca)
        return Made(contents, configuration, pair, validity)

    def try_out(self, made: Made) -> None:
        """See by a handshake that gRPC takes it. Never on a thread of gRPC's own: the handshake needs those.

        Raises:
            Unusable: it does not.
        """
        certificate, key, *rest = made.contents
        try:
            prove(certificate, key, rest[0] if rest else None, name=made.pair.name)
        except Unusable as wrong:
            raise Unusable(
                f"{self._pair}: {wrong}. The key is {made.pair.key}: what is taken is RSA of 2048 bits or more, and "
                "ECDSA on P-256 or P-384"
            ) from None

    def warn_if_others_read(self) -> None:
        """Warn of a key that everybody on the machine can read."""
        with contextlib.suppress(OSError):  # it was read; that it is gone since, the next look tells
            if self._key.stat().st_mode & stat.S_IROTH:
                _log.warning("everybody on this machine can read the key; chmod o= it", key=str(self._key))

    def _content(self, path: Path) -> bytes:
        try:
            return read_regular(path, 16 * 1024 * 1024)[0]  # a bundle of all CAs has a quarter of a megabyte
        except OSError as error:
            raise Unusable(f"{path}: {error.strerror}; see --tls-cert, --tls-key and --tls-client-ca") from None
