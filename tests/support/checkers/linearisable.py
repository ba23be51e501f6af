"""The proof that the history of a runtime's calls, or of those about a realm's OAuth snapshot, is linearisable.

A history is linearisable if its calls can be put into one order that explains every answer, in which each call stands
between its start and its end. A call whose outcome is unknown may stand anywhere after its start, or nowhere. The
search is that of Wing and Gong with Lowe's memory of states already tried; a runtime is a key of its own, and so is the
OAuth snapshot of a realm: each has a history of its own and the search stays small.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

Outcome = Literal["done", "refused", "nothing", "unknown"]
"""`refused`: the runtime was at another revision. `nothing`: the server promised that nothing was committed."""

NEVER = 2**63
"""The end of a call that may still take effect."""

MOST_STATES = 300_000
"""Tried before it is given up. A sound history takes a few for each call, an unsound one not many more."""

Documents = Mapping[str, bytes | None]
"""What is stored under which name; None for what is not there."""


class State(NamedTuple):
    """What a key is, as far as its calls tell."""

    revision: int = 0
    documents: frozenset[tuple[str, bytes]] = frozenset()
    boundaries: int = 0
    """Which boundaries have their receipt: bit n for the n-th write of the history."""

    def shows(self, documents: Documents) -> bool:
        """Whether these documents are as they are here."""
        stored = dict(self.documents)
        return all(stored.get(name) == document for name, document in documents.items())


@dataclass(frozen=True)
class Call:
    """One call: what was asked, when, and what was answered."""

    kind: Literal["write", "load"]
    start: int
    end: int
    outcome: Outcome
    documents: Documents = field(default_factory=dict)
    """Written or loaded."""
    boundary: int | None = None
    """Whose receipt is written, or looked for."""
    found: bool = False
    """Whether that receipt was there."""
    if_revision: int | None = None
    onto: Documents = field(default_factory=dict)
    """What a write was made of: it takes effect only where that is still there."""
    revision: int = 0
    """Answered: after a write, seen by a load, or the current one of a refusal."""


def step(state: State, call: Call) -> State | None:
    """The state after the call took effect; None if its answer cannot be had in this state."""
    if call.kind == "load":
        found = call.boundary is None or call.found == bool(state.boundaries >> call.boundary & 1)
        return state if found and call.revision == state.revision and state.shows(call.documents) else None
    if call.outcome == "refused":
        mismatch = call.if_revision != state.revision and call.revision == state.revision
        return state if mismatch else None
    if call.if_revision not in (None, state.revision) or not state.shows(call.onto):
        return None
    if call.outcome == "done" and call.revision != state.revision + 1:
        return None
    written = {name: document for name, document in call.documents.items() if document is not None}
    return State(
        state.revision + 1,
        frozenset({**dict(state.documents), **written}.items()),
        state.boundaries | (0 if call.boundary is None else 1 << call.boundary),
    )


def linearisable(history: Iterable[Call]) -> bool:
    """Whether some order of the calls about one key explains every answer.

    Raises:
        AssertionError: so many calls have an unknown outcome that it cannot be said.
    """
    calls = sorted(history, key=lambda call: call.start)
    # A load that failed says nothing; what the server promised not to have done has no effect.
    calls = [
        call
        for call in calls
        if call.outcome in ("done", "refused") or (call.kind, call.outcome) == ("write", "unknown")
    ]
    # A boundary that nobody looks for would tell states apart that no answer tells apart.
    looked_for = {call.boundary for call in calls if call.kind == "load"}
    calls = [call if call.boundary in looked_for else replace(call, boundary=None) for call in calls]
    ends = [NEVER if call.outcome == "unknown" else call.end for call in calls]
    known = sum(1 << position for position, call in enumerate(calls) if call.outcome != "unknown")
    # One with if_revision takes effect at one revision or never: the state says all of it that matters afterwards.
    conditional = sum(
        1 << position
        for position, call in enumerate(calls)
        if call.outcome == "unknown" and call.if_revision is not None
    )
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
        then = done | 1 << position
        if after is None or (then & ~conditional, after) in tried:
            continue
        tried.add((then & ~conditional, after))
        assert len(tried) < MOST_STATES, "too many calls of unknown outcome: undecided"
        stack.append((then, after, _candidates(calls, ends, then)))
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
