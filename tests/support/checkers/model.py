"""The contract as a small program: what a store must answer, as plainly as possible, kept in dictionaries."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from runtimestore import (
    BoundaryReceiptExists,
    OAuthFlowSnapshotChanged,
    RequestIdReused,
    RevisionMismatch,
    RuntimeStoreError,
)

if TYPE_CHECKING:
    from runtimestore import InputState, RunBoundaryReceipt, RuntimeState

Refusals = frozenset[type[RuntimeStoreError]]
Boundary = tuple[str, int]


@dataclass(frozen=True)
class RuntimeWrite:
    """A write to a runtime, whatever its method: what it carries is all that counts."""

    runtime_id: str
    request_id: str = ""
    if_revision: int | None = None
    session: bytes | None = None
    receipt: RunBoundaryReceipt | None = None
    inputs: tuple[InputState, ...] = ()
    state: RuntimeState | None = None
    ops: str | None = None


@dataclass(frozen=True)
class OAuthWrite:
    """A write of a realm's OAuth flow snapshot; without an expected version it replaces whatever is there."""

    snapshot_json: bytes
    request_id: str = ""
    expected_version: int | None = None


@dataclass(frozen=True)
class Answer:
    """What a write that lands, or repeats one, is told."""

    revision: int
    replayed: bool


@dataclass
class Runtime:
    """What is stored of a runtime."""

    revision: int = 0
    session: bytes | None = None
    inputs: dict[str, InputState] = field(default_factory=dict)
    receipts: dict[Boundary, RunBoundaryReceipt] = field(default_factory=dict)
    state: RuntimeState | None = None
    ops: str | None = None


@dataclass
class Realm:
    """What is stored of a realm."""

    runtimes: dict[str, Runtime] = field(default_factory=dict)
    requests: dict[str, tuple[RuntimeWrite | OAuthWrite, int]] = field(default_factory=dict)
    oauth: bytes | None = None
    oauth_version: int = 0

    def runtime(self, runtime_id: str) -> Runtime:
        """A runtime as it is read; one that was never written to is empty."""
        return self.runtimes.get(runtime_id, Runtime())

    def write(self, write: RuntimeWrite | OAuthWrite) -> Answer | Refusals:
        """Do a write and tell its answer, or leave everything as it is and tell the refusals that apply."""
        if write.request_id in self.requests:
            known, revision = self.requests[write.request_id]
            return Answer(revision, replayed=True) if known == write else frozenset({RequestIdReused})
        refusals, revision = self._land(write) if isinstance(write, RuntimeWrite) else self._swap(write)
        if refusals:
            return refusals
        if write.request_id:
            self.requests[write.request_id] = (write, revision)
        return Answer(revision, replayed=False)

    def _land(self, write: RuntimeWrite) -> tuple[Refusals, int]:
        runtime = self.runtimes.get(write.runtime_id, Runtime())
        refusals: set[type[RuntimeStoreError]] = set()
        if write.if_revision is not None and write.if_revision != runtime.revision:
            refusals.add(RevisionMismatch)
        boundary = (write.receipt.run_id, write.receipt.sequence) if write.receipt else None
        if boundary in runtime.receipts:
            refusals.add(BoundaryReceiptExists)
        if refusals:
            return frozenset(refusals), 0
        self.runtimes[write.runtime_id] = runtime
        runtime.revision += 1
        runtime.session = write.session if write.session is not None else runtime.session
        runtime.inputs |= {state.input_id: state for state in write.inputs}
        runtime.state = write.state or runtime.state
        runtime.ops = write.ops if write.ops is not None else runtime.ops
        if write.receipt and boundary:
            runtime.receipts[boundary] = write.receipt
        return frozenset(), runtime.revision

    def _swap(self, write: OAuthWrite) -> tuple[Refusals, int]:
        if write.expected_version not in (None, self.oauth_version):
            return frozenset({OAuthFlowSnapshotChanged}), 0
        self.oauth_version += 1
        self.oauth = write.snapshot_json
        return frozenset(), self.oauth_version
