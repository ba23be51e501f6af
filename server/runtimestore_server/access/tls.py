"""TLS: the server's certificate, its key and its clients' CA, taken anew from their files when those change."""

from __future__ import annotations

import asyncio
import contextlib
import stat
import threading
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import grpc
import structlog

from runtimestore_server.access.access_file import TICK_NS, read_regular, stamp
from runtimestore_server.access.certificate_contents import Validity, read_authorities, read_pair, told_of_end
from runtimestore_server.access.handshake import TRY_SECONDS, prove
from runtimestore_server.access.rules import Unusable
from runtimestore_server.logs import frames

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from runtimestore_server.supervision import Supervision

_log = structlog.get_logger(__name__)

_MOST_BYTES = 16 * 1024 * 1024
"""How large each file may be; a bundle of all CAs that there are has a quarter of a megabyte."""

LOOK_SECONDS = 5.0
"""How often the files are looked at where nobody connects. What is not in force for a passing reason is tried again."""

READ_TIMES = 5
"""How often files are read that change meanwhile, as when the folder that they lie in is swapped."""

WAIT_SECONDS = TRY_SECONDS / 2
"""How long a handshake waits for changed files to be tried; later it goes by what is in force."""

TOLD_EVERY = timedelta(days=1)
"""How often the log tells of a certificate that is to be renewed."""


