"""What the server has acknowledged to one runtime, and how it differs from what the store gives back."""

from __future__ import annotations

import copy
import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, Self

if TYPE_CHECKING:
    from runtimestore import InputState, RunBoundaryReceipt, RuntimeState, RuntimeStoreClient


class Boundary(NamedTuple):
    """The key of a receipt within one runtime."""

    run_id: str
    sequence: int


class Difference(NamedTuple):
    """One value that is not what was acknowledged."""

    what: str
    acknowledged: str
    found: str


@dataclass
class Contents:
    """Every value of one runtime, as it was acknowledged or as it was read."""

    runtime_state: RuntimeState | None = None
    session: bytes | None = None
    inputs: dict[str, str] = field(default_factory=dict)
    receipts: dict[Boundary, RunBoundaryReceipt] = field(default_factory=dict)
    ops: str | None = None

    def with_boundary(self, session: bytes, receipt: RunBoundaryReceipt, inputs: list[InputState]) -> Self:
        """What a runtime has after an AtomicApply, all of it."""
        after = copy.copy(self)
        after.session = session
        after.receipts = {**self.receipts, Boundary(receipt.run_id, receipt.sequence): receipt}
        after.inputs = {**self.inputs, **{state.input_id: state.state_json for state in inputs}}
        return after

    @classmethod
    def read(cls, store: RuntimeStoreClient, runtime_id: str, boundaries: set[Boundary]) -> Self:
        """Read everything of a runtime, and the receipts of these boundaries where there are any."""
        receipts = {
            boundary: receipt
            for boundary in boundaries
            if (receipt := store.load_boundary_receipt(runtime_id, boundary.run_id, boundary.sequence)) is not None
        }
        return cls(
            runtime_state=store.load_runtime_state(runtime_id),
            session=store.load_session_snapshot(runtime_id),
            inputs={state.input_id: state.state_json for state in store.load_input_states(runtime_id)},
            receipts=receipts,
            ops=store.load_ops_lifecycle(runtime_id),
        )

    def differences(self, found: Contents) -> list[Difference]:
        """Every value that `found` has otherwise than this."""
        here, there = self._values(), found._values()
        return [
            Difference(what, described(here.get(what)), described(there.get(what)))
            for what in sorted({*here, *there})
            if here.get(what) != there.get(what)
        ]

    @property
    def size_bytes(self) -> int:
        """How many bytes of documents this holds."""
        documents = [self.session or b"", (self.ops or "").encode(), *map(str.encode, self.inputs.values())]
        return sum(map(len, documents))

    def _values(self) -> dict[str, object]:
        return {
            "runtime state": self.runtime_state,
            "session": self.session,
            "ops snapshot": self.ops,
            **{f"input {input_id}": state_json for input_id, state_json in self.inputs.items()},
            **{f"receipt {run_id} / {sequence}": receipt for (run_id, sequence), receipt in self.receipts.items()},
        }


def described(value: object) -> str:
    """A value in few words: documents by their size and SHA-256, the rest as it prints."""
    if value is None:
        return "absent"
    if isinstance(value, str):
        value = value.encode()
    if isinstance(value, bytes):
        return f"{len(value)} bytes, sha256 {hashlib.sha256(value).hexdigest()}"
    return str(value)
