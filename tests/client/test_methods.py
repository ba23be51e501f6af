"""Every method of both clients, over a real socket: what it sends for its arguments, what it returns for the answer."""

from __future__ import annotations

import asyncio
import datetime as dt
import hashlib
import inspect
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
from google.protobuf import timestamp_pb2

from runtimestore import (
    Acquisition,
    AsyncRuntimeStoreClient,
    Commit,
    CommitCounters,
    CorruptInput,
    InputState,
    InputStateSeed,
    Limits,
    Loaded,
    LoadedRuntime,
    OAuthCommit,
    OAuthFlowSnapshot,
    ReadableInputStates,
    RunApplyBoundary,
    RunBoundaryReceipt,
    RuntimeState,
    RuntimeStoreClient,
    ServerInfo,
    SessionVersion,
    SessionVersions,
)
from runtimestore.v1 import runtime_store_admin_pb2 as admin_pb
from runtimestore.v1 import runtime_store_pb2 as pb
from support.servers.scripted_store import METHODS, Script, scripted_store

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
LOAD: dict[str, Any] = {"realm": "prod", "runtime_id": RUNTIME}
HASH = hashlib.sha256(b"onetwo").digest()


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


CASES = [
    Case(
        "auth_authority_key",
        (),
        pb.AuthAuthorityKeyRequest(realm="prod"),
        pb.AuthAuthorityKeyResponse(authority_key="runtimestore:x:prod"),
        "runtimestore:x:prod",
    ),
    Case("auth_authority_key", (), pb.AuthAuthorityKeyRequest(realm="prod"), None, None),
    Case(
        "persist_auth_oauth_flow_snapshot",
        (b"\x00secret",),
        pb.PersistAuthOAuthFlowSnapshotRequest(realm="prod", request_id=KEY, snapshot_json=b"\x00secret"),
        pb.PersistAuthOAuthFlowSnapshotResponse(version=3, replayed=True),
        OAuthCommit(3, True),
        {"request_id": KEY},
    ),
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
    write(
        "persist_input_state",
        (RUNTIME, INPUT),
        pb.PersistInputStateRequest(**WRITE, state=STORED),
        pb.PersistInputStateResponse,
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


async def call(transport: str, address: str, case: Case) -> Any:
    """Make the call of a case with one client or the other."""
    if transport == "async":
        async with AsyncRuntimeStoreClient(address, realm="prod", timeout_seconds=10.0) as store:
            return await getattr(store, case.method)(*case.arguments, **case.options)

    def in_a_thread() -> Any:
        with RuntimeStoreClient(address, realm="prod", timeout_seconds=10.0) as store:
            return getattr(store, case.method)(*case.arguments, **case.options)

    return await asyncio.to_thread(in_a_thread)


@pytest.mark.parametrize("transport", ["async", "sync"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.method)
def test_a_method_sends_its_arguments_and_returns_the_answer(transport: str, case: Case) -> None:
    async def scenario() -> None:
        script = Script()
        script.answer(case.rpc, case.answer)
        async with scripted_store(script) as address:
            value = await call(transport, address, case)

        assert value == case.value
        assert type(value) is type(case.value)
        assert script.requests[case.rpc] == [case.request]

    asyncio.run(scenario())


def test_every_method_of_the_services_is_called_here_or_by_the_closure_loop() -> None:
    assert {case.rpc for case in CASES} | {"UpdateAuthOAuthFlowSnapshot"} == set(METHODS)


def test_what_the_server_reads_out_of_a_document_comes_with_the_input() -> None:
    async def scenario() -> None:
        script = Script()
        seed = pb.InputStateSeed(phase="applied", last_run_id=ID, last_boundary_sequence=0, attempt_count=2)
        bare = pb.InputStateSeed(phase="queued")
        script.answer("LoadInputState", pb.LoadInputStateResponse(state=pb.StoredInputState(input_id=ID, seed=seed)))
        script.answer("LoadInputState", pb.LoadInputStateResponse(state=pb.StoredInputState(input_id=ID, seed=bare)))
        async with scripted_store(script) as address, AsyncRuntimeStoreClient(address) as store:
            whole, sparse = [await store.load_input_state(RUNTIME, ID) for _ in range(2)]

        assert whole is not None
        assert sparse is not None
        assert whole.seed == InputStateSeed("applied", ID, 0, 2)
        assert sparse.seed == InputStateSeed("queued", None, None, None)

    asyncio.run(scenario())


def public(client: type) -> dict[str, Any]:
    """The public methods of a client."""
    return {name: member for name, member in inspect.getmembers(client, callable) if not name.startswith("_")}


def test_both_clients_have_the_same_methods_with_the_same_arguments() -> None:
    waiting, blocking = public(AsyncRuntimeStoreClient), public(RuntimeStoreClient)

    assert waiting.keys() == blocking.keys()
    for name, method in waiting.items():
        assert inspect.iscoroutinefunction(method), name
        there, here = inspect.signature(method), inspect.signature(blocking[name])
        assert list(there.parameters) == list(here.parameters), name
        assert there.return_annotation == here.return_annotation, name
        if name != "update_auth_oauth_flow_snapshot":  # the closure may also be a coroutine function there
            assert there == here, name
            assert method.__doc__ == blocking[name].__doc__, name


def test_every_load_of_a_runtime_s_value_has_a_twin_with_the_revision() -> None:
    loads = {name for name in public(RuntimeStoreClient) if name.startswith("load_") and "oauth" not in name}
    loads -= {"load_readable_input_states", "load_runtime"}  # they tell the revision always
    bare = {name for name in loads if not name.endswith("_with_revision")}

    assert len(bare) == 6
    assert loads - bare == {f"{name}_with_revision" for name in bare}
