"""TLS: the server's certificate, its key and its clients' CA, taken anew from their files when those change.

gRPC asks for them with each handshake, on a thread that its other connections share: while it is kept, nothing else
comes or goes. So what is done there is reading alone, and a handshake of our own, which needs such threads, is done
beside it. Of a kind of key that was tried once, a new pair is in force from the reading on, and goes again if the trial
fails; of another kind from the trial on, some milliseconds later.
"""

from __future__ import annotations

import asyncio
import threading
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import grpc
import structlog

from runtimestore_server.access.certificate_contents import told_of_end
from runtimestore_server.access.certificate_files import CertificateFiles
from runtimestore_server.access.handshake import TRY_SECONDS
from runtimestore_server.access.rules import Unusable
from runtimestore_server.logs import frames

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from runtimestore_server.access.certificate_contents import Validity
    from runtimestore_server.access.certificate_files import Made
    from runtimestore_server.supervision import Supervision

_log = structlog.get_logger(__name__)

LOOK_SECONDS = 5.0
"""How often the files are looked at where nobody connects. What is not in force for a passing reason is tried again."""


class Certificates:
    """What a server's TLS is made from, as its files are now.

    Each handshake goes by the files as they are then; connections that are open go on. What cannot be used leaves that
    in force which was there before, and what is in force stays there when it ends. gRPC itself takes nothing older than
    TLS 1.2.

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
        self._files = CertificateFiles(certificate, key, client_ca)
        self._clock = clock
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._watching: threading.Thread | None = None
        self._trial: threading.Thread | None = None
        self._told: tuple[str, datetime] | None = None
        self.handshakes = 0
        """How many handshakes were begun. gRPC tells nobody how one ended."""
        self.unusable: str | None = None
        """Why the files as they are now are not in force; None if they are."""
        self._read = self._files.stamps()
        made = self._files.made(self._files.contents(), clock())
        self._files.try_out(made)
        self._in_force = self._tried = made
        self._newest: Made | None = made
        self._failed: Made | None = None
        self._kinds = {made.pair.key}
        self._files.warn_if_others_read()
        self.tell_of_ends()

    @property
    def validity(self) -> dict[str, Validity]:
        """How long each file of what is in force holds: `certificate`, `client_ca`."""
        return self._in_force.validity

    @property
    def warning(self) -> str | None:
        """What somebody should do about the files; None if nothing. What is in force serves on."""
        return self.unusable or "; ".join(self._ends()) or None

    def credentials(self) -> grpc.ServerCredentials:
        """Return what gRPC listens with on one address; each handshake asks for the newest files."""
        given = self._in_force

        def newest() -> grpc.ServerCertificateConfiguration | None:
            # None leaves in force what gRPC has.
            nonlocal given
            self.look(for_handshake=True)
            if (current := self._in_force) is given:
                return None
            given = current
            return current.configuration

        return grpc.dynamic_ssl_server_credentials(
            given.configuration,
            newest,  # type: ignore[arg-type]  # gRPC's own documentation lets it answer None
            require_client_authentication=self._files.client_ca is not None,
        )

    def start(self, supervision: Supervision) -> None:
        """Look at the files from now on, also where nobody connects."""
        self._watching = supervision.thread("watch-certificates", self._keep_looking)

    async def close(self) -> None:
        """Look no more."""
        self._ended.set()
        for thread in (self._watching, self._trial):
            if thread is not None:
                await asyncio.to_thread(thread.join, TRY_SECONDS / 2)

    def look(self, *, again: bool = False, for_handshake: bool = False) -> None:
        """Read the files if they have changed; with `again`, also if they could not be used before."""
        with self._lock:
            self.handshakes += for_handshake
            if (stamps := self._files.stamps()) == self._read and not (again and self.unusable is not None):
                return
            self._read = stamps
            try:
                self._take_up()
            except Unusable as wrong:
                self._tell(str(wrong))
            except Exception as error:  # noqa: BLE001  (whatever it is: what was before serves on)
                self._tell(f"reading them failed: {type(error).__name__}", traceback=frames(error))
            if not self._files.settled():
                self._read = []  # the next look is as if this had not been

    def tell_of_ends(self) -> None:
        """Log what is in force and ends soon or has ended: when that is new, and once a day."""
        now, ends = self._clock(), "; ".join(self._ends())
        if ends and (self._told is None or self._told[0] != ends or now - self._told[1] >= timedelta(days=1)):
            self._told = ends, now
            _log.warning("a certificate is to be renewed; what is in force serves on", error=ends)

    def _take_up(self) -> None:
        """Read the files, and put what they hold into force or on trial.

        Raises:
            Unusable: they cannot be used.
        """
        on_trial, self._newest = self._newest, None  # whatever is on trial may be in the files no more
        contents = self._files.contents()
        if contents == self._in_force.contents:
            self._newest = self._in_force
            if self.unusable is not None:
                _log.info("the certificate's files are again what is in force")
            self.unusable = None
            return
        if on_trial is not None and contents == on_trial.contents and self.unusable is None:
            self._newest = on_trial
            return
        made = self._newest = self._files.made(contents, self._clock())
        if made.pair.key in self._kinds and not (self._failed and self._failed.contents == contents):
            self._put_in_force(made)
        trial = threading.Thread(target=self._try_out, args=(made, self._trial), name="try-certificate", daemon=True)
        self._trial = trial
        self._trial.start()

    def _try_out(self, made: Made, before: threading.Thread | None) -> None:
        """Try what was read, once the trial before has ended: the last that ends tells what is fallen back on."""
        if before is not None:
            before.join()
        why: str | None = None
        more: dict[str, object] = {}
        try:
            self._files.try_out(made)
        except Unusable as wrong:
            why = str(wrong)
        except Exception as error:  # noqa: BLE001  (whatever it is: what was before serves on)
            why, more = f"trying them failed: {type(error).__name__}", {"traceback": frames(error)}
        with self._lock:
            if why is None:
                self._tried, self._failed = made, None
                self._kinds.add(made.pair.key)
            else:
                self._failed = made
                if self._in_force is made:
                    self._in_force = self._tried
            if made is not self._newest:
                return  # the files hold something else by now, of which the log has told
            if why is None:
                self._put_in_force(made)
            else:
                self._tell(why, **more)

    def _put_in_force(self, made: Made) -> None:
        if made is self._in_force:
            return
        self._in_force = made
        self.unusable = None
        _log.info("the certificate is read anew", certificate=str(self._files.certificate))
        self._told = None
        self._files.warn_if_others_read()
        self.tell_of_ends()

    def _tell(self, why: str, **more: object) -> None:
        if why != self.unusable:
            _log.error("a new certificate cannot be used; the one before it stays in force", error=why, **more)
        self.unusable = why

    def _keep_looking(self) -> None:
        while not self._ended.wait(LOOK_SECONDS):
            self.look(again=True)
            self.tell_of_ends()

    def _ends(self) -> list[str]:
        """Return what is in force and has ended, or is to be renewed."""
        now = self._clock()
        named = {
            "certificate": f"--tls-cert {self._files.certificate}",
            "client_ca": f"--tls-client-ca {self._files.client_ca}",
        }
        told = {name: told_of_end(validity, now) for name, validity in self.validity.items()}
        return [f"{named[name]}: {end}" for name, end in told.items() if end is not None]
