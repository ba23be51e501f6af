"""Finds out who calls, and refuses who may not.

Asked before a message is received, once more when its realm is known, and for as long as a stream is open.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from runtimestore.errors import AccessNotAllowed, RealmNotAllowed
from runtimestore_server.access.failures import NotLetIn, token_without_tls, unauthenticated
from runtimestore_server.access.methods import IN_A_REALM, OPEN_TO_ALL, needed
from runtimestore_server.access.open_streams import OpenStreams
from runtimestore_server.access.peers import is_carried_safely, names_shown
from runtimestore_server.access.rules import Caller
from runtimestore_server.access.tokens import digest_of, sent_token
from runtimestore_server.documents.identifiers import DEFAULT_REALM

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from runtimestore.errors import RuntimeStoreError
    from runtimestore_server.access.access_file import AccessFile
    from runtimestore_server.access.rules import Credential, Principal, Rules
    from runtimestore_server.access.strangers import StrangersCalls


class Authorization:
    """Lets callers in by the rules of an access file.

    Args:
        file: the rules.
        insecure: whether tokens are taken that came over a network without TLS.
    """

    def __init__(self, file: AccessFile, strangers: StrangersCalls, *, insecure: bool = False) -> None:
        self.file = file
        self.strangers = strangers
        """Their calls that are open."""
        self.insecure = insecure
        self.failures_by_kind: Counter[str] = Counter()
        """How many calls were refused since the start by what was wrong, one of `KINDS`, which callers are not told."""
        self.streams = OpenStreams(file)
        """Those that were let in and are open."""

    @property
    def unusable(self) -> str | None:
        """Why the access file as it is now is not in force; None if it is."""
        return self.file.unusable

    def realm_label(self, realm: str) -> str | None:
        """Return the name or the prefix in the access file that a realm is known by; None if there is none."""
        return self.file.current.realm_label(realm or DEFAULT_REALM)

    def of(self, path: str) -> MethodAuthorization:
        """Return what asks the callers of the method with this path: made once a method."""
        return MethodAuthorization(path, self)

    def counted(self, refusal: RuntimeStoreError, cause: NotLetIn) -> RuntimeStoreError:
        """Count a refusal under its cause, and return it, to be raised from that."""
        self.failures_by_kind[cause.why] += 1
        cause.forget_frames()
        return refusal


class MethodAuthorization:
    """Asks the callers of one method."""

    def __init__(self, path: str, authorization: Authorization) -> None:
        self._counted = authorization.counted
        self._file = authorization.file
        self._insecure = authorization.insecure
        self.strangers, self._streams = authorization.strangers, authorization.streams
        self._needed = needed(path)
        self.in_a_realm = path in IN_A_REALM
        self.open_to_all = path in OPEN_TO_ALL

    def caller(self, context: Any) -> Caller | NotLetIn:
        """Return the caller; for an unauthenticated one, where those may call, why authentication failed.

        Nothing of the message is received yet.

        Raises:
            Unauthenticated: nobody is known by the credential, or there is none.
        """
        rules = self._file.rules()
        try:
            credential = self._shown(context)
            return Caller(credential, _known(credential, rules), rules)
        except NotLetIn as stranger:
            if (call := asyncio.current_task()) is not None:
                self.strangers.add(call, context.peer())
            if not self.open_to_all:
                raise self._not_let_in(stranger) from stranger
            return stranger.forget_frames()

    def check_access(self, caller: Caller) -> None:
        """See that whoever calls may call this method.

        Raises:
            AccessNotAllowed: it needs a higher access.
        """
        if caller.principal.access < self._needed:
            refusal = AccessNotAllowed(
                f"this method needs the access {self._needed.told}, which the credential does not have",
                metadata={"access": self._needed.told},
            )
            cause = NotLetIn("access")
            raise self._counted(refusal, cause) from cause

    def check_request(self, caller: Caller | NotLetIn, request: Any) -> None:
        """Check that the caller may use the realm that a request names, before anything else is done with it.

        Raises:
            RealmNotAllowed: the realm is not the caller's.
            Unauthenticated: a stranger asks for what strangers may not, or the caller was taken out meanwhile.
            AccessNotAllowed: the caller's access was changed meanwhile.
        """
        if isinstance(caller, NotLetIn):
            if request.service:
                raise self._not_let_in(caller) from caller
            return
        if self.open_to_all and not request.service:
            caller.is_needed = False
            return
        if self.in_a_realm:
            caller.realm = request.realm or DEFAULT_REALM
        if caller.rules is not self._file.current or caller.principal.ended:  # a message may take a minute to come
            self.check_again(caller)
        else:
            self._check_realm(caller)

    def check_again(self, caller: Caller) -> None:
        """Check an admitted caller again, by the rules that are in force now.

        Raises:
            Unauthenticated: nobody is known by the credential any more.
            AccessNotAllowed: its access is not enough any more.
            RealmNotAllowed: the realm is not its own any more.
        """
        rules = self._file.current
        try:
            caller.principal, caller.rules = _known(caller.credential, rules), rules
        except NotLetIn as stranger:
            stranger.event = "not let in any more"
            raise self._counted(unauthenticated(), stranger) from stranger
        self.check_access(caller)
        self._check_realm(caller)

    @contextmanager
    def while_let_in(
        self, call: asyncio.Task[Any], caller: Caller, pass_to_strangers: Callable[[], None] | None = None
    ) -> Iterator[None]:
        """Keep the stream of an admitted caller open, and end it once that caller would not be admitted any more.

        One that strangers may have too goes on as one of theirs, which `pass_to_strangers` makes it.
        """
        if caller.is_needed:
            self._streams.add(call, caller, lambda: self.check_again(caller))
        elif pass_to_strangers is not None:
            self._streams.add(call, caller, lambda: self._pass_if_stranger(call, caller, pass_to_strangers))
        try:
            yield
        finally:
            self._streams.remove(call)

    def _pass_if_stranger(self, call: asyncio.Task[Any], caller: Caller, pass_to_strangers: Callable[[], None]) -> None:
        """Count a stream among those of strangers, once its caller is one.

        Raises:
            Overloaded: strangers have too many already.
        """
        rules = self._file.current
        try:
            caller.principal, caller.rules = _known(caller.credential, rules), rules
        except NotLetIn:
            pass_to_strangers()
            self._streams.remove(call)

    def _not_let_in(self, stranger: NotLetIn) -> RuntimeStoreError:
        """Make the refusal of a credential that nobody has, and count it."""
        return self._counted(token_without_tls() if stranger.why == "plaintext" else unauthenticated(), stranger)

    def _check_realm(self, caller: Caller) -> None:
        if caller.realm is not None and not caller.principal.may_use(caller.realm):
            refusal, cause = RealmNotAllowed("the credential does not open this realm"), NotLetIn("realm")
            raise self._counted(refusal, cause) from cause

    def _shown(self, context: Any) -> Credential:
        """Return the credential that a call brings.

        Raises:
            NotLetIn: none, or nothing that could be one.
        """
        token = sent_token(context.invocation_metadata() or ())
        if token is not None:
            if not self._insecure and not is_carried_safely(context):
                raise NotLetIn("plaintext")
            return digest_of(token)
        names = names_shown(context.auth_context())
        if not names:
            raise NotLetIn("none")
        return names


def _known(credential: Credential, rules: Rules) -> Principal:
    """Tell whose credential this is.

    Raises:
        NotLetIn: nobody's who may come in.
    """
    principal = rules.known_by(credential)
    if principal is None:
        raise NotLetIn("unknown")
    if principal.ended:
        raise NotLetIn("ended")
    return principal
