"""What was wrong with attempts to come in that failed, and what callers are told; the wrapper of a call logs them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from runtimestore.errors import Unauthenticated

if TYPE_CHECKING:
    from typing import Self

KINDS = ("none", "malformed", "unknown", "ended", "plaintext", "access", "realm")
"""What may be wrong with an attempt: no credential, none that could be one, nobody's, past its time, sent without TLS;
or it is somebody's, who has not the access, or not the realm."""


class NotLetIn(Exception):
    """Why authentication failed, as one of KINDS: the cause of the refusal, for the log and never for the caller."""

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why
        self.event = "not let in"
        """What the log calls it."""

    def forget_frames(self) -> Self:
        """Keep no frame, and so nothing that they know of the call."""
        self.__traceback__ = self.__context__ = None
        return self


def unauthenticated() -> Unauthenticated:
    """Make the one refusal for every missing, unknown, expired or malformed credential: its words never differ."""
    return Unauthenticated(
        "a credential is needed: send a token that is in force as `authorization: Bearer rst_...`, or show a client "
        "certificate that is listed"
    )


def token_without_tls() -> Unauthenticated:
    """Make the refusal of a token that was sent over a network without TLS, whatever token it is."""
    return Unauthenticated(
        "a token was sent over a network without TLS, where others can read it: do not use it any more, and connect "
        "with TLS; or start the server with --insecure, where something else protects the way"
    )
