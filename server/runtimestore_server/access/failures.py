"""The attempts to come in that failed: all counted, and as many logged as a log can bear."""

from __future__ import annotations

import time
from collections import Counter
from typing import TYPE_CHECKING, Any

import structlog

from runtimestore.errors import Unauthenticated

if TYPE_CHECKING:
    from collections.abc import Callable

    from runtimestore.errors import RuntimeStoreError

_log = structlog.get_logger(__name__)

KINDS = ("none", "malformed", "unknown", "ended", "plaintext", "access", "realm")
"""What may be wrong with an attempt: no credential, none that could be one, nobody's, past its time, sent without TLS;
or it is somebody's, who has not the access, or not the realm."""

LOGGED_A_SECOND = 5
"""How many failed attempts are logged in a second; the others are counted, and told with the next."""


class Failures:
    """The failed attempts since the start."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.counts: Counter[str] = Counter()
        """By reason, as the caller is told."""
        self.by_kind: Counter[str] = Counter()
        """By what was wrong, which callers are not told: a few words that stand in this package."""
        self._clock = clock
        self._second = -1
        self._logged = 0
        self._left_out = 0

    def told(
        self, refusal: RuntimeStoreError, context: Any, path: str, *, why: str, event: str = "not let in", **also: str
    ) -> RuntimeStoreError:
        """Count a refusal, log it unless too many were in this second, and hand it back."""
        self.counts[refusal.reason] += 1
        self.by_kind[why] += 1
        if (second := int(self._clock())) != self._second:
            self._second, self._logged = second, 0
        if self._logged >= LOGGED_A_SECOND:
            self._left_out += 1
            return refusal
        self._logged += 1
        left_out = {"left_out": self._left_out} if self._left_out else {}
        self._left_out = 0
        _log.warning(event, method=path, reason=refusal.reason, why=why, peer=context.peer(), **also, **left_out)
        return refusal


def unauthenticated() -> Unauthenticated:
    """The refusal of every credential that is none, unknown, ended or malformed: always the same words."""
    return Unauthenticated(
        "a credential is needed: send a token that is in force as `authorization: Bearer rst_...`, or show a client "
        "certificate that is listed"
    )


def sent_in_the_open() -> Unauthenticated:
    """The refusal of every token that came over a network without TLS, whatever token it is."""
    return Unauthenticated(
        "a token was sent over a network without TLS, where others can read it: do not use it any more, and connect "
        "with TLS; or start the server with --insecure, where something else protects the way"
    )
