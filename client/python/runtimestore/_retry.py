"""Decides whether and when a call is sent again, and when no longer: the same for both clients."""

from __future__ import annotations

import math
import random
import time
from dataclasses import dataclass

import grpc

from runtimestore import _arguments as arguments
from runtimestore.errors import (
    BoundaryReceiptExists,
    CallFailed,
    CommitOutcomeUnknown,
    DeadlineExceeded,
    Fenced,
    OAuthFlowSnapshotChanged,
    Overloaded,
    RequestIdReused,
    RevisionMismatch,
    RuntimeStoreError,
    SessionKeyMismatch,
    StoreUnavailable,
)

__all__ = ["Attempts", "Deadline", "RetryPolicy", "UpdateRounds"]

_NOT_COMMITTED = (StoreUnavailable, Overloaded)
"""The server promises that the attempt left no trace: even a write without a request id may be repeated."""

_IN_DOUBT = (CommitOutcomeUnknown, CallFailed)
"""What leaves open whether the attempt was committed."""

_CONCLUSIVE = (
    BoundaryReceiptExists,
    RequestIdReused,
    RevisionMismatch,
    Fenced,
    OAuthFlowSnapshotChanged,
    SessionKeyMismatch,
)
"""What no attempt of the same request can have escaped: the server first looks whether it knows the request, and what
it compares with only grows, so that what has been passed stays passed (`_COMPARED`). What it finds wrong with a request
itself it tells before: a server of another version may refuse what this one took in. Not so the key of another session:
it is compared with the id in the same request, by every version."""


_MOST_RESETS = 10
"""How many attempts of a call may end by a reset or in the middle. A restart behind a proxy, and even the loss of three
answers in ten, costs fewer; what is no accident, such as a proxy's own limit, is told after some seconds and not only
when the deadline passes."""

_COMPARED = {
    RevisionMismatch: ("if_revision", "current_revision"),
    Fenced: ("fence", "current_fence"),
    OAuthFlowSnapshotChanged: ("expected_version", "current_version"),
}
"""The numbers in a refusal's metadata: what the request named, and what is there."""

_LONGEST_SECONDS = 1e9
"""Thirty years. gRPC takes what is far beyond for a time that is over already."""


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often and how fast a call that may be repeated is sent again, always within the call's one deadline.

    The pause before attempt n + 1 is random between 0 and `initial_backoff_seconds` times `backoff_multiplier` ** (n
    - 1), at most `max_backoff_seconds`; where the server says when to come back, that comes first and the random
    pause is added to it. `max_attempts` counts the first one: 1 means that nothing is ever repeated, `None` that the
    deadline alone decides. Any fixed number would turn bad luck into a failure: of calls that lose three answers in
    ten, one in four hundred loses five in a row.
    """

    max_attempts: int | None = None
    initial_backoff_seconds: float = 0.1
    max_backoff_seconds: float = 2.0
    backoff_multiplier: float = 2.0

    def __post_init__(self) -> None:
        """Refuse what cannot be meant."""
        for name in ("initial_backoff_seconds", "max_backoff_seconds", "backoff_multiplier"):
            arguments.number(name, getattr(self, name))
        if arguments.optional_number("max_attempts", self.max_attempts) == 0:
            raise ValueError("max_attempts counts the first attempt: at least 1")
        if not (0 <= self.initial_backoff_seconds <= self.max_backoff_seconds < math.inf):
            raise ValueError("initial_backoff_seconds is from 0 to max_backoff_seconds, and both are finite")
        if not (1 <= self.backoff_multiplier < math.inf):
            raise ValueError("backoff_multiplier is finite and at least 1")

    def pause_seconds(self, attempts: int) -> float:
        """Return a random pause after that many attempts: clients that failed together should not return together."""
        # The exponent is bounded so that the power cannot overflow; the cap is reached long before.
        most = min(
            self.max_backoff_seconds, self.initial_backoff_seconds * self.backoff_multiplier ** min(attempts - 1, 64)
        )
        return random.uniform(0, most)  # noqa: S311  (spreads load; guards nothing)

    def pause_among(self, rivals: int, *, round_seconds: float, left_seconds: float) -> float:
        """Return a random pause after a round that was lost to one of so many: long enough that each has its turn.

        Where time is left for another round, the pause leaves it.
        """
        most = min(self.max_backoff_seconds, 2 * rivals * round_seconds)
        if left_seconds > round_seconds:
            most = min(most, left_seconds - round_seconds)
        return random.uniform(0, most)  # noqa: S311  (as above)


class Deadline:
    """The point in time at which a whole call ends, retries included."""

    def __init__(self, timeout_seconds: float) -> None:
        self.timeout_seconds = arguments.seconds("timeout_seconds", timeout_seconds)
        self._at = time.monotonic() + min(self.timeout_seconds, _LONGEST_SECONDS)

    def remaining_seconds(self) -> float:
        """Return what is left of the budget, more than 0.

        Raises:
            DeadlineExceeded: nothing is left.
        """
        left = self.left_seconds()
        if left <= 0:
            raise DeadlineExceeded(f"the call's {self.timeout_seconds:g} seconds were over before it could be sent")
        return left

    def left_seconds(self) -> float:
        """Return what is left of the budget; 0 or less when it is used up."""
        return self._at - time.monotonic()


class Attempts:
    """The attempts of one call. `request_id` is a write's, empty if it has none; `None` stands for a load."""

    def __init__(self, policy: RetryPolicy, deadline: Deadline, request_id: str | None) -> None:
        self._policy = policy
        self._deadline = deadline
        self._request_id = request_id
        self._made = 0
        self._resets = 0
        self._last: RuntimeStoreError | None = None
        self._in_doubt = False

    def next_timeout_seconds(self) -> float:
        """Begin an attempt; it may take as long as this.

        Raises:
            DeadlineExceeded: no time is left for the first one.
            RuntimeStoreError: no time is left for another one; the failure of the last.
        """
        try:
            left = self._deadline.remaining_seconds()
        except DeadlineExceeded:
            if (error := self.last_error()) is not None:
                raise error from None  # why it failed says more than that time is up
            raise
        self._made += 1
        return left

    def pause_after(self, error: RuntimeStoreError) -> float | None:
        """Tell how many seconds to wait before the next attempt; `None` if there is none and `final_error` is raised.

        The error then names the request id, also one that the client chose: with it a caller can still find
        out what became of the write, by sending it once more.
        """
        if self._request_id:
            error.metadata.setdefault("request_id", self._request_id)
            self._in_doubt = self._in_doubt or isinstance(error, _IN_DOUBT)
        self._resets += _is_reset(error)
        if self._used_up() or not self._may_repeat(error):
            return None
        self._last = error
        pause = (error.retry_after_seconds or 0.0) + self._policy.pause_seconds(self._made)
        # With no time for another attempt the error at hand says more than a deadline.
        return pause if pause < self._deadline.left_seconds() else None

    def last_error(self) -> RuntimeStoreError | None:
        """Return what the caller is told if there is no further attempt; `None` before the first has failed."""
        return None if self._last is None else self.final_error(self._last)

    def final_error(self, error: RuntimeStoreError) -> RuntimeStoreError:
        """Return what the caller is told when the last attempt ended with `error`: the truth about all of them.

        A server that says "nothing was committed" says so of the attempt that it saw.
        """
        if not self._in_doubt or isinstance(error, _IN_DOUBT) or _is_conclusive(error):
            return error
        return CommitOutcomeUnknown(
            "an earlier attempt of this write was not answered, so it may or may not be there; repeat it with the same "
            f"request_id. The last attempt failed: {error.message}",
            metadata={**error.metadata, "last_reason": error.reason},
            retry_after_seconds=error.retry_after_seconds,
        )

    def _used_up(self) -> bool:
        return self._policy.max_attempts is not None and self._made >= self._policy.max_attempts

    def _may_repeat(self, error: RuntimeStoreError) -> bool:
        if isinstance(error, _NOT_COMMITTED):
            return True
        if self._request_id == "":  # a write that the server would not recognise
            return False
        if isinstance(error, CommitOutcomeUnknown):
            return True
        if not isinstance(error, CallFailed):
            return False
        if _is_reset(error):
            return self._resets < _MOST_RESETS
        # A server that stops cancels the calls that reach it in that moment. What the caller cancels never comes here.
        return error.code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED) or (
            error.code is grpc.StatusCode.RESOURCE_EXHAUSTED and error.retry_after_seconds is not None
        )


