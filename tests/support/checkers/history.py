"""Recorders of what several clients asked of one key, a runtime or a realm's OAuth snapshot, and were told."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from runtimestore import (
    AsyncRuntimeStoreClient,
    CallFailed,
    CommitOutcomeUnknown,
    Overloaded,
    RevisionMismatch,
    RuntimeState,
    StoreUnavailable,
)
from support.checkers.linearisable import Call
from support.generators.documents import input_state, new_id, ops, receipt, session

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from runtimestore import InputState, RunBoundaryReceipt
    from support.checkers.linearisable import Documents, Outcome

STATES = tuple(RuntimeState)
TRY_LATER = (StoreUnavailable, Overloaded)
"""Promises that nothing was committed, by the attempt that they answer."""


class Caller(NamedTuple):
    """One of the clients."""

    store: AsyncRuntimeStoreClient
    once: bool
    """Whether a call is one attempt. Of several, the last one's refusal says nothing about those before it."""


class Seen(NamedTuple):
    """What a load answered."""

    documents: Documents
    revision: int
    boundary: int | None = None
    found: bool = False


@dataclass
class History:
    """The calls about one key."""

    calls: list[Call] = field(default_factory=list)

    @property
    def unknown(self) -> int:
        """How many writes have an outcome that nobody was told."""
        return sum(call.outcome == "unknown" for call in self.calls)

    async def _write(
        self,
        caller: Caller,
        sent: Awaitable[int],
        documents: Documents,
        *,
        boundary: int | None = None,
        if_revision: int | None = None,
        onto: dict[str, bytes | None] | None = None,
    ) -> int | None:
        """Record a write that answers its revision; the revision to go on from, if it is told.

        `onto` is filled when the write is sent, and empty if it never was.
        """
        start = time.monotonic_ns()

        def note(outcome: Outcome, revision: int = 0) -> None:
            end = time.monotonic_ns()
            self.calls.append(
                Call(
                    "write",
                    start,
                    end,
                    outcome,
                    documents,
                    boundary,
                    if_revision=if_revision,
                    onto=onto or {},
                    revision=revision,
                )
            )

        try:
            revision = await sent
        except RevisionMismatch as refusal:
            # Of all attempts: one that had landed would be recognised, and none can any more, for revisions only grow.
            note("refused", refusal.current_revision)
            return refusal.current_revision
        except (CallFailed, CommitOutcomeUnknown, asyncio.CancelledError, *TRY_LATER) as failure:
            nothing = (caller.once and isinstance(failure, TRY_LATER)) or onto == {}
            note("nothing" if nothing else "unknown")
            return None
        note("done", revision)
        return revision

    async def _load(self, sent: Awaitable[Seen]) -> int | None:
        """Record a load; the revision that it saw, if it is told."""
        start = time.monotonic_ns()
        try:
            seen = await sent
        except (CallFailed, *TRY_LATER):
            return None
        end = time.monotonic_ns()
        self.calls.append(
            Call("load", start, end, "done", seen.documents, seen.boundary, seen.found, revision=seen.revision)
        )
        return seen.revision