class Certificates:
    """The files that a server's TLS is made from.

    Each handshake goes by the files as they are then; connections that are open go on. What comes into force was tried
    in a handshake of our own. What cannot be used leaves that in force which was there before, and so does the end of
    what is in force. gRPC itself takes nothing older than TLS 1.2.

    Args:
        client_ca: whoever connects must show a certificate that is signed by it; None asks for none.

    Raises (when it is made):
        Unusable: a file is missing or cannot be used.
    """

    def __init__(
        self,
        certificate: Path,
        key: Path,
        client_ca: Path | None,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._certificate, self._key, self._client_ca = certificate, key, client_ca
        self._paths = [path for path in (certificate, key, client_ca) if path is not None]
        self._clock = clock
        self._looking = threading.Lock()
        self._counting = threading.Lock()
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None
        self._told: tuple[str, datetime] | None = None
        self.handshakes = 0
        """How many handshakes were begun. gRPC tells nobody how one ended."""
        self.unusable: str | None = None
        """Why the files as they are now are not in force; None if they are."""
        self._read = self._stamps()
        self._contents = self._content()
        self._current, self.validity = self._configuration(self._contents)
        """What is in force, and how long each file of it holds: `certificate`, `client_ca`."""
        self._warn_if_others_read()
        self.tell_of_ends()

    @property
    def warning(self) -> str | None:
        """What somebody should do about the files; None if nothing. What is in force serves on."""
        return self.unusable or "; ".join(self._ends()) or None

    def credentials(self) -> grpc.ServerCredentials:
        """What gRPC listens with on one address; each handshake asks for the newest files."""
        given = self._current

        def newest() -> grpc.ServerCertificateConfiguration | None:
            # gRPC asks in threads of its own. None leaves in force what it has.
            nonlocal given
            self._before_handshake()
            if (current := self._current) is given:
                return None
            given = current
            return current

        return grpc.dynamic_ssl_server_credentials(
            given,
            newest,  # type: ignore[arg-type]  # gRPC's own documentation lets it answer None
            require_client_authentication=self._client_ca is not None,
        )

    def start(self, supervision: Supervision) -> None:
        """Look at the files from now on, also where nobody connects."""
        self._thread = supervision.thread("watch-certificates", self._keep_looking)

    async def close(self) -> None:
        """Look no more."""
        self._ended.set()
        if self._thread is not None:
            await asyncio.to_thread(self._thread.join, WAIT_SECONDS)

    def look(self, *, again: bool = False) -> None:
        """Take what the files hold into force, if they have changed or, with `again`, could not be used."""
        with self._looking:
            if (stamps := self._stamps()) == self._read and not (again and self.unusable is not None):
                return
            self._read = stamps
            try:
                self._take_up()
            except Unusable as wrong:
                self._tell(str(wrong))
            except Exception as error:  # noqa: BLE001  (whatever it is: what was before serves on)
                self._tell(f"reading them failed: {type(error).__name__}", traceback=frames(error))
            if not self._settled():
                self._read = []  # the next look is as if this had not been

    def _take_up(self) -> None:
        """Take what the files hold into force.

        Raises:
            Unusable: they cannot be used.
        """
        contents = self._content()
        if contents == self._contents:
            if self.unusable is not None:
                _log.info("the certificate's files are again what is in force")
            self.unusable = None
            return
        self._current, self.validity = self._configuration(contents)
        self._contents = contents
        self.unusable = None
        _log.info("the certificate is read anew", certificate=str(self._certificate))
        self._told = None
        self._warn_if_others_read()
        self.tell_of_ends()

    def _tell(self, why: str, **more: object) -> None:
        if why != self.unusable:
            _log.error("a new certificate cannot be used; the one before it stays in force", error=why, **more)
        self.unusable = why

    def _before_handshake(self) -> None:
        with self._counting:
            self.handshakes += 1
        if self._stamps() == self._read and not self._looking.locked():
            return
        # Not on gRPC's thread, which a handshake of our own may need.
        looking = threading.Thread(target=self.look, name="look-at-certificates", daemon=True)
        looking.start()
        looking.join(WAIT_SECONDS)

    def _keep_looking(self) -> None:
        while not self._ended.wait(LOOK_SECONDS):
            self.look(again=True)
            self.tell_of_ends()

    def _configuration(self, contents: list[bytes]) -> tuple[grpc.ServerCertificateConfiguration, dict[str, Validity]]:
        """What gRPC is to be given, and how long each file holds.

        Raises:
            Unusable: a file cannot be used, or they do not belong together.
        """
        certificate, key, *rest = contents
        client_ca = rest[0] if rest else None
        now = self._clock()
        validity = {}
        if client_ca is not None:
            try:
                validity["client_ca"] = read_authorities(client_ca, now)
            except Unusable as wrong:
                raise Unusable(f"--tls-client-ca {self._client_ca}: {wrong}") from None
        pair = f"--tls-cert {self._certificate}, --tls-key {self._key}"
        try:
            found = read_pair(certificate, key, now)
        except Unusable as wrong:
            raise Unusable(f"{pair}: {wrong}") from None
        try:
            prove(certificate, key, client_ca, name=found.name)
        except Unusable as wrong:
            raise Unusable(
                f"{pair}: {wrong} (the key is {found.key}): take a key that is RSA of 2048 bits or more, or ECDSA on "
                "P-256 or P-384"
            ) from None
        validity["certificate"] = found.validity
        return grpc.ssl_server_certificate_configuration([(key, certificate)], root_certificates=client_ca), validity

    def _content(self) -> list[bytes]:
        """What the files hold, all of them at one moment.

        Raises:
            Unusable: one cannot be read.
        """
        for _ in range(READ_TIMES):
            before = self._stamps()
            contents = [self._content_of(path) for path in self._paths]
            if self._stamps() == before:
                return contents
        raise Unusable(f"--tls-cert {self._certificate}: it changed while it was read")

    def _content_of(self, path: Path) -> bytes:
        try:
            return read_regular(path, _MOST_BYTES)[0]
        except OSError as error:
            raise Unusable(f"{path}: {error.strerror}; see --tls-cert, --tls-key and --tls-client-ca") from None
        except Unusable as wrong:
            raise Unusable(f"{path}: {wrong}; see --tls-cert, --tls-key and --tls-client-ca") from None

    def _stamps(self) -> list[object]:
        """What tells of a change of the files."""
        return [stamp(path) for path in self._paths]

    def _settled(self) -> bool:
        """Whether the next change of a file will be seen: the clock of a file system has ticks."""
        with contextlib.suppress(OSError):
            now = time.time_ns()
            return all(abs(now - path.stat().st_ctime_ns) > TICK_NS for path in self._paths)
        return True

    def _ends(self) -> list[str]:
        """What is in force and has ended, or is to be renewed."""
        now = self._clock()
        named = {"certificate": f"--tls-cert {self._certificate}", "client_ca": f"--tls-client-ca {self._client_ca}"}
        told = {name: told_of_end(validity, now) for name, validity in self.validity.items()}
        return [f"{named[name]}: {end}" for name, end in told.items() if end is not None]

    def tell_of_ends(self) -> None:
        """Log what is in force and ends soon or has ended: when that is new, and once a day."""
        now, ends = self._clock(), "; ".join(self._ends())
        if ends and (self._told is None or self._told[0] != ends or now - self._told[1] >= TOLD_EVERY):
            self._told = ends, now
            _log.warning("a certificate is to be renewed; what is in force serves on", error=ends)

    def _warn_if_others_read(self) -> None:
        with contextlib.suppress(OSError):  # it was read; that it is gone since, the next look tells
            if self._key.stat().st_mode & stat.S_IROTH:
                _log.warning("everybody on this machine can read the key; chmod o= it", key=str(self._key))
