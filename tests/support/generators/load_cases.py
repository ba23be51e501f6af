"""Calls of the clients, at least one for everything that is asked: what is sent, and what is made of the answer."""

from __future__ import annotations

import datetime as dt
import hashlib
from typing import Any

from google.protobuf import timestamp_pb2

from runtimestore import (
    CommitCounters,
    CorruptInput,
    InputState,
    Limits,
    Loaded,
    LoadedRuntime,
    OAuthFlowSnapshot,
    ReadableInputStates,
    RuntimeState,
    ServerInfo,
    SessionVersion,
    SessionVersions,
)
from runtimestore.v1 import runtime_store_admin_pb2 as admin_pb
from runtimestore.v1 import runtime_store_pb2 as pb
from support.generators.write_cases import (
    BARE_RECEIPT,
    BARE_RECEIPT_SENT,
    BIGGEST,
    ID,
    INPUT,
    KEY,
    OTHER,
    RECEIPT,
    RECEIPT_SENT,
    RUNTIME,
    STORED,
    Case,
)

LOAD: dict[str, Any] = {"realm": "prod", "runtime_id": RUNTIME}
HASH = hashlib.sha256(b"onetwo").digest()

LOADS = [
    Case(
        "auth_authority_key",
        (),
        pb.AuthAuthorityKeyRequest(realm="prod"),
        pb.AuthAuthorityKeyResponse(authority_key="runtimestore:x:prod"),
        "runtimestore:x:prod",
    ),
    Case("auth_authority_key", (), pb.AuthAuthorityKeyRequest(realm="prod"), None, None),
    Case(
        "load_auth_oauth_flow_snapshot",
        (),
        pb.LoadAuthOAuthFlowSnapshotRequest(realm="prod"),
        pb.LoadAuthOAuthFlowSnapshotResponse(snapshot_json=b"", version=3),
        b"",
    ),
    Case("load_auth_oauth_flow_snapshot", (), pb.LoadAuthOAuthFlowSnapshotRequest(realm="prod"), None, None),
    Case(
        "load_auth_oauth_flow_snapshot_with_version",
        (),
        pb.LoadAuthOAuthFlowSnapshotRequest(realm="prod"),
        pb.LoadAuthOAuthFlowSnapshotResponse(snapshot_json=b"secret", version=3),
        OAuthFlowSnapshot(b"secret", 3),
    ),
    Case(
        "load_input_states",
        (RUNTIME,),
        pb.LoadInputStatesRequest(**LOAD),
        [
            pb.LoadInputStatesResponse(input_states=[STORED], revision=4),
            pb.LoadInputStatesResponse(input_states=[pb.StoredInputState(input_id=OTHER)]),
        ],
        [INPUT, InputState(OTHER, "")],
    ),
    Case(
        "load_input_states_with_revision",
        (RUNTIME,),
        pb.LoadInputStatesRequest(**LOAD),
        [pb.LoadInputStatesResponse(revision=4), pb.LoadInputStatesResponse(input_states=[STORED])],
        Loaded([INPUT], 4),
    ),
    Case(
        "load_readable_input_states",
        (RUNTIME,),
        pb.LoadInputStatesRequest(**LOAD, skip_corrupt=True),
        [
            pb.LoadInputStatesResponse(
                input_states=[STORED], corrupt_inputs=[pb.CorruptInput(input_id=OTHER, description="bad")], revision=4
            ),
            pb.LoadInputStatesResponse(corrupt_inputs=[pb.CorruptInput(input_id=KEY, description="worse")]),
        ],
        ReadableInputStates([INPUT], [CorruptInput(OTHER, "bad"), CorruptInput(KEY, "worse")], 4),
    ),
    Case(
        "load_boundary_receipt",
        (RUNTIME, ID, BIGGEST),
        pb.LoadBoundaryReceiptRequest(**LOAD, run_id=ID, sequence=BIGGEST),
        pb.LoadBoundaryReceiptResponse(receipt=RECEIPT_SENT),
        RECEIPT,
    ),
    Case(
        "load_boundary_receipt_with_revision",
        (RUNTIME, ID, 0),
        pb.LoadBoundaryReceiptRequest(**LOAD, run_id=ID),
        pb.LoadBoundaryReceiptResponse(receipt=BARE_RECEIPT_SENT, revision=5),
        Loaded(BARE_RECEIPT, 5),
    ),
    Case(
        "load_boundary_receipt_with_revision",
        (RUNTIME, ID, 0),
        pb.LoadBoundaryReceiptRequest(**LOAD, run_id=ID),
        pb.LoadBoundaryReceiptResponse(revision=5),
        Loaded(None, 5),
    ),
    Case(
        "load_session_snapshot",
        (RUNTIME,),
        pb.LoadSessionSnapshotRequest(**LOAD),
        [
            pb.LoadSessionSnapshotResponse(info=pb.SessionSnapshotInfo(size_bytes=6, sha256=HASH, revision=6)),
            pb.LoadSessionSnapshotResponse(chunk=b"one"),
            pb.LoadSessionSnapshotResponse(chunk=b"two"),
        ],
        b"onetwo",
    ),
    Case("load_session_snapshot_with_revision", (RUNTIME,), pb.LoadSessionSnapshotRequest(**LOAD), [], Loaded(None, 0)),
    Case(
        "load_session_snapshot",
        (RUNTIME,),
        pb.LoadSessionSnapshotRequest(**LOAD, as_of_revision=0),
        [
            pb.LoadSessionSnapshotResponse(
                info=pb.SessionSnapshotInfo(size_bytes=6, sha256=HASH, revision=6, committed_revision=1)
            ),
            pb.LoadSessionSnapshotResponse(chunk=b"onetwo"),
        ],
        b"onetwo",
        {"as_of_revision": 0},
    ),
    Case(
        "load_runtime",
        (RUNTIME,),
        admin_pb.LoadRuntimeRequest(**LOAD),
        [
            admin_pb.LoadRuntimeResponse(
                runtime=admin_pb.RuntimeDescription(revision=BIGGEST, state=pb.RUNTIME_STATE_IDLE)
            ),
            admin_pb.LoadRuntimeResponse(inputs=admin_pb.RuntimeInputs(input_states=[STORED])),
            admin_pb.LoadRuntimeResponse(
                receipts=admin_pb.RuntimeReceipts(receipts=[admin_pb.CommittedReceipt(receipt=RECEIPT_SENT)])
            ),
            admin_pb.LoadRuntimeResponse(ops=pb.PersistedOpsSnapshot(snapshot_json="{}")),
            admin_pb.LoadRuntimeResponse(session=pb.SessionSnapshotInfo(size_bytes=6, sha256=HASH)),
            admin_pb.LoadRuntimeResponse(session_chunk=b"one"),
            admin_pb.LoadRuntimeResponse(session_chunk=b"two"),
        ],
        LoadedRuntime(BIGGEST, RuntimeState.IDLE, [INPUT], [RECEIPT], "{}", b"onetwo"),
    ),
    Case(
        "load_runtime",
        (RUNTIME,),
        admin_pb.LoadRuntimeRequest(**LOAD),
        [admin_pb.LoadRuntimeResponse(runtime=admin_pb.RuntimeDescription(revision=0))],
        LoadedRuntime(0, None, [], [], None, None),
    ),
    Case(
        "list_session_versions",
        (RUNTIME,),
        admin_pb.ListSessionVersionsRequest(**LOAD, page_size=1, page_token="3"),  # noqa: S106  (a page)
        admin_pb.ListSessionVersionsResponse(
            versions=[
                admin_pb.SessionVersion(
                    revision=2,
                    committed_at=timestamp_pb2.Timestamp(seconds=1),
                    size_bytes=6,
                    sha256=HASH,
                    run_id=ID,
                    sequence=0,
                )
            ],
            next_page_token="2",  # noqa: S106  (a page)
        ),
        SessionVersions([SessionVersion(2, dt.datetime(1970, 1, 1, 0, 0, 1, tzinfo=dt.UTC), 6, HASH, ID, 0)], "2"),
        {"page_size": 1, "page_token": "3"},
    ),
    Case(
        "load_input_state",
        (RUNTIME, ID),
        pb.LoadInputStateRequest(**LOAD, input_id=ID),
        pb.LoadInputStateResponse(state=STORED),
        INPUT,
    ),
    Case(
        "load_input_state_with_revision",
        (RUNTIME, ID),
        pb.LoadInputStateRequest(**LOAD, input_id=ID),
        pb.LoadInputStateResponse(revision=7),
        Loaded(None, 7),
    ),
    *(
        Case(
            "load_runtime_state_with_revision",
            (RUNTIME,),
            pb.LoadRuntimeStateRequest(**LOAD),
            pb.LoadRuntimeStateResponse(state=pb.RuntimeState.Value(f"RUNTIME_STATE_{state.name}"), revision=8),
            Loaded(state, 8),
        )
        for state in RuntimeState
    ),
    Case("load_runtime_state", (RUNTIME,), pb.LoadRuntimeStateRequest(**LOAD), None, None),
    Case(
        "load_ops_lifecycle",
        (RUNTIME,),
        pb.LoadOpsLifecycleRequest(**LOAD),
        pb.LoadOpsLifecycleResponse(snapshot=pb.PersistedOpsSnapshot(snapshot_json="{}", epoch_id=ID)),
        "{}",
    ),
    Case(
        "load_ops_lifecycle_with_revision",
        (RUNTIME,),
        pb.LoadOpsLifecycleRequest(**LOAD),
        pb.LoadOpsLifecycleResponse(revision=9),
        Loaded(None, 9),
    ),
    Case(
        "get_server_info",
        (),
        admin_pb.GetServerInfoRequest(realm="prod"),
        admin_pb.GetServerInfoResponse(
            server_version="1",
            engine="sqlite",
            schema_revision="0001",
            limits=admin_pb.Limits(
                max_message_bytes=1,
                max_session_snapshot_bytes=2,
                max_document_bytes=3,
                max_waiting_writes=4,
                max_waiting_bytes=5,
                request_retention_seconds=6,
                max_waiting_reads=7,
                session_history_seconds=8,
            ),
            capabilities=["durable", "if_revision"],
            commits=admin_pb.CommitCounters(transactions=1, writes=2, refusals=3, replays=4),
        ),
        ServerInfo(
            server_version="1",
            engine="sqlite",
            schema_revision="0001",
            limits=Limits(
                max_message_bytes=1,
                max_session_snapshot_bytes=2,
                max_document_bytes=3,
                max_waiting_writes=4,
                max_waiting_bytes=5,
                request_retention_seconds=6,
                max_waiting_reads=7,
                session_history_seconds=8,
            ),
            capabilities=frozenset({"durable", "if_revision"}),
            commits=CommitCounters(transactions=1, writes=2, refusals=3, replays=4),
        ),
    ),
]
