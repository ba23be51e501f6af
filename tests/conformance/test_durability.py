"""The answer comes after COMMIT, so that what was acknowledged survives the server's death."""

from __future__ import annotations

import asyncio
import itertools
from typing import TYPE_CHECKING

import pytest

from runtimestore import Commit, RetryPolicy, RuntimeState, RuntimeStoreError
from support.checkers.clean_up import until
from support.generators.calls import RUNTIME_WRITES, Store, everything, id_of, input_of, session_of
from support.generators.documents import inputs, new_id, ops, receipt, session
from support.servers.engines import DURABLE, EPHEMERAL
from support.servers.server import in_process
from support.servers.server_process import ServerProcess

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractAsyncContextManager

    from runtimestore_server.app import Application

ONCE = RetryPolicy(max_attempts=1)


@pytest.mark.needs(DURABLE)
async def test_every_acknowledged_byte_survives_a_killed_server(fresh_url: str, runtime_id: str) -> None:
    body, proof, states, document = session("x" * 300_000), receipt(digest="d"), inputs(50), ops()
    with ServerProcess(fresh_url) as server:
        async with Store(server.address) as store:
            await store.persist_auth_oauth_flow_snapshot(b"flow")
            await store.commit_machine_lifecycle(runtime_id, RuntimeState.RUNNING)
            await store.persist_ops_lifecycle(runtime_id, document)
            await store.atomic_apply(runtime_id, body, proof, states)
            server.kill()

    with ServerProcess(fresh_url) as server:
        async with Store(server.address) as store:
            assert await store.load_session_snapshot_with_revision(runtime_id) == (body, 3)
            assert await store.load_boundary_receipt(runtime_id, proof.run_id, 0) == proof
            assert await store.load_input_states(runtime_id) == states
            assert await store.load_ops_lifecycle(runtime_id) == document
            assert await store.load_runtime_state(runtime_id) is RuntimeState.RUNNING
            assert await store.load_auth_oauth_flow_snapshot() == b"flow"


@pytest.mark.slow
@pytest.mark.needs(DURABLE)
async def test_a_server_killed_amid_writes_has_what_it_acknowledged_and_nothing_by_halves(
    fresh_url: str, runtime_id: str
) -> None:
    acknowledged: dict[str, int] = {}
    runtimes = [f"{runtime_id}/{number}" for number in range(8)]

    async def write(store: Store, name: str) -> None:
        for turn in itertools.count():
            content = f"{name} {turn}"
            states = [input_of(content), input_of(content, "another")]
            try:
                await store.atomic_apply(name, session_of(content), receipt(id_of(content)), states)
            except RuntimeStoreError:
                return
            acknowledged[name] = turn

    with ServerProcess(fresh_url) as server:
        async with Store(server.address, retry=ONCE) as store:
            writing = [asyncio.create_task(write(store, name)) for name in runtimes]
            await asyncio.sleep(0.5)
            server.kill()
            await asyncio.gather(*writing)

    with ServerProcess(fresh_url) as server:
        async with Store(server.address) as store:
            for name in runtimes:
                stored = await everything(store, name)
                turn = stored["revision"] - 1
                # The write that was not answered may be there, whole; whatever was answered has to be.
                assert acknowledged[name] <= turn <= acknowledged[name] + 1
                assert stored["session"] == session_of(f"{name} {turn}")
                assert sorted(stored["inputs"], key=str) == sorted(
                    [input_of(f"{name} {turn}"), input_of(f"{name} {turn}", "another")], key=str
                )
                for earlier in range(turn + 1):
                    assert await store.load_boundary_receipt(name, id_of(f"{name} {earlier}"), 0) is not None
                assert await store.load_boundary_receipt(name, id_of(f"{name} {turn + 1}"), 0) is None


@pytest.mark.needs(DURABLE)
async def test_a_repeat_is_recognised_by_the_next_server_too(fresh_url: str, runtime_id: str) -> None:
    ids = [new_id() for _ in RUNTIME_WRITES]
    with ServerProcess(fresh_url) as server:
        async with Store(server.address) as store:
            first = [
                await write(store, runtime_id, "a", request_id=request_id)
                for write, request_id in zip(RUNTIME_WRITES, ids, strict=True)
            ]
            oauth = await store.persist_auth_oauth_flow_snapshot(b"flow", request_id=id_of("oauth"))
            server.kill()

    with ServerProcess(fresh_url) as server:
        async with Store(server.address) as store:
            for write, request_id, commit in zip(RUNTIME_WRITES, ids, first, strict=True):
                again = await write(store, runtime_id, "a", request_id=request_id)
                assert again == (commit.revision, True)
            repeated = await store.persist_auth_oauth_flow_snapshot(b"flow", request_id=id_of("oauth"))
            assert repeated == (oauth.version, True)


@pytest.mark.needs(DURABLE)
async def test_a_client_carries_its_write_over_a_restart_of_the_server(fresh_url: str, runtime_id: str) -> None:
    patient = RetryPolicy(max_attempts=1000, max_backoff_seconds=0.1)
    with ServerProcess(fresh_url) as server:
        address = server.address
        async with Store(address, retry=patient) as store:
            assert await store.persist_input_state(runtime_id, input_of("a")) == (1, False)
            server.kill()
            writing = asyncio.create_task(store.commit_session_snapshot(runtime_id, session_of("b")))
            await asyncio.sleep(0.2)
            with ServerProcess(fresh_url, listen=address):
                assert await writing == (2, False)
                assert await store.load_session_snapshot(runtime_id) == session_of("b")


@pytest.mark.needs(DURABLE)
async def test_a_server_that_is_told_to_stop_commits_what_waits_and_answers_it(fresh_url: str, runtime_id: str) -> None:
    async with in_process(fresh_url) as app, Store(app.address, retry=ONCE) as store:
        writing = [
            asyncio.create_task(store.persist_input_state(f"{runtime_id}/{number}", input_of("a")))
            for number in range(40)
        ]
        await until(lambda: app.store.counters.writes > 0)
        await app.server.stop(5)
        finished = await asyncio.gather(*writing, return_exceptions=True)

    async with in_process(fresh_url) as app, Store(app.address) as store:
        for number, answer in enumerate(finished):
            revision = (await store.load_input_states_with_revision(f"{runtime_id}/{number}")).revision
            assert not isinstance(answer, Commit) or revision == 1


@pytest.mark.needs(DURABLE)
async def test_a_durable_store_says_that_it_is_durable(store: Store) -> None:
    assert "durable" in (await store.get_server_info()).capabilities


@pytest.mark.needs(EPHEMERAL)
async def test_an_ephemeral_store_says_that_it_is_not_durable_and_forgets_everything(
    serve: Callable[..., AbstractAsyncContextManager[Application]], runtime_id: str
) -> None:
    for _ in range(2):
        async with serve() as app, Store(app.address) as store:
            assert "durable" not in (await store.get_server_info()).capabilities
            assert await store.persist_input_state(runtime_id, input_of("a")) == (1, False)
