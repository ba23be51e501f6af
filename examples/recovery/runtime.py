"""One agent runtime as the store sees it: the calls of the trait in the order in which a runtime makes them."""

from __future__ import annotations

import copy
import json
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING

from examples.recovery.contents import Boundary, Contents
from examples.recovery.samples import SampleInput, SampleSession, ops_snapshot
from runtimestore import Commit, InputState, RunApplyBoundary, RunBoundaryReceipt, RuntimeState

if TYPE_CHECKING:
    from runtimestore import RuntimeStoreClient


@dataclass(frozen=True)
class Apply:
    """One AtomicApply, kept until it is acknowledged, so that it can be repeated as the same request."""

    turn: int
    request_id: str
    session: bytes
    receipt: RunBoundaryReceipt
    inputs: list[InputState]

    @property
    def boundary(self) -> Boundary:
        """The key of its receipt."""
        return Boundary(self.receipt.run_id, self.receipt.sequence)


@dataclass(frozen=True)
class Recovery:
    """What a runtime found when it came back, and what it decided."""

    found: Contents
    consumed: list[str]
    queued: list[str]


class DemoRuntime:
    """A runtime that takes prompts, runs turns and remembers what was acknowledged to it."""

    def __init__(self, store: RuntimeStoreClient) -> None:
        self.store = store
        self.session = SampleSession()
        self.runtime_id = f"rt:session:{self.session.session_id}"
        self.acknowledged = Contents()
        self._inputs: dict[int, SampleInput] = {}
        self._run_ids: dict[int, str] = {}

    def start(self) -> None:
        """Commit that the runtime is idle, before anything else."""
        self._commit_state(RuntimeState.IDLE, [])

    def admit(self, turn: int) -> None:
        """Take in the prompt of a turn. Its caller is told "accepted" when this returns: it is durable then."""
        sample = SampleInput(self.session.prompt(turn), turn=turn)
        state = InputState.from_json(sample.queued())
        self.store.persist_input_state(self.runtime_id, state)
        self._inputs[turn] = sample
        self._acknowledge_inputs([state])

    def begin(self, turn: int) -> None:
        """Run a turn up to its boundary: load the session, work, remember the operations in the background."""
        self._commit_state(RuntimeState.RUNNING, [])
        if self.store.load_session_snapshot(self.runtime_id) != self.acknowledged.session:
            raise LostWrite(f"at the start of turn {turn} the session is not the one that was acknowledged")
        if (ops := ops_snapshot(turn)) is not None:
            self.store.persist_ops_lifecycle(self.runtime_id, ops)
            self.acknowledged.ops = ops

    def boundary(self, turn: int) -> Apply:
        """The commit of a turn's boundary: the whole session, and every input that was ever admitted."""
        run_id = self._run_ids[turn] = str(uuid.uuid4())
        sample = self._inputs[turn]
        documents = {**self.acknowledged.inputs, sample.input_id: sample.applied(run_id)}
        return Apply(
            turn=turn,
            request_id=str(uuid.uuid4()),
            session=self.session.snapshot(turn),
            receipt=RunBoundaryReceipt(
                run_id=run_id,
                boundary=RunApplyBoundary.RUN_START,
                contributing_input_ids=(sample.input_id,),
                message_count=self.session.message_count(turn),
                sequence=0,
                conversation_digest=self.session.conversation_digest(turn),
            ),
            inputs=[InputState(input_id, state_json) for input_id, state_json in documents.items()],
        )

    def apply(self, apply: Apply) -> Commit:
        """Commit the boundary: the whole session, the receipt, every input."""
        commit = self.store.atomic_apply(
            self.runtime_id,
            apply.session,
            apply.receipt,
            apply.inputs,
            self.session.session_id,
            request_id=apply.request_id,
        )
        self.acknowledged = self._after(apply)
        return commit

    def finish(self, turn: int) -> None:
        """End a turn whose boundary is committed: its input is consumed, the runtime idle."""
        self._commit_state(RuntimeState.IDLE, [self._consumed(turn)])

    def possible_outcomes(self, unacknowledged: Apply) -> tuple[Contents, Contents]:
        """What the store may hold after a crash: nothing of an unacknowledged apply, or all of it."""
        return self.acknowledged, self._after(unacknowledged)

    def recover(self, store: RuntimeStoreClient, unacknowledged: Apply | None) -> Recovery:
        """Come back: read everything, and decide by the receipts which inputs are consumed and which are queued."""
        self.store = store
        boundaries = set(self.acknowledged.receipts)
        if unacknowledged is not None:
            boundaries.add(unacknowledged.boundary)
        found = Contents.read(store, self.runtime_id, boundaries)
        consumed: list[str] = []
        queued: list[str] = []
        for input_id, state_json in found.inputs.items():
            document = json.loads(state_json)
            boundary = Boundary(document.get("last_run_id", ""), document.get("last_boundary_sequence", 0))
            applied = "last_run_id" in document and boundary in found.receipts
            (consumed if applied else queued).append(input_id)
        return Recovery(found, consumed, queued)

    def all_from_store(self) -> Contents:
        """Everything that the store holds of this runtime now."""
        return Contents.read(self.store, self.runtime_id, set(self.acknowledged.receipts))

    def _after(self, apply: Apply) -> Contents:
        return self.acknowledged.with_boundary(apply.session, apply.receipt, apply.inputs)

    def _consumed(self, turn: int) -> InputState:
        return InputState.from_json(self._inputs[turn].consumed(self._run_ids[turn]))

    def _commit_state(self, state: RuntimeState, inputs: list[InputState]) -> None:
        self.store.commit_machine_lifecycle(self.runtime_id, state, inputs)
        self.acknowledged = copy.copy(self.acknowledged)
        self.acknowledged.runtime_state = state
        self._acknowledge_inputs(inputs)

    def _acknowledge_inputs(self, states: list[InputState]) -> None:
        self.acknowledged.inputs = {
            **self.acknowledged.inputs,
            **{state.input_id: state.state_json for state in states},
        }


class LostWrite(Exception):
    """Something acknowledged is not there."""
