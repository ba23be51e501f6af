"""Every method of both clients, over a real socket: what it sends for its arguments, what it returns for the answer."""

from __future__ import annotations

import asyncio
import inspect
from typing import Any

import pytest

from runtimestore import AsyncRuntimeStoreClient, InputStateSeed, RuntimeStoreClient
from runtimestore.v1 import runtime_store_pb2 as pb
from support.generators.load_cases import LOADS
from support.generators.write_cases import ID, RUNTIME, WRITES, Case
from support.servers.scripted_store import METHODS, Script, scripted_store

CASES = [*WRITES, *LOADS]


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