def _is_reset(error: RuntimeStoreError) -> bool:
    """Tell whether the transport ended the attempt: a proxy that restarts resets streams, or ends them in the middle.

    A refusal always names its reason. What names none and is INTERNAL or UNKNOWN was made on the way, by any of the
    error codes of HTTP/2 or by an end without a status. Three of those codes arrive as another status, and of
    RESOURCE_EXHAUSTED the text alone says that it is none of gRPC's own limits on messages, which no repeat cures.
    """
    if not isinstance(error, CallFailed) or "reason" in error.metadata:
        return False
    if error.code in (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN):
        return True
    return error.code in (grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.PERMISSION_DENIED) and (
        "RST_STREAM" in error.message
    )


def _is_conclusive(error: RuntimeStoreError) -> bool:
    """Tell whether a refusal is true of every attempt, also of one that is still on its way to the server."""
    if not isinstance(error, _CONCLUSIVE):
        return False
    named, there = _COMPARED.get(type(error), ("", ""))
    try:
        # What is ahead of the store may yet be reached by other writers, and the earlier attempt land then.
        return int(error.metadata[named]) <= int(error.metadata[there])
    except (KeyError, ValueError):
        return True


class UpdateRounds:
    """The rounds of one compare-and-swap loop: as many as the deadline allows, since each lost one is another's win.

    Whoever lost k rounds has about k rivals, and comes back within the time that two rounds of each take: the pause
    before the next round is random between 0 and 2 * k times what the last one took, at most the policy's
    `max_backoff_seconds`, and leaves time for one more as long as that. So many writers come one after the other, and
    none waits long after the last of them.
    """

    def __init__(self, policy: RetryPolicy, deadline: Deadline) -> None:
        self._policy = policy
        self._deadline = deadline
        self._lost = 0
        self._began = time.monotonic()

    def pause_after(self, error: OAuthFlowSnapshotChanged) -> float:
        """Tell how many seconds to wait before the next round.

        Raises:
            DeadlineExceeded: no time is left for one; nothing was written.
        """
        self._lost += 1
        now, left = time.monotonic(), self._deadline.left_seconds()
        pause = self._policy.pause_among(self._lost, round_seconds=now - self._began, left_seconds=left)
        if pause >= left:
            raise DeadlineExceeded(
                f"the snapshot was changed by others {self._lost} times within the call's "
                f"{self._deadline.timeout_seconds:g} seconds; nothing was written"
            ) from error
        self._began = now + pause
        return pause
