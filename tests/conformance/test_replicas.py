"""Several servers on one store, used at once: nothing is lost, no revision is skipped, no engine's error is seen."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import defaultdict
from typing import TYPE_CHECKING

import pytest

from runtimestore import BoundaryReceiptExists, Commit, RequestIdReused, RevisionMismatch, RuntimeState
from support.generators.calls import RUNTIME_WRITES, Store, everything, input_of, session_of
from support.generators.documents import input_state, new_id, ops, receipt
from support.servers.engines import DURABLE
from support.servers.server_process import ServerProcess

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.servers.engines import Engine

pytestmark = pytest.mark.needs(DURABLE)


@pytest.fixture(scope="module")
def addresses(engine: Engine) -> Iterator[tuple[str, str]]:
    """Two server processes on one store."""
    url = engine.fresh_url()
    with ServerProcess(url) as one, ServerProcess(url) as other:
        yield one.address, other.address
        # Whatever a server logs as failed has no place in a healthy store.
        for server in (one, other):
            assert [line for line in server.lines if "call failed" in line or "write failed" in line] == []
    engine.drop(url)


async def test_many_clients_of_two_servers_lose_nothing_and_leave_no_gap_in_any_runtime(
    addresses: tuple[str, str], realm: str, runtime_id: str
) -> None:
    runtimes = [f"{runtime_id}/{number}" for number in range(6)]
    writers, turns = 12, 8
    revisions: dict[str, list[int]] = defaultdict(list)
    sent: dict[str, dict[str, str]] = defaultdict(dict)
    proofs = []

    async def write(store: Store, writer: int) -> None:
        for turn in range(turns):
            name = runtimes[(writer + turn) % len(runtimes)]
            state, proof = input_state(f"{writer} {turn}"), receipt(digest=f"{writer} {turn}")
            commit = await store.atomic_apply(name, session_of(f"{writer} {turn}"), proof, [state])
            assert not commit.replayed
            revisions[name].append(commit.revision)
            sent[name][state.input_id] = state.state_json
            proofs.append((name, proof))

    async with contextlib.AsyncExitStack() as stack:
        stores = [
            await stack.enter_async_context(Store(addresses[writer % 2], realm=realm)) for writer in range(writers)
        ]
        await asyncio.gather(*(write(store, writer) for writer, store in enumerate(stores)))

        for name in runtimes:
            assert sorted(revisions[name]) == list(range(1, len(revisions[name]) + 1))
            for store in stores[:2]:
                states, revision = await store.load_input_states_with_revision(name)
                assert {state.input_id: state.state_json for state in states} == sent[name]
                assert revision == len(revisions[name])
        for name, proof in proofs:
            assert await stores[0].load_boundary_receipt(name, proof.run_id, 0) == proof


async def test_what_one_server_acknowledged_the_other_one_shows(
    addresses: tuple[str, str], realm: str, runtime_id: str
) -> None:
    async with Store(addresses[0], realm=realm) as one, Store(addresses[1], realm=realm) as other:
        for turn in range(20):
            for writer, reader in ((one, other), (other, one)):
                revision = (await writer.commit_session_snapshot(runtime_id, session_of(f"{turn}"))).revision
                loaded = await reader.load_session_snapshot_with_revision(runtime_id)
                assert loaded == (session_of(f"{turn}"), revision)


async def test_a_repeat_at_the_other_server_is_recognised(
    addresses: tuple[str, str], realm: str, runtime_id: str
) -> None:
    async with Store(addresses[0], realm=realm) as one, Store(addresses[1], realm=realm) as other:
        for number, write in enumerate(RUNTIME_WRITES, start=1):
            request_id = new_id()
            assert await write(one, runtime_id, "a", request_id=request_id) == (number, False)
            assert await write(other, runtime_id, "a", request_id=request_id) == (number, True)


async def test_equal_requests_at_both_servers_at_once_are_done_once(
    addresses: tuple[str, str], realm: str, runtime_id: str
) -> None:
    async with Store(addresses[0], realm=realm) as one, Store(addresses[1], realm=realm) as other:
        for turn in range(10):
            request_id = new_id()
            answers = await asyncio.gather(
                *(
                    store.persist_input_state(runtime_id, input_of(str(turn)), request_id=request_id)
                    for store in (one, other, one, other)
                )
            )
            assert sorted(answers) == [(turn + 1, False), *[(turn + 1, True)] * 3]


async def test_a_first_request_at_both_servers_at_once_is_done_once(
    addresses: tuple[str, str], realm: str, runtime_id: str
) -> None:
    async with Store(addresses[0], realm=realm) as one, Store(addresses[1], realm=realm) as other:
        for turn in range(20):
            request_id, name = new_id(), f"{runtime_id}/{turn}"
            answers = await asyncio.gather(
                *(store.persist_input_state(name, input_of("a"), request_id=request_id) for store in (one, other))
            )
            assert sorted(answers) == [(1, False), (1, True)]


async def test_one_id_for_different_requests_at_both_servers_at_once_is_used_once(
    addresses: tuple[str, str], realm: str, runtime_id: str
) -> None:
    async with Store(addresses[0], realm=realm) as one, Store(addresses[1], realm=realm) as other:
        for turn in range(20):
            request_id, names = new_id(), [f"{runtime_id}/{turn}/{number}" for number in range(4)]
            answers = await asyncio.gather(
                *(
                    store.persist_input_state(name, input_of("a"), request_id=request_id)
                    for store, name in zip((one, other, one, other), names, strict=True)
                ),
                return_exceptions=True,
            )
            landed = [answer == Commit(1, replayed=False) for answer in answers]
            assert sum(landed) == 1
            assert sum(isinstance(answer, RequestIdReused) for answer in answers) == 3
            for name, is_there in zip(names, landed, strict=True):
                assert (await other.load_input_states_with_revision(name)).revision == is_there


async def test_one_boundary_at_both_servers_at_once_gets_one_receipt(
    addresses: tuple[str, str], realm: str, runtime_id: str
) -> None:
    async with Store(addresses[0], realm=realm) as one, Store(addresses[1], realm=realm) as other:
        for turn in range(10):
            run_id = new_id()
            proofs = [receipt(run_id, digest=str(number)) for number in range(4)]
            states = [input_state() for _ in proofs]
            answers = await asyncio.gather(
                *(
                    store.atomic_apply(f"{runtime_id}/{turn}", None, proof, [state])
                    for store, proof, state in zip((one, other, one, other), proofs, states, strict=True)
                ),
                return_exceptions=True,
            )
            (winner,) = [number for number, answer in enumerate(answers) if answer == Commit(1, replayed=False)]
            assert sum(isinstance(answer, BoundaryReceiptExists) for answer in answers) == 3
            assert await one.load_boundary_receipt(f"{runtime_id}/{turn}", run_id, 0) == proofs[winner]
            assert await other.load_input_states(f"{runtime_id}/{turn}") == [states[winner]]


async def test_compare_and_swap_over_two_servers_loses_no_change(
    addresses: tuple[str, str], realm: str, runtime_id: str
) -> None:
    epoch_id = new_id()

    async def add_one(store: Store) -> None:
        while True:
            loaded = await store.load_ops_lifecycle_with_revision(runtime_id)
            count = int(json.loads(loaded.value)["note"]) if loaded.value else 0
            document = ops(str(count + 1), epoch_id=epoch_id)
            with contextlib.suppress(RevisionMismatch):
                await store.persist_ops_lifecycle(runtime_id, document, if_revision=loaded.revision)
                return

    async with Store(addresses[0], realm=realm) as one, Store(addresses[1], realm=realm) as other:
        await asyncio.gather(*(add_one(store) for store in (one, other) for _ in range(6)))

        final = await one.load_ops_lifecycle_with_revision(runtime_id)
        assert (json.loads(final.value or "")["note"], final.revision) == ("12", 12)


async def test_oauth_updates_over_two_servers_lose_nothing(addresses: tuple[str, str], realm: str) -> None:
    async with Store(addresses[0], realm=realm) as one, Store(addresses[1], realm=realm) as other:

        async def add(store: Store, who: int) -> int:
            def update(current: bytes | None) -> bytes:
                return json.dumps([*json.loads(current or b"[]"), who]).encode()

            return (await store.update_auth_oauth_flow_snapshot(update)).version

        versions = await asyncio.gather(*(add(store, who) for who, store in enumerate((one, other) * 6)))

        assert sorted(versions) == list(range(1, 13))
        assert sorted(json.loads(await other.load_auth_oauth_flow_snapshot() or b"")) == list(range(12))


async def test_writers_that_cross_over_the_same_runtimes_do_not_wait_for_each_other_in_a_circle(
    addresses: tuple[str, str], realm: str, runtime_id: str
) -> None:
    runtimes = [f"{runtime_id}/{number}" for number in range(20)]
    async with Store(addresses[0], realm=realm) as one, Store(addresses[1], realm=realm) as other:

        async def sweep(store: Store, names: list[str]) -> None:
            for _ in range(5):
                await asyncio.gather(
                    *(store.commit_machine_lifecycle(name, RuntimeState.IDLE, [input_of(name)]) for name in names)
                )

        await asyncio.gather(sweep(one, runtimes), sweep(other, runtimes[::-1]))

        for name in runtimes:
            assert (await everything(one, name))["revision"] == 10
