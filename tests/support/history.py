"""A recorder of what several clients asked of one runtime and were told."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from runtimestore import (
    AsyncRuntimeStoreClient,
    CallFailed,
    CommitOutcomeUnknown,
    Overloaded,
    RevisionMismatch,
    StoreUnavailable,
)
from support.documents import receipt, session
from support.linearisable import Call

if TYPE_CHECKING:
    from runtimestore import RunBoundaryReceipt
    from support.linearisable import Outcome


@dataclass
class History:
    """Records the calls of several clients to one runtime."""

    runtime_id: str
    calls: list[Call] = field(default_factory=list)
    _boundaries: list[RunBoundaryReceipt] = field(default_factory=list)

    async def write(self, store: AsyncRuntimeStoreClient, *, if_revision: int | None = None) -> int | None:
        """One AtomicApply with a body and a boundary of its own; the revision to go on from, if it is told."""
        number = len(self._boundaries)
        proof, body = receipt(), session(f"write {number}")
        self._boundaries.append(proof)
        start = time.monotonic_ns()

        def note(outcome: Outcome, revision: int = 0) -> None:
            self.calls.append(
                Call("write", start, time.monotonic_ns(), outcome, number, body, if_revision, revision=revision)
            )

        try:
            commit = await store.atomic_apply(self.runtime_id, body, proof, if_revision=if_revision)
        except RevisionMismatch as refusal:
            note("refused", refusal.current_revision)
            return refusal.current_revision
        except (StoreUnavailable, Overloaded):
            note("nothing")
            return None
        except (CallFailed, CommitOutcomeUnknown, asyncio.CancelledError):
            note("unknown")
            return None
        note("done", commit.revision)
        return commit.revision

    async def load(self, store: AsyncRuntimeStoreClient) -> int | None:
        """Load the session; the revision, if it is told."""
        start = time.monotonic_ns()
        try:
            body, revision = await store.load_session_snapshot_with_revision(self.runtime_id)
        except (CallFailed, StoreUnavailable, Overloaded):
            return None
        self.calls.append(Call("load", start, time.monotonic_ns(), "done", body=body, revision=revision))
        return revision

    async def load_receipt(self, store: AsyncRuntimeStoreClient, number: int) -> None:
        """Look whether the boundary of the write `number` has its receipt."""
        if number >= len(self._boundaries):
            return
        proof = self._boundaries[number]
        start = time.monotonic_ns()
        try:
            found = await store.load_boundary_receipt(self.runtime_id, proof.run_id, proof.sequence)
        except (CallFailed, StoreUnavailable, Overloaded):
            return
        self.calls.append(Call("load_receipt", start, time.monotonic_ns(), "done", number, found=found is not None))

    @property
    def unknown(self) -> int:
        """How many writes have an outcome that nobody was told."""
        return sum(call.outcome == "unknown" for call in self.calls)
