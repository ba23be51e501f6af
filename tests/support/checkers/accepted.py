"""Writes that a server said it took in, whatever they were, and the proof that every byte of them can be read again."""

from __future__ import annotations

import asyncio
import uuid
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from runtimestore.v1 import runtime_store_pb2 as pb
from support.generators.requests import OAUTH

if TYPE_CHECKING:
    from runtimestore.v1 import runtime_store_pb2_grpc

    Wire = runtime_store_pb2_grpc.RuntimeStoreAsyncStub

AT_ONCE = 16


class Runtime(NamedTuple):
    """A runtime as requests name it."""

    realm: str
    runtime_id: str


@dataclass
class Stored:
    """What has to be there of a runtime."""

    revision: int = 0
    session: bytes | None = None
    state: int | None = None
    ops: str | None = None
    inputs: dict[str, str] = field(default_factory=dict)
    receipts: list[pb.RunBoundaryReceipt] = field(default_factory=list)


class Accepted:
    """Remembers each write with the revision that it was answered with, which is what orders them."""

    def __init__(self) -> None:
        self._writes: dict[Runtime, dict[int, Any]] = defaultdict(dict)
        self._oauth: dict[str, dict[int, bytes]] = defaultdict(dict)
        self.count = 0

    def add(self, method: str, message: bytes, answer: bytes) -> None:
        """A write that was answered OK; `message` is what was sent, to the byte."""
        request = getattr(pb, f"{method}Request").FromString(message)
        answered = getattr(pb, f"{method}Response").FromString(answer)
        if answered.replayed:
            return
        self.count += 1
        realm = request.realm or "default"
        if method in OAUTH:
            assert answered.version not in self._oauth[realm]
            self._oauth[realm][answered.version] = request.snapshot_json
        else:
            writes = self._writes[Runtime(realm, request.runtime_id)]
            assert answered.revision not in writes, "two writes were told the same revision"
            writes[answered.revision] = request

    async def read_back(self, wire: Wire) -> int:
        """Load everything that must be there; fails at the first difference. How many values were compared."""
        gate = asyncio.Semaphore(AT_ONCE)

        async def compared(runtime: Runtime, writes: dict[int, Any]) -> int:
            async with gate:
                return await _compared(wire, runtime, _stored(writes))

        compared_values = await asyncio.gather(*(compared(*item) for item in self._writes.items()))
        for realm, versions in self._oauth.items():
            assert sorted(versions) == list(range(1, len(versions) + 1)), realm
            loaded = await wire.LoadAuthOAuthFlowSnapshot(pb.LoadAuthOAuthFlowSnapshotRequest(realm=realm))
            assert (loaded.version, loaded.snapshot_json) == (len(versions), versions[len(versions)])
        return sum(compared_values) + len(self._oauth)


def _stored(writes: dict[int, Any]) -> Stored:
    # Every write was answered, so that no revision may be missing.
    assert sorted(writes) == list(range(1, len(writes) + 1)), writes
    stored = Stored(revision=len(writes))
    for _, request in sorted(writes.items()):
        fields = request.DESCRIPTOR.fields_by_name
        if "session_delta" in fields and request.HasField("session_delta"):
            stored.session = request.session_delta.session_snapshot
        if "receipt" in fields:
            stored.receipts.append(_canonical(request.receipt))
        if "commit" in fields:
            stored.state = request.commit.runtime_state
        if "snapshot" in fields:
            stored.ops = request.snapshot.snapshot_json
        inputs = [getattr(request, name) for name in ("input_updates", "input_states") if name in fields]
        if "state" in fields:
            inputs.append([request.state])
        stored.inputs.update({_uuid(state.input_id): state.state_json for states in inputs for state in states})
    return stored


async def _compared(wire: Wire, runtime: Runtime, stored: Stored) -> int:
    name = runtime._asdict()
    state = await wire.LoadRuntimeState(pb.LoadRuntimeStateRequest(**name))
    assert state.revision == stored.revision, name
    assert (state.state if state.HasField("state") else None) == stored.state, name
    if stored.session is not None:
        parts = [part async for part in wire.LoadSessionSnapshot(pb.LoadSessionSnapshotRequest(**name))]
        assert b"".join(part.chunk for part in parts) == stored.session, name
    if stored.inputs:
        batches = [batch async for batch in wire.LoadInputStates(pb.LoadInputStatesRequest(**name))]
        found = [(state.input_id, state.state_json) for batch in batches for state in batch.input_states]
        assert found == sorted(stored.inputs.items()), name
    if stored.ops is not None:
        ops = await wire.LoadOpsLifecycle(pb.LoadOpsLifecycleRequest(**name))
        assert ops.snapshot.snapshot_json == stored.ops, name
    for receipt in stored.receipts:
        loaded = await wire.LoadBoundaryReceipt(
            pb.LoadBoundaryReceiptRequest(**name, run_id=receipt.run_id, sequence=receipt.sequence)
        )
        assert loaded.receipt == receipt, name
    return 1 + (stored.session is not None) + (stored.ops is not None) + len(stored.inputs) + len(stored.receipts)


def _canonical(receipt: pb.RunBoundaryReceipt) -> pb.RunBoundaryReceipt:
    """A receipt as it is answered: its ids in lower case with hyphens, and nothing that this version does not know."""
    found = pb.RunBoundaryReceipt()
    found.CopyFrom(receipt)
    found.DiscardUnknownFields()
    found.run_id = _uuid(receipt.run_id)
    found.contributing_input_ids[:] = map(_uuid, receipt.contributing_input_ids)
    return found


def _uuid(text: str) -> str:
    return str(uuid.UUID(text.lower()))
