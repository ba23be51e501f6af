"""Names how a call ended that was neither answered nor refused: its own status, its deadline, or cancelled.

gRPC for Python tells a handler of the latter two in the same way: its task is cancelled. Only the time says which it
was.
"""

from __future__ import annotations

import time
from typing import Any

import grpc
import grpc.aio

CODES = {code.value[0]: code.name for code in grpc.StatusCode}
"""The names of gRPC's codes by their numbers."""

CANCELLED, DEADLINE_EXCEEDED = "CANCELLED", "DEADLINE_EXCEEDED"


def code_of_end(context: Any, error: BaseException, started: float) -> str:
    """Return the name of the code of a call that began at `started` and ended by this error. Never raises."""
    if isinstance(error, grpc.aio.BaseError):  # its handler gave it a status, or its caller is gone
        try:
            given = context.code()
            number = given.value[0] if isinstance(given, grpc.StatusCode) else given
            if number:
                return CODES.get(number, "UNKNOWN")
        except Exception:  # noqa: BLE001  (what cannot be asked is not known)
            return "UNKNOWN"
    return code_of_given_up(context, started)


def code_of_given_up(context: Any, started: float) -> str:
    """Return the name of the code by which the caller of a call that began at `started` knows its end. Never raises."""
    try:
        left_seconds = context.time_remaining()
        if left_seconds is None:
            return CANCELLED
        whole_seconds = left_seconds + time.perf_counter() - started
        # It may end so long before its deadline and have run into it: callers' libraries cancel by clocks of their own,
        # and round the time that they tell the server up, by a hundredth at most.
        near_seconds = min(max(0.1, 0.01 * whole_seconds), whole_seconds / 2)
    except Exception:  # noqa: BLE001  (what cannot be asked is not known)
        return CANCELLED
    return DEADLINE_EXCEEDED if left_seconds <= near_seconds else CANCELLED
