"""The proof that the history of a runtime's calls is linearisable.

A history is linearisable if its calls can be put into one order that explains every answer, in which each call stands
between its start and its end. A call whose outcome is unknown may stand anywhere after its start, or nowhere. The
search is that of Wing and Gong with Lowe's memory of states already tried; a runtime is a key of its own, so each has a
history of its own and the search stays small.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

Outcome = Literal["done", "refused", "nothing", "unknown"]
"""`refused`: the runtime was at another revision. `nothing`: the server promised that nothing was committed."""

NEVER = 2**63
"""The end of a call that may still take effect."""


class State(NamedTuple):
    """What a runtime is, as far as its calls tell."""

    revision: int = 0
    body: bytes | None = None
    boundaries: int = 0
    """Which boundaries have their receipt: bit n for the n-th write of the history."""


@dataclass(frozen=True)
class Call:
    """One call: what was asked, when, and what was answered."""

    kind: Literal["write", "load", "load_receipt"]
    start: int
    end: int
    outcome: Outcome
    number: int = 0
    """Of a write, and of a receipt's load: which write's boundary."""
    body: bytes | None = None
    """Written or loaded."""
    if_revision: int | None = None
    revision: int = 0
    """Answered: after a write, seen by a load, or the current one of a refusal."""
    found: bool = False
    """Whether a receipt was there."""


def step(state: State, call: Call) -> State | None:
    """The state after the call took effect; None if its answer cannot be had in this state."""
    if call.kind == "load":
        return state if (call.revision, call.body) == (state.revision, state.body) else None
    if call.kind == "load_receipt":
        return state if call.found == bool(state.boundaries >> call.number & 1) else None
    if call.outcome == "refused":
        mismatch = call.if_revision != state.revision and call.revision == state.revision
        return state if mismatch else None
    if call.if_revision is not None and call.if_revision != state.revision:
        return None
    if call.outcome == "done" and call.revision != state.revision + 1:
        return None
    return State(state.revision + 1, call.body, state.boundaries | 1 << call.number)


def linearisable(history: Iterable[Call]) -> bool:
    """Whether some order of the calls of one runtime explains every answer."""
    calls = sorted(history, key=lambda call: call.start)
    # A load that failed says nothing; what the server promised not to have done has no effect.
    calls = [
        call
        for call in calls
        if call.outcome in ("done", "refused") or (call.kind, call.outcome) == ("write", "unknown")
    ]
    ends = [NEVER if call.outcome == "unknown" else call.end for call in calls]
    known = sum(1 << position for position, call in enumerate(calls) if call.outcome != "unknown")
    # Each frame: the calls that took effect, the state after them, and those that may be next.
    stack = [(0, State(), _candidates(calls, ends, 0))]
    tried = {(0, State())}
    while stack:
        done, state, candidates = stack[-1]
        if done & known == known:
            return True
        if not candidates:
            stack.pop()
            continue
        position = candidates.pop()
        after = step(state, calls[position])
        if after is None or (done | 1 << position, after) in tried:
            continue
        tried.add((done | 1 << position, after))
        stack.append((done | 1 << position, after, _candidates(calls, ends, done | 1 << position)))
    return False


def _candidates(calls: Sequence[Call], ends: Sequence[int], done: int) -> list[int]:
    """The calls that may take effect next: none that is left has ended before they began."""
    found: list[int] = []
    first_end = NEVER
    for position, call in enumerate(calls):
        if done >> position & 1:
            continue
        if call.start > first_end:
            break
        first_end = min(first_end, ends[position])
        found.append(position)
    # Taken from the end: those whose outcome is known first, for they decide most; then in the order of their ends.
    return sorted(
        (position for position in found if calls[position].start <= first_end),
        key=lambda position: (calls[position].outcome != "unknown", -ends[position]),
    )
