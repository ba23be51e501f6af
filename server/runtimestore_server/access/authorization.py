"""Who calls, and whether they may: asked before a message is received, and once more when its realm is known."""

from __future__ import annotations

import time
from collections import Counter
from typing import TYPE_CHECKING, Any

import structlog

from runtimestore.errors import AccessNotAllowed, RealmNotAllowed, RuntimeStoreError, Unauthenticated
from runtimestore_server.access.methods import IN_A_REALM, OPEN_TO_ALL, needed
from runtimestore_server.access.tokens import MalformedToken, digest_of, sent_token
from runtimestore_server.documents.identifiers import DEFAULT_REALM

if TYPE_CHECKING:
    from collections.abc import Callable

    from runtimestore_server.access.rules import AccessFile, Principal

_log = structlog.get_logger(__name__)

LOGGED_A_SECOND = 5
"""How many failed attempts are logged in a second; the others are counted, and told with the next."""

_SANS = "x509_subject_alternative_name"


class _Stranger(Exception):
    """Nobody is known by what the call brings; the message is for the log."""


class Authorization:
    """Lets callers in by the rules of an access file."""

    def __init__(self, file: AccessFile) -> None:
        self._file = file
        self._failures = Failures()
        self.failures = self._failures.counts
        """How many calls were refused since the start, by reason."""

    @property
    def unusable(self) -> str | None:
        """Why the access file as it is now is not in force; None if it is."""
        return self._file.unusable

    def of(self, path: str) -> MethodAuthorization:
        """What asks the callers of the method with this path: made once a method."""
        return MethodAuthorization(path, self._file, self._failures)


class MethodAuthorization:
    """Asks the callers of one method."""

    def __init__(self, path: str, file: AccessFile, failures: Failures) -> None:
        self._path = path
        self._file = file
        self._failures = failures
        self._needed = needed(path)
        self._in_a_realm = path in IN_A_REALM
        self.open_to_all = path in OPEN_TO_ALL

    def caller(self, context: Any) -> Principal | None:
        """Who calls; None for a stranger, where strangers may ask something. Nothing of the message is received yet.

        Raises:
            Unauthenticated: nobody is known by the credential, or there is none.
            AccessNotAllowed: the caller may not call this method.
        """
        try:
            principal = self._known(context)
        except _Stranger as stranger:
            if self.open_to_all:
                return None
            raise self._failures.told(unauthenticated(), context, self._path, why=str(stranger)) from None
        if principal.access < self._needed:
            refusal = AccessNotAllowed(
                f"this method needs the access {self._needed.told}, which the credential does not have",
                metadata={"access": self._needed.told},
            )
            raise self._failures.told(refusal, context, self._path, why="access", principal=principal.name)
        return principal

    def asks(self, principal: Principal | None, request: Any, context: Any) -> None:
        """See that what a request names may be used by who sent it, before anything else is done with it.

        Raises:
            RealmNotAllowed: the realm is not the caller's.
            Unauthenticated: a stranger asks for what strangers may not.
        """
        if principal is None:
            if request.service:
                raise self._failures.told(unauthenticated(), context, self._path, why="none")
        elif self._in_a_realm and not principal.may_use(request.realm or DEFAULT_REALM):
            refusal = RealmNotAllowed("the credential does not open this realm")
            raise self._failures.told(refusal, context, self._path, why="realm", principal=principal.name)

    def _known(self, context: Any) -> Principal:
        """Who calls.

        Raises:
            _Stranger: nobody who is known.
        """
        rules = self._file.rules()
        try:
            token = sent_token(context.invocation_metadata() or ())
        except MalformedToken:
            raise _Stranger("malformed") from None
        if token is not None:
            principal = rules.by_token(digest_of(token))
        else:
            sans = context.auth_context().get(_SANS)
            if not sans:
                raise _Stranger("none")
            principal = rules.by_sans(san.decode(errors="replace") for san in sans)
        if principal is None:
            raise _Stranger("unknown")
        if principal.ended:
            raise _Stranger("ended")
        return principal


class Failures:
    """The attempts that failed: all counted, and as many logged as a log can bear."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.counts: Counter[str] = Counter()
        self._clock = clock
        self._second = -1
        self._logged = 0
        self._left_out = 0

    def told(self, refusal: RuntimeStoreError, context: Any, path: str, **also: str) -> RuntimeStoreError:
        """Count a refusal, log it unless too many were in this second, and hand it back."""
        self.counts[refusal.reason] += 1
        if (second := int(self._clock())) != self._second:
            self._second, self._logged = second, 0
        if self._logged >= LOGGED_A_SECOND:
            self._left_out += 1
            return refusal
        self._logged += 1
        left_out = {"left_out": self._left_out} if self._left_out else {}
        self._left_out = 0
        _log.warning("not let in", method=path, reason=refusal.reason, peer=context.peer(), **also, **left_out)
        return refusal


def unauthenticated() -> Unauthenticated:
    """The refusal of every credential that is none, unknown, ended or malformed: always the same words."""
    return Unauthenticated(
        "a credential is needed: send a token that is in force as `authorization: Bearer rst_...`, or show a client "
        "certificate that is listed"
    )
