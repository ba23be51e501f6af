"""Any sequence of calls, and any restart between them, answers and leaves what the contract's model says."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from typing import TYPE_CHECKING, Any

import grpc.aio
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from runtimestore import AsyncRuntimeStoreClient, InputState, RunApplyBoundary, RuntimeState, RuntimeStoreError
from runtimestore.v1 import runtime_store_pb2 as pb
from runtimestore.v1 import runtime_store_pb2_grpc
from support.checkers.model import Answer, OAuthWrite, Realm, RuntimeWrite
from support.checkers.refusals import refused
from support.generators.calls import id_of, input_of, session_of
from support.generators.documents import UINT64_MAX, ops, receipt
from support.servers.engines import DURABLE
from support.servers.server import in_process

if TYPE_CHECKING:
    from support.checkers.torture import Trial
    from support.servers.engines import Engine

RUNTIMES = ("rt:session:one", "rt:session:ONE", "rt:session:two")
INPUTS = ("a", "b", "c")
RUNS = (id_of("run 1"), id_of("run 2"))
SEQUENCES = (0, 1, UINT64_MAX)

# Few values of each, so that calls meet: the same ids, the same contents, the same boundaries.
contents = st.sampled_from(("x", "y", "z\u0000", "é" * 50))
request_ids = st.sampled_from(("", "", "", *(id_of(f"request {number}") for number in range(4))))
revisions = st.sampled_from((None, None, None, 0, 1, 2, 3, 5, UINT64_MAX))
input_states = st.builds(input_of, contents, st.sampled_from(INPUTS))
several_inputs = st.lists(input_states, max_size=4).map(tuple)
receipts = st.builds(
    receipt,
    st.sampled_from(RUNS),
    st.sampled_from(SEQUENCES),
    boundary=st.sampled_from(RunApplyBoundary),
    contributing=st.lists(st.sampled_from(RUNS), max_size=2).map(tuple),
    digest=st.sampled_from((None, "", "d")),
)
sessions = st.builds(session_of, contents)
common: dict[str, st.SearchStrategy[Any]] = {"request_id": request_ids, "if_revision": revisions}


def _writes(runtimes: st.SearchStrategy[str]) -> st.SearchStrategy[RuntimeWrite]:
    return st.one_of(
        st.builds(RuntimeWrite, runtimes, **common, session=sessions),
        st.builds(
            RuntimeWrite, runtimes, **common, session=st.none() | sessions, receipt=receipts, inputs=several_inputs
        ),
        st.builds(RuntimeWrite, runtimes, **common, inputs=st.tuples(input_states)),
        st.builds(RuntimeWrite, runtimes, **common, state=st.sampled_from(RuntimeState), inputs=several_inputs),
        st.builds(RuntimeWrite, runtimes, **common, ops=st.builds(ops, contents, epoch_id=st.just(id_of("epoch")))),
    )


writes = _writes(st.sampled_from(RUNTIMES))
oauth_writes = st.builds(
    OAuthWrite,
    st.sampled_from((b"", b"\0", b"flow", b'{"browser":[]}')),
    request_ids,
    st.sampled_from((None, 0, 1, 2, 3, UINT64_MAX)),
)
# One write a runtime and no request ids: then no order of theirs differs from any other.
batches = st.tuples(*(st.none() | _writes(st.just(name)) for name in RUNTIMES))


async def _send(store: AsyncRuntimeStoreClient, write: RuntimeWrite) -> Answer:
    options: dict[str, Any] = {"request_id": write.request_id, "if_revision": write.if_revision}
    name = write.runtime_id
    if write.receipt is not None:
        done = await store.atomic_apply(name, write.session, write.receipt, write.inputs, **options)
    elif write.session is not None:
        done = await store.commit_session_snapshot(name, write.session, **options)
    elif write.state is not None:
        done = await store.commit_machine_lifecycle(name, write.state, write.inputs, **options)
    elif write.ops is not None:
        done = await store.persist_ops_lifecycle(name, write.ops, **options)
    else:
        done = await store.persist_input_state(name, write.inputs[0], **options)
    return Answer(done.revision, done.replayed)


class StoreMachine(RuleBasedStateMachine):
    """A server on an empty realm beside the model of it."""

    def __init__(self, runner: asyncio.Runner, engine: Engine, url: str, known_bytes: int) -> None:
        super().__init__()
        self._known_bytes = known_bytes
        self._runner = runner
        self._durable = DURABLE in engine.capabilities
        self._url = url
        self._realm = f"property-{uuid.uuid4().hex}"
        self._model = Realm()
        self._touched: set[str] = set()
        self._stack = contextlib.AsyncExitStack()
        self._runner.run(self._start())

    async def _start(self) -> None:
        app = await self._stack.enter_async_context(in_process(self._url))
        self._store = await self._stack.enter_async_context(
            AsyncRuntimeStoreClient(app.address, realm=self._realm, known_bytes=self._known_bytes)
        )
        channel = await self._stack.enter_async_context(grpc.aio.insecure_channel(app.address))
        self._wire: runtime_store_pb2_grpc.RuntimeStoreAsyncStub = runtime_store_pb2_grpc.RuntimeStoreStub(channel)

    def teardown(self) -> None:
        self._runner.run(self._stack.aclose())

    @rule(write=writes)
    def write(self, write: RuntimeWrite) -> None:
        self._runner.run(self._both(write))

    @rule(write=writes)
    def write_at_the_revision_that_is(self, write: RuntimeWrite) -> None:
        revision = self._model.runtime(write.runtime_id).revision
        self._runner.run(self._both(_changed(write, if_revision=revision)))

    @rule(batch=batches)
    def write_to_several_runtimes_at_once(self, batch: tuple[RuntimeWrite | None, ...]) -> None:
        async def at_once() -> None:
            together = [_changed(write, request_id="") for write in batch if write]
            await asyncio.gather(*map(self._both, together))

        self._runner.run(at_once())

    @rule(write=oauth_writes)
    def write_oauth(self, write: OAuthWrite) -> None:
        self._runner.run(self._both_oauth(write))

    @precondition(lambda self: self._durable)
    @rule()
    def restart(self) -> None:
        async def again() -> None:
            await self._stack.aclose()
            await self._start()

        self._runner.run(again())
        self._touched.update(RUNTIMES)

    @invariant()
    def what_is_read_is_what_the_model_holds(self) -> None:
        self._runner.run(self._compare())
        self._touched.clear()

    async def _both(self, write: RuntimeWrite) -> None:
        self._touched.add(write.runtime_id)
        expected = self._model.write(write)
        try:
            found: Answer | RuntimeStoreError = await _send(self._store, write)
        except RuntimeStoreError as error:
            found = error
        if isinstance(expected, Answer):
            assert found == expected
        else:
            assert type(found) in expected

    async def _both_oauth(self, write: OAuthWrite) -> None:
        expected = self._model.write(write)
        fields: dict[str, Any] = {
            "realm": self._realm,
            "request_id": write.request_id,
            "snapshot_json": write.snapshot_json,
        }
        call: Any
        if write.expected_version is None:
            call = self._wire.PersistAuthOAuthFlowSnapshot(pb.PersistAuthOAuthFlowSnapshotRequest(**fields))
        else:
            fields["expected_version"] = write.expected_version
            call = self._wire.UpdateAuthOAuthFlowSnapshot(pb.UpdateAuthOAuthFlowSnapshotRequest(**fields))
        if isinstance(expected, Answer):
            done = await call
            assert Answer(done.version, done.replayed) == expected
        else:
            assert (await refused(call)).reason in {refusal.reason for refusal in expected}

    async def _compare(self) -> None:
        for name in self._touched:
            await self._compare_runtime(name)
        oauth = await self._store.load_auth_oauth_flow_snapshot_with_version()
        assert (oauth.snapshot_json, oauth.version) == (self._model.oauth, self._model.oauth_version)

    async def _compare_runtime(self, name: str) -> None:
        store, runtime = self._store, self._model.runtime(name)
        at = runtime.revision
        inputs: list[InputState] = [runtime.inputs[input_id] for input_id in sorted(runtime.inputs)]
        assert await store.load_session_snapshot_with_revision(name) == (runtime.session, at)
        assert await store.load_input_states_with_revision(name) == (inputs, at)
        assert await store.load_runtime_state_with_revision(name) == (runtime.state, at)
        assert await store.load_ops_lifecycle_with_revision(name) == (runtime.ops, at)
        ids = [id_of(which) for which in INPUTS]
        loaded = await asyncio.gather(*(store.load_input_state_with_revision(name, input_id) for input_id in ids))
        assert loaded == [(runtime.inputs.get(input_id), at) for input_id in ids]
        boundaries = [(run_id, sequence) for run_id in RUNS for sequence in SEQUENCES]
        proofs = await asyncio.gather(
            *(store.load_boundary_receipt_with_revision(name, *boundary) for boundary in boundaries)
        )
        assert proofs == [(runtime.receipts.get(boundary), at) for boundary in boundaries]


def _changed(write: RuntimeWrite, **fields: Any) -> RuntimeWrite:
    return RuntimeWrite(**{**vars(write), **fields})


def test_any_sequence_of_calls_answers_and_leaves_what_the_model_says(
    runner: asyncio.Runner, engine: Engine, known_bytes: int, trial: Trial
) -> None:
    url = engine.fresh_url()
    sequences = trial.rounds(short=5, long=20)

    class Machine(StoreMachine):
        def __init__(self) -> None:
            super().__init__(runner, engine, url, known_bytes)

    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=sequences,
            stateful_step_count=20,
            deadline=None,
            derandomize=True,  # a failure is the same for everybody, and shrinks to the same few calls
            database=None,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
        ),
    )
    engine.drop(url)
    trial.record(sequences=sequences)
