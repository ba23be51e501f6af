"""Calls of the clients, at least one for every write: what is sent for the arguments, what is made of the answer."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from runtimestore import (
    Acquisition,
    Commit,
    InputState,
    OAuthCommit,
    RunApplyBoundary,
    RunBoundaryReceipt,
    RuntimeState,
)
from runtimestore.v1 import runtime_store_admin_pb2 as admin_pb
from runtimestore.v1 import runtime_store_pb2 as pb

if TYPE_CHECKING:
    from google.protobuf.message import Message

RUNTIME = "rt:session:ü"
ID = "0189f7a0-0000-7000-8000-000000000001"
OTHER = "0189f7a0-0000-7000-8000-000000000002"
KEY = "0189f7a0-0000-7000-8000-00000000000a"
BIGGEST = 2**64 - 1
INPUT = InputState(ID, '{"nul": "\\u0000", "n": 1.0}')
STORED = pb.StoredInputState(input_id=ID, state_json=INPUT.state_json)
RECEIPT = RunBoundaryReceipt(ID, RunApplyBoundary.RUN_CHECKPOINT, (OTHER, ID), BIGGEST, BIGGEST, "digest")
RECEIPT_SENT = pb.RunBoundaryReceipt(
    run_id=ID,
    boundary=pb.RUN_APPLY_BOUNDARY_RUN_CHECKPOINT,
    contributing_input_ids=[OTHER, ID],
    conversation_digest="digest",
    message_count=BIGGEST,
    sequence=BIGGEST,
)
BARE_RECEIPT = RunBoundaryReceipt(ID, RunApplyBoundary.IMMEDIATE, (), 0, 0)
BARE_RECEIPT_SENT = pb.RunBoundaryReceipt(run_id=ID, boundary=pb.RUN_APPLY_BOUNDARY_IMMEDIATE)
DELTA = pb.SessionDelta(session_snapshot=b"{}")
WRITE: dict[str, Any] = {"realm": "prod", "runtime_id": RUNTIME, "request_id": KEY}


@dataclass(frozen=True)
class Case:
    """One call: method and arguments, the request that it sends, the answer and what is made of it."""

    method: str
    arguments: tuple[Any, ...]
    request: Message
    answer: Any
    value: Any
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def rpc(self) -> str:
        name = self.method.removesuffix("_with_revision").removesuffix("_with_version").replace("_readable", "")
        return name.title().replace("_", "").replace("Oauth", "OAuth")


def write(method: str, arguments: tuple[Any, ...], request: Message, answer: type[Message], **options: Any) -> Case:
    """A write to a runtime; all of them answer alike."""
    options = {"request_id": KEY} | options
    return Case(method, arguments, request, answer(revision=BIGGEST, replayed=True), Commit(BIGGEST, True), options)


WRITES = [
    Case(
        "persist_auth_oauth_flow_snapshot",
        (b"\x00secret",),
        pb.PersistAuthOAuthFlowSnapshotRequest(realm="prod", request_id=KEY, snapshot_json=b"\x00secret"),
        pb.PersistAuthOAuthFlowSnapshotResponse(version=3, replayed=True),
        OAuthCommit(3, True),
        {"request_id": KEY},
    ),
    write(
        "commit_session_snapshot",
        (RUNTIME, b"{}"),
        pb.CommitSessionSnapshotRequest(**WRITE, if_revision=0, session_delta=DELTA),
        pb.CommitSessionSnapshotResponse,
        if_revision=0,
    ),
    write(
        "atomic_apply",  # in the order of the trait
        (RUNTIME, b"{}", RECEIPT, [INPUT, INPUT], OTHER),
        pb.AtomicApplyRequest(
            **WRITE,
            if_revision=BIGGEST,
            session_delta=DELTA,
            receipt=RECEIPT_SENT,
            input_updates=[STORED, STORED],
            session_store_key=OTHER,
        ),
        pb.AtomicApplyResponse,
        if_revision=BIGGEST,
    ),
    write(
        "atomic_apply",
        (RUNTIME,),
        pb.AtomicApplyRequest(**WRITE, receipt=BARE_RECEIPT_SENT),
        pb.AtomicApplyResponse,
        receipt=BARE_RECEIPT,
    ),
    write(
        "persist_input_state",
        (RUNTIME, INPUT),
        pb.PersistInputStateRequest(**WRITE, state=STORED),
        pb.PersistInputStateResponse,
    ),
    *(
        write(
            "commit_machine_lifecycle",
            (RUNTIME, state, [INPUT]),
            pb.CommitMachineLifecycleRequest(
                **WRITE,
                commit=pb.MachineLifecycleCommit(runtime_state=pb.RuntimeState.Value(f"RUNTIME_STATE_{state.name}")),
                input_states=[STORED],
            ),
            pb.CommitMachineLifecycleResponse,
        )
        for state in RuntimeState
    ),
    write(
        "persist_ops_lifecycle",
        (RUNTIME, "{}"),
        pb.PersistOpsLifecycleRequest(**WRITE, snapshot=pb.PersistedOpsSnapshot(snapshot_json="{}")),
        pb.PersistOpsLifecycleResponse,
    ),
    Case(
        "acquire_runtime",
        (RUNTIME, "host/1"),
        admin_pb.AcquireRuntimeRequest(realm="prod", runtime_id=RUNTIME, owner="host/1", request_id=KEY),
        admin_pb.AcquireRuntimeResponse(fence=BIGGEST, previous_owner="host/0"),
        Acquisition(BIGGEST, "host/0"),
        {"request_id": KEY},
    ),
    Case(
        "acquire_runtime",
        (RUNTIME, "host/1"),
        admin_pb.AcquireRuntimeRequest(realm="prod", runtime_id=RUNTIME, owner="host/1", request_id=KEY),
        admin_pb.AcquireRuntimeResponse(fence=1),
        Acquisition(1, None),
        {"request_id": KEY},
    ),
]