@dataclass
class RuntimeHistory(History):
    """The calls about one runtime: each of its writes, each of its loads."""

    runtime_id: str = field(default_factory=lambda: f"rt:{new_id()}")
    _boundaries: list[RunBoundaryReceipt] = field(default_factory=list)
    _writes: int = 0
    _loads: int = 0
    _input_ids: tuple[str, ...] = field(default_factory=lambda: (new_id(), new_id()))

    async def write(self, caller: Caller, *, if_revision: int | None = None) -> int | None:
        """The next kind of write, with documents of its own; the revision to go on from, if it is told."""
        number = self._writes
        self._writes += 1
        one, two = (input_state(f"write {number}", input_id=input_id) for input_id in self._input_ids)
        body, operations = session(f"write {number}"), ops(f"write {number}")
        store, documents, boundary = caller.store, _of_inputs(one), None
        match number % 5:
            case 0:
                boundary = len(self._boundaries)
                self._boundaries.append(receipt())
                documents = {"session": body, **_of_inputs(one, two)}
                sent = store.atomic_apply(
                    self.runtime_id, body, self._boundaries[boundary], [one, two], if_revision=if_revision
                )
            case 1:
                state = STATES[number // 5 % len(STATES)]
                documents["state"] = state.value.encode()
                sent = store.commit_machine_lifecycle(self.runtime_id, state, [one], if_revision=if_revision)
            case 2:
                documents = {"ops": operations.encode()}
                sent = store.persist_ops_lifecycle(self.runtime_id, operations, if_revision=if_revision)
            case 3:
                sent = store.persist_input_state(self.runtime_id, one, if_revision=if_revision)
            case _:
                documents = {"session": body}
                sent = store.commit_session_snapshot(self.runtime_id, body, if_revision=if_revision)

        async def revision() -> int:
            return (await sent).revision

        return await self._write(caller, revision(), documents, boundary=boundary, if_revision=if_revision)

    async def load(self, caller: Caller) -> int | None:
        """The next kind of load; the revision, if it is told."""
        number = self._loads
        self._loads += 1
        match number % 6:
            case 0:
                return await self._load(self._session(caller.store))
            case 1:
                return await self._load(self._inputs(caller.store))
            case 2:
                return await self._load(self._input(caller.store, self._input_ids[number // 6 % 2]))
            case 3:
                return await self._load(self._state(caller.store))
            case 4:
                return await self._load(self._ops(caller.store))
            case _:
                return await self._load(self._receipt(caller.store, number // 6))

    async def _session(self, store: AsyncRuntimeStoreClient) -> Seen:
        body, revision = await store.load_session_snapshot_with_revision(self.runtime_id)
        return Seen({"session": body}, revision)

    async def _inputs(self, store: AsyncRuntimeStoreClient) -> Seen:
        found, revision = await store.load_input_states_with_revision(self.runtime_id)
        return Seen({**dict.fromkeys(self._input_ids), **_of_inputs(*found)}, revision)

    async def _input(self, store: AsyncRuntimeStoreClient, input_id: str) -> Seen:
        found, revision = await store.load_input_state_with_revision(self.runtime_id, input_id)
        return Seen({input_id: None} if found is None else _of_inputs(found), revision)

    async def _state(self, store: AsyncRuntimeStoreClient) -> Seen:
        found, revision = await store.load_runtime_state_with_revision(self.runtime_id)
        return Seen({"state": None if found is None else found.value.encode()}, revision)

    async def _ops(self, store: AsyncRuntimeStoreClient) -> Seen:
        found, revision = await store.load_ops_lifecycle_with_revision(self.runtime_id)
        return Seen({"ops": None if found is None else found.encode()}, revision)

    async def _receipt(self, store: AsyncRuntimeStoreClient, number: int) -> Seen:
        """Of one of the latest boundaries: some of them are still under way."""
        if not self._boundaries:
            return await self._session(store)
        boundary = max(0, len(self._boundaries) - 1 - number % 3)
        proof = self._boundaries[boundary]
        found, revision = await store.load_boundary_receipt_with_revision(self.runtime_id, proof.run_id, proof.sequence)
        assert found in (None, proof)
        return Seen({}, revision, boundary, found is not None)


@dataclass
class OAuthHistory(History):
    """The calls about the OAuth flow snapshot of the clients' realm; its version stands for a revision."""

    _writes: int = 0

    async def write(self, caller: Caller) -> int | None:
        """Replace the snapshot, whatever is there; its version, if it is told."""
        body = self._next()

        async def version() -> int:
            return (await caller.store.persist_auth_oauth_flow_snapshot(body)).version

        return await self._write(caller, version(), {"oauth": body})

    async def update(self, caller: Caller) -> int | None:
        """Replace the snapshot that was loaded, and no other; its version, if it is told."""
        body = self._next()
        onto: dict[str, bytes | None] = {}

        def made(current: bytes | None) -> bytes:
            onto["oauth"] = current
            return body

        async def version() -> int:
            return (await caller.store.update_auth_oauth_flow_snapshot(made)).version

        return await self._write(caller, version(), {"oauth": body}, onto=onto)

    async def load(self, caller: Caller) -> int | None:
        """Load the snapshot; its version, if it is told."""

        async def snapshot() -> Seen:
            found = await caller.store.load_auth_oauth_flow_snapshot_with_version()
            return Seen({"oauth": found.snapshot_json}, found.version)

        return await self._load(snapshot())

    def _next(self) -> bytes:
        self._writes += 1
        return b"write %d" % self._writes


def _of_inputs(*states: InputState) -> dict[str, bytes | None]:
    return {state.input_id: state.state_json.encode() for state in states}
