"""TLS: the server's certificate, its key and its clients' CA, taken anew from their files when those change."""

from __future__ import annotations

import contextlib
import ssl
import stat
import threading
from typing import TYPE_CHECKING

import grpc
import structlog

from runtimestore_server.access.access_file import read_regular, stamp
from runtimestore_server.access.rules import Unusable

if TYPE_CHECKING:
    from pathlib import Path

_log = structlog.get_logger(__name__)

_MOST_BYTES = 16 * 1024 * 1024
"""How large each file may be; a bundle of all CAs that there are has a quarter of a megabyte."""


class Certificates:
    """The files that a server's TLS is made from.

    Each handshake goes by the files as they are then; connections that are open go on. What cannot be used leaves that
    in force which was there before. gRPC itself takes nothing older than TLS 1.2.

    Args:
        client_ca: whoever connects must show a certificate that is signed by it; None asks for none.

    Raises (when it is made):
        Unusable: a file is missing or cannot be used.
    """

    def __init__(self, certificate: Path, key: Path, client_ca: Path | None) -> None:
        self._certificate, self._key, self._client_ca = certificate, key, client_ca
        self._paths = [path for path in (certificate, key, client_ca) if path is not None]
        self._lock = threading.Lock()
        self.handshakes = 0
        """How many handshakes were begun. gRPC tells nobody how one ended."""
        self.unusable: str | None = None
        """Why the files as they are now are not in force; None if they are."""
        self._read = self._stamps()
        self._initial = self._configuration()
        self._warn_if_others_read()

    def credentials(self) -> grpc.ServerCredentials:
        """What gRPC listens with; each handshake asks for the newest files."""
        return grpc.dynamic_ssl_server_credentials(
            self._initial,
            self._changed,  # type: ignore[arg-type]  # gRPC's own documentation lets it answer None
            require_client_authentication=self._client_ca is not None,
        )

    def _changed(self) -> grpc.ServerCertificateConfiguration | None:
        """What the files hold, if they have changed; None leaves in force what is. gRPC asks, in threads of its own."""
        with self._lock:
            self.handshakes += 1
            if (stamps := self._stamps()) == self._read:
                return None
            self._read = stamps
            try:
                found = self._configuration()
            except Unusable as wrong:
                self.unusable = str(wrong)
                _log.error("a new certificate cannot be used; the one before it stays in force", error=str(wrong))
                return None
            self.unusable = None
            self._initial = found  # for a server that is started anew
            _log.info("the certificate is read anew", certificate=str(self._certificate))
            self._warn_if_others_read()
            return found

    def _configuration(self) -> grpc.ServerCertificateConfiguration:
        """What gRPC is to be given.

        Raises:
            Unusable: a file cannot be used, or they do not belong together.
        """
        before = self._stamps()
        contents = [self._content(path) for path in self._paths]  # no pipe: OpenSSL would wait for it
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        try:
            # A password would be asked for on the terminal.
            context.load_cert_chain(self._certificate, self._key, password=lambda: b"none")
        except (ssl.SSLError, ValueError):
            raise Unusable(
                f"--tls-cert {self._certificate}, --tls-key {self._key}: they must be a certificate in PEM and its "
                "key, without a password"
            ) from None
        except OSError as error:
            raise self._unreadable(error) from None
        if self._client_ca is not None:
            try:
                context.load_verify_locations(self._client_ca)
            except ssl.SSLError:
                raise Unusable(f"--tls-client-ca {self._client_ca}: it must be certificates in PEM") from None
            except OSError as error:
                raise self._unreadable(error) from None
        certificate, key, *client_ca = contents
        if self._stamps() != before:
            raise Unusable(f"--tls-cert {self._certificate}: it changed while it was read")
        return grpc.ssl_server_certificate_configuration(
            [(key, certificate)], root_certificates=client_ca[0] if client_ca else None
        )

    def _content(self, path: Path) -> bytes:
        try:
            return read_regular(path, _MOST_BYTES)[0]
        except OSError as error:
            raise self._unreadable(error) from None
        except Unusable as wrong:
            raise Unusable(f"{path}: {wrong}; see --tls-cert, --tls-key and --tls-client-ca") from None

    def _stamps(self) -> list[object]:
        """What tells of a change of the files."""
        return [stamp(path) for path in self._paths]

    def _unreadable(self, error: OSError) -> Unusable:
        names = ", ".join(str(path) for path in self._paths)
        return Unusable(f"{error.filename or names}: {error.strerror}; see --tls-cert, --tls-key and --tls-client-ca")

    def _warn_if_others_read(self) -> None:
        with contextlib.suppress(OSError):  # it was read; that it is gone since, the next handshake tells
            if self._key.stat().st_mode & stat.S_IROTH:
                _log.warning("everybody on this machine can read the key; chmod o= it", key=str(self._key))
