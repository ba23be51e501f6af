"""Many writes in one transaction: each lands whole or is refused whole, and none takes its neighbours along."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from runtimestore import (
    AsyncRuntimeStoreClient,
    BoundaryReceiptExists,
    Commit,
    OAuthCommit,
    RequestIdReused,
    RevisionMismatch,
    RuntimeState,
)
from support.checkers.clean_up import until
from support.generators.calls import NOTHING, RUNTIME_WRITES, Store, everything, id_of, input_of, session_of
from support.generators.documents import input_state, new_id, receipt
from support.servers.database import held_commits

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from contextlib import AbstractAsyncContextManager

    from runtimestore_server.app import Application


async def at_once(app: Application, calls: Sequence[Awaitable[Any]]) -> list[Any]:
    """The results of calls that all wait in the server before the first of them is committed, in this order."""
    with held_commits(app) as go_on:
        tasks = [asyncio.ensure_future(call) for call in calls]
        await until(lambda: app.store._committer.waiting_writes == len(calls))
        go_on.set()
        return await asyncio.gather(*tasks, return_exceptions=True)


async def test_of_64_writes_at_once_three_bad_ones_are_refused_with_their_own_reasons_and_61_land_in_few_transactions(
    app: Application, client: AsyncRuntimeStoreClient, runtime_id: str
) -> None:
    taken, used = receipt(), new_id()
    await client.atomic_apply(f"{runtime_id}/10", receipt=taken)
    await client.persist_input_state(f"{runtime_id}/used", input_of("a"), request_id=used)
    before = (await client.get_server_info()).commits

    def call(number: int) -> Awaitable[Commit]:
        name, content = f"{runtime_id}/{number}", str(number)
        if number == 10:
            return client.atomic_apply(name, session_of(content), taken, [input_of(content)])
        if number == 30:
            return client.commit_session_snapshot(name, session_of(content), if_revision=4)
        if number == 50:
            return client.persist_input_state(name, input_of(content), request_id=used)
        return RUNTIME_WRITES[number % 5](client, name, content)

    answers = await at_once(app, [call(number) for number in range(64)])
    counted = (await client.get_server_info()).commits

    refused = {number: type(answer) for number, answer in enumerate(answers) if not isinstance(answer, Commit)}
    assert refused == {10: BoundaryReceiptExists, 30: RevisionMismatch, 50: RequestIdReused}
    assert {answer for answer in answers if isinstance(answer, Commit)} == {Commit(1, replayed=False)}
    assert counted.writes - before.writes == 61
    assert counted.refusals - before.refusals == 3
    assert 1 <= counted.transactions - before.transactions <= 8
    for number in range(64):
        stored = await everything(client, f"{runtime_id}/{number}")
        if number == 10:
            assert (stored["revision"], stored["session"], stored["inputs"]) == (1, None, [])
        elif number in refused:
            assert stored == NOTHING
        else:
            assert stored["revision"] == 1
            assert stored != {**NOTHING, "revision": 1}


async def test_writes_to_one_runtime_in_one_batch_see_each_other_as_if_they_had_come_one_by_one(
    app: Application, client: AsyncRuntimeStoreClient, runtime_id: str
) -> None:
    proof, request_id, other = receipt(), new_id(), f"{runtime_id}/other"
    first, second = input_state(), input_state()
    again = input_state(input_id=first.input_id)

    answers = await at_once(
        app,
        [
            client.atomic_apply(runtime_id, receipt=proof, input_updates=[first], request_id=request_id),
            client.atomic_apply(runtime_id, session_of("x"), receipt(proof.run_id), [second]),
            client.atomic_apply(runtime_id, receipt=proof, input_updates=[first], request_id=request_id),
            client.persist_input_state(runtime_id, again, if_revision=1),
            client.persist_input_state(runtime_id, second, if_revision=1),
            client.persist_input_state(runtime_id, second, request_id=request_id),
            client.commit_machine_lifecycle(runtime_id, RuntimeState.IDLE, if_revision=2),
            client.persist_input_state(other, second),
        ],
    )

    # Calls that leave at once need not arrive in this order; what they may be told does not depend on it.
    assert answers[7] == (1, False)
    assert isinstance(answers[1], BoundaryReceiptExists | Commit)
    stored = await everything(client, runtime_id)
    landed = [answer for answer in answers[:7] if isinstance(answer, Commit) and not answer.replayed]
    assert sorted(commit.revision for commit in landed) == list(range(1, stored["revision"] + 1))
    assert await everything(client, other) == {**NOTHING, "inputs": [second], "revision": 1}
    assert sum(isinstance(answer, Commit) and not answer.replayed for answer in answers[:3]) == 1


async def test_a_repeat_in_the_same_batch_is_recognised(
    app: Application, client: AsyncRuntimeStoreClient, runtime_id: str
) -> None:
    request_id = new_id()
    before = (await client.get_server_info()).commits

    answers = await at_once(
        app, [client.persist_input_state(runtime_id, input_of("a"), request_id=request_id) for _ in range(8)]
    )

    counted = (await client.get_server_info()).commits
    assert sorted(answers) == [(1, False), *[(1, True)] * 7]
    assert counted.replays - before.replays == 7
    assert counted.writes - before.writes == 1


async def test_writes_of_realms_and_of_oauth_share_transactions_without_mixing(
    app: Application, runtime_id: str, realm: str
) -> None:
    clients = [Store(app.address, realm=f"{realm}-{number}") for number in range(6)]
    calls: list[Awaitable[Any]] = [
        call
        for number, client in enumerate(clients)
        for call in (
            client.persist_input_state(runtime_id, input_of(str(number)), request_id=id_of("shared")),
            client.persist_auth_oauth_flow_snapshot(b"%d" % number, request_id=id_of("oauth")),
        )
    ]

    answers = await at_once(app, calls)

    assert answers == [Commit(1, replayed=False), OAuthCommit(1, replayed=False)] * 6
    for number, client in enumerate(clients):
        assert await client.load_input_states(runtime_id) == [input_of(str(number))]
        assert await client.load_auth_oauth_flow_snapshot() == b"%d" % number
        await client.close()


async def test_oauth_updates_in_one_batch_see_each_other(app: Application, client: AsyncRuntimeStoreClient) -> None:
    answers = await at_once(app, [client.persist_auth_oauth_flow_snapshot(b"%d" % number) for number in range(10)])

    assert sorted(answer.version for answer in answers) == list(range(1, 11))
    final = await client.load_auth_oauth_flow_snapshot_with_version()
    assert final.version == 10
    assert final.snapshot_json == b"%d" % [answer.version for answer in answers].index(10)


@pytest.mark.parametrize("max_batch_writes", [1, 3])
async def test_a_batch_ends_where_the_setting_says(
    serve: Callable[..., AbstractAsyncContextManager[Application]], runtime_id: str, max_batch_writes: int
) -> None:
    async with serve(max_batch_writes=max_batch_writes) as app, Store(app.address) as client:
        answers = await at_once(
            app, [client.persist_input_state(f"{runtime_id}/{n}", input_of("a")) for n in range(12)]
        )
        counted = (await client.get_server_info()).commits

    assert answers == [(1, False)] * 12
    assert counted.transactions >= 12 / max_batch_writes
    assert counted.writes == 12
