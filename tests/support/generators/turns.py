"""Writers that take turn after turn and remember what was acknowledged: what faults are held against."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import Counter
from typing import TYPE_CHECKING

from runtimestore import RetryPolicy, RuntimeStoreError
from support.generators.calls import Store, everything, id_of, input_of
from support.generators.documents import receipt, session

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

    from support.checkers.torture import Trial

ONCE = RetryPolicy(max_attempts=1)

MOST_TURNS = 5000
"""More than fit on any of the small disks of the tests between two refusals."""


class Turns:
    """One runtime's turns. A turn that was refused is tried again under its request id, until it is acknowledged."""

    def __init__(self, runtime_id: str, *, size_bytes: int = 1000) -> None:
        self.runtime_id = runtime_id
        self.acknowledged = 0
        self.lost = 0
        """How many acknowledged turns a check missed."""
        self.refusals: Counter[str] = Counter()
        self._size_bytes = size_bytes

    async def take(self, store: Store) -> bool:
        """Take the next turn; whether it was acknowledged."""
        content = self._content(self.acknowledged)
        try:
            await store.atomic_apply(
                self.runtime_id,
                self._session(content),
                receipt(id_of(content)),
                [input_of(content), input_of(content, "another")],
                request_id=id_of(f"request of {content}"),
            )
        except RuntimeStoreError as refusal:
            self.refusals[refusal.reason or type(refusal).__name__] += 1
            return False
        self.acknowledged += 1
        return True

    async def until_refused(self, store: Store) -> None:
        """Take turns until one is refused, which must happen."""
        for _ in range(MOST_TURNS):
            if not await self.take(store):
                return
        raise AssertionError(f"{MOST_TURNS} turns were acknowledged, and none refused")

    async def go_on(self, store: Store, until: asyncio.Event) -> None:
        """Take turns until told to stop."""
        while not until.is_set():
            if not await self.take(store):
                await asyncio.sleep(0.01)

    async def check(self, store: Store, *, last_turns: int | None = None) -> None:
        """See that all that was acknowledged is there, whole, and beside it at most the one turn that was not.

        With `last_turns` no older receipts are looked at. What is missing is counted in `lost`.
        """
        stored = await everything(store, self.runtime_id)
        self.lost += max(0, self.acknowledged - stored["revision"])
        assert stored["revision"] - self.acknowledged in (0, 1), (self.runtime_id, stored["revision"])
        oldest = max(0, stored["revision"] - last_turns) if last_turns else 0
        for turn in range(oldest, stored["revision"]):
            run_id = id_of(self._content(turn))
            assert await store.load_boundary_receipt(self.runtime_id, run_id, 0) == receipt(run_id)
        if stored["revision"]:
            last = self._content(stored["revision"] - 1)
            assert stored["session"] == self._session(last)
            assert stored["inputs"] == sorted(
                [input_of(last), input_of(last, "another")], key=lambda state: state.input_id
            )

    def _content(self, turn: int) -> str:
        return f"{self.runtime_id} {turn}"

    def _session(self, content: str) -> bytes:
        # Nothing of one turn is in the next: else a turn would write little, however large its session.
        text = random.Random(content).randbytes(self._size_bytes // 2).hex()  # noqa: S311  (repeatable)
        return session(content + text, session_id=id_of(f"session of {self.runtime_id}"))


def acknowledged(writers: Iterable[Turns]) -> int:
    """How many turns were acknowledged to all of them."""
    return sum(writer.acknowledged for writer in writers)


@contextlib.contextmanager
def counted(trial: Trial, writers: Collection[Turns]) -> Iterator[None]:
    """Record what was acknowledged inside and what of it was missing, also where that ends the test."""
    try:
        yield
    finally:
        trial.record(acknowledged_turns=acknowledged(writers), lost_turns=sum(writer.lost for writer in writers))


def refusals(writers: Iterable[Turns]) -> Counter[str]:
    """How often each reason was given."""
    return sum((writer.refusals for writer in writers), Counter())
