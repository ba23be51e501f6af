"""What a budget lets in, and what it says of the rest."""

from __future__ import annotations

import pytest

from runtimestore.errors import Overloaded
from runtimestore_server.budget import SOONEST_SECONDS, Bound, Budget, RetryPacing


def _budget(*, items: int = 3, size: int = 100) -> Budget:
    return Budget(
        RetryPacing(),
        items=Bound(items, "waiting_things", "things are waiting"),
        size=Bound(size, "waiting_bytes", "bytes are waiting"),
    )


def test_as_many_as_the_bound_are_taken_and_the_next_is_refused_until_one_is_given_back() -> None:
    budget = _budget()
    for _ in range(3):
        budget.take(1)

    with pytest.raises(Overloaded, match="3 things are waiting; try again later") as refused:
        budget.take(1)
    assert refused.value.metadata["waiting_things"] == "3"
    assert refused.value.retry_after_seconds == pytest.approx(SOONEST_SECONDS, abs=0.05)

    budget.give_back(1)
    budget.take(1)
    assert (budget.items, budget.bytes) == (3, 3)


def test_more_bytes_of_what_is_held_are_taken_up_to_their_bound_though_no_more_items_are() -> None:
    budget = _budget(items=1)
    budget.take(60)
    budget.take(40, items=0)

    with pytest.raises(Overloaded, match="100 bytes are waiting"):
        budget.take(1, items=0)
    with pytest.raises(Overloaded, match="1 things are waiting"):
        budget.take(0)
    assert (budget.items, budget.bytes) == (1, 100)
    budget.give_back(100)
    assert (budget.items, budget.bytes) == (0, 0)


def test_those_ahead_count_as_items() -> None:
    budget = _budget()
    budget.take(1)
    assert budget.refusal(ahead=1) is None
    refusal = budget.refusal(ahead=2)
    assert refusal is not None
    assert refusal.metadata["waiting_things"] == "3"


def test_bytes_up_to_the_bound_are_taken_and_not_one_more() -> None:
    budget = _budget()
    budget.take(60)
    budget.take(40)
    with pytest.raises(Overloaded, match="100 bytes are waiting") as refused:
        budget.take(1)
    assert refused.value.metadata["waiting_bytes"] == "100"
    budget.take(0)
    assert (budget.items, budget.bytes) == (3, 100)


def test_what_is_larger_than_the_whole_bound_is_taken_when_nothing_else_has_a_size() -> None:
    budget = _budget()
    budget.take(0)
    budget.take(1000)
    with pytest.raises(Overloaded):
        budget.take(0)  # the bound is exceeded: whatever asks for bytes waits
    budget.take(None)
    assert (budget.items, budget.bytes) == (3, 1000)

    for size in (0, 1000, None):
        budget.give_back(size)
    assert (budget.items, budget.bytes) == (0, 0)


def test_a_budget_without_bounds_refuses_nothing() -> None:
    budget = Budget(RetryPacing())
    for _ in range(1000):
        budget.take(1_000_000_000)
