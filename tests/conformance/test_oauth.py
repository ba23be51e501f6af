"""The OAuth flow snapshot of a realm, compared and swapped, and its authority."""

from __future__ import annotations

import asyncio
import json
import re
from typing import TYPE_CHECKING

import grpc
import pytest

from runtimestore import AsyncRuntimeStoreClient, OAuthFlowSnapshot, OAuthFlowSnapshotChanged, RequestIdReused
from runtimestore.v1 import runtime_store_pb2 as pb
from runtimestore_server.store.schema import upgrade
from support.checkers.refusals import refused
from support.generators.calls import Store
from support.generators.documents import new_id
from support.servers.engines import DURABLE, EPHEMERAL
from support.servers.server import in_process

if TYPE_CHECKING:
    from runtimestore.v1 import runtime_store_pb2_grpc
    from runtimestore_server.app import Application
    from support.servers.engines import Engine

    Wire = runtime_store_pb2_grpc.RuntimeStoreAsyncStub


class ClosureFailed(Exception):
    """What a closure of the runtime's may raise."""


async def test_a_realm_without_a_snapshot_is_at_version_0_and_has_none(store: Store) -> None:
    assert await store.load_auth_oauth_flow_snapshot() is None
    assert await store.load_auth_oauth_flow_snapshot_with_version() == OAuthFlowSnapshot(None, 0)


async def test_every_write_of_the_snapshot_counts_one_version(store: Store) -> None:
    assert await store.persist_auth_oauth_flow_snapshot(b"1") == (1, False)
    assert await store.update_auth_oauth_flow_snapshot(lambda _: b"2") == (2, False)
    assert await store.persist_auth_oauth_flow_snapshot(b"2", request_id="") == (3, False)
    assert await store.load_auth_oauth_flow_snapshot_with_version() == OAuthFlowSnapshot(b"2", 3)


async def test_an_empty_snapshot_is_not_an_absent_one(store: Store) -> None:
    await store.persist_auth_oauth_flow_snapshot(b"")

    assert await store.load_auth_oauth_flow_snapshot_with_version() == OAuthFlowSnapshot(b"", 1)


async def test_each_realm_has_a_snapshot_of_its_own(app: Application, realm: str) -> None:
    async with Store(app.address, realm=realm) as one, Store(app.address, realm=f"{realm}-b") as other:
        await one.persist_auth_oauth_flow_snapshot(b"one")

        assert await other.load_auth_oauth_flow_snapshot() is None
        assert await other.persist_auth_oauth_flow_snapshot(b"other") == (1, False)
        assert await one.load_auth_oauth_flow_snapshot() == b"one"


async def test_an_update_at_the_expected_version_replaces_the_bytes(wire: Wire, realm: str) -> None:
    for version in range(3):
        answer = await wire.UpdateAuthOAuthFlowSnapshot(
            pb.UpdateAuthOAuthFlowSnapshotRequest(realm=realm, expected_version=version, snapshot_json=b"%d" % version)
        )
        assert (answer.version, answer.replayed) == (version + 1, False)
    loaded = await wire.LoadAuthOAuthFlowSnapshot(pb.LoadAuthOAuthFlowSnapshotRequest(realm=realm))
    assert (loaded.version, loaded.snapshot_json) == (3, b"2")


@pytest.mark.parametrize("written", [0, 2])
async def test_an_update_at_another_version_is_refused_tells_the_current_one_and_changes_nothing(
    wire: Wire, realm: str, written: int
) -> None:
    for _ in range(written):
        await wire.PersistAuthOAuthFlowSnapshot(
            pb.PersistAuthOAuthFlowSnapshotRequest(realm=realm, snapshot_json=b"kept")
        )
    for expected in {0, 1, 3, 2**63, 2**64 - 1} - {written}:
        found = await refused(
            wire.UpdateAuthOAuthFlowSnapshot(
                pb.UpdateAuthOAuthFlowSnapshotRequest(realm=realm, expected_version=expected, snapshot_json=b"lost")
            )
        )
        assert (found.code, found.reason) == (grpc.StatusCode.ABORTED, "OAUTH_FLOW_SNAPSHOT_CHANGED")
        assert found.store_error == "write_failed"
        assert found.metadata["current_version"] == str(written)
        assert found.metadata["expected_version"] == str(expected)

    loaded = await wire.LoadAuthOAuthFlowSnapshot(pb.LoadAuthOAuthFlowSnapshotRequest(realm=realm))
    assert loaded.version == written
    assert loaded.HasField("snapshot_json") is bool(written)


async def test_the_closure_sees_the_bytes_or_their_absence(store: Store) -> None:
    seen: list[bytes | None] = []

    def update(current: bytes | None) -> bytes:
        seen.append(current)
        return (current or b"") + b"x"

    for _ in range(3):
        await store.update_auth_oauth_flow_snapshot(update)

    assert seen == [None, b"x", b"xx"]
    assert await store.load_auth_oauth_flow_snapshot() == b"xxx"


async def test_a_change_in_between_runs_the_closure_again_on_the_new_bytes(app: Application, realm: str) -> None:
    seen: list[bytes | None] = []
    async with Store(app.address, realm=realm) as store, Store(app.address, realm=realm) as rival:

        async def update(current: bytes | None) -> bytes:
            if len(seen) < 3:
                await rival.persist_auth_oauth_flow_snapshot(b"rival %d" % len(seen))
            seen.append(current)
            return b"mine"

        commit = await store.update_auth_oauth_flow_snapshot(update)

        assert seen == [None, b"rival 0", b"rival 1", b"rival 2"]
        assert commit == (4, False)
        assert await store.load_auth_oauth_flow_snapshot() == b"mine"


async def test_an_error_of_the_closure_ends_the_loop_unchanged_and_writes_nothing(store: Store) -> None:
    await store.persist_auth_oauth_flow_snapshot(b"before")
    failure = ClosureFailed("the flow is already consumed")

    def update(_: bytes | None) -> bytes:
        raise failure

    with pytest.raises(ClosureFailed) as raised:
        await store.update_auth_oauth_flow_snapshot(update)

    assert raised.value is failure
    assert await store.load_auth_oauth_flow_snapshot_with_version() == OAuthFlowSnapshot(b"before", 1)


async def test_no_update_of_eight_clients_at_once_is_lost(app: Application, realm: str) -> None:
    each = 5
    clients = [AsyncRuntimeStoreClient(app.address, realm=realm) for _ in range(8)]

    async def add(client: AsyncRuntimeStoreClient, who: int) -> list[int]:
        versions = []
        for number in range(each):

            def update(current: bytes | None, entry: list[int] = [who, number]) -> bytes:  # noqa: B006  (this round's)
                return json.dumps([*json.loads(current or b"[]"), entry]).encode()

            versions.append((await client.update_auth_oauth_flow_snapshot(update)).version)
        return versions

    versions = await asyncio.gather(*(add(client, who) for who, client in enumerate(clients)))
    final = await clients[0].load_auth_oauth_flow_snapshot_with_version()
    for client in clients:
        await client.close()

    assert sorted(version for of_one in versions for version in of_one) == list(range(1, 8 * each + 1))
    added = json.loads(final.snapshot_json or b"")
    assert sorted(added) == [[who, number] for who in range(8) for number in range(each)]
    assert final.version == 8 * each


async def test_of_many_updates_at_one_version_one_lands(wire: Wire, realm: str) -> None:
    async def update(number: int) -> str:
        try:
            await wire.UpdateAuthOAuthFlowSnapshot(
                pb.UpdateAuthOAuthFlowSnapshotRequest(
                    realm=realm, request_id=new_id(), expected_version=0, snapshot_json=b"%d" % number
                )
            )
        except grpc.aio.AioRpcError as error:
            return error.code().name
        return "OK"

    answers = await asyncio.gather(*map(update, range(16)))

    assert sorted(answers) == ["ABORTED"] * 15 + ["OK"]
    loaded = await wire.LoadAuthOAuthFlowSnapshot(pb.LoadAuthOAuthFlowSnapshotRequest(realm=realm))
    assert (loaded.version, loaded.snapshot_json) == (1, b"%d" % answers.index("OK"))


@pytest.mark.needs(EPHEMERAL)
async def test_the_authority_of_an_ephemeral_store_has_no_name(store: Store) -> None:
    assert await store.auth_authority_key() is None


@pytest.mark.needs(DURABLE)
async def test_the_name_of_an_authority_tells_the_store_and_the_realm(
    app: Application, store: Store, realm: str
) -> None:
    key = await store.auth_authority_key()

    assert key is not None
    assert re.fullmatch(rf"runtimestore:[^:\s]+:{re.escape(realm)}", key)
    assert await store.auth_authority_key() == key
    async with Store(app.address, realm=f"{realm}-b") as other, Store(app.address) as default:
        assert await other.auth_authority_key() == f"{key}-b"
        assert await default.auth_authority_key() == key.removesuffix(realm) + "default"


@pytest.mark.needs(DURABLE)
async def test_two_stores_are_two_authorities(engine: Engine) -> None:
    keys = set()
    for _ in range(2):
        url = engine.fresh_url(migrated=False)
        upgrade(url)
        async with in_process(url) as app, Store(app.address) as store:
            keys.add(await store.auth_authority_key())
        engine.drop(url)

    assert len(keys) == 2


@pytest.mark.needs(DURABLE)
async def test_the_authority_keeps_its_name_over_restarts_and_on_every_replica_of_a_store(fresh_url: str) -> None:
    keys = []
    for _ in range(2):
        async with in_process(fresh_url) as one, in_process(fresh_url) as another:
            for app in (one, another):
                async with Store(app.address, realm="r") as store:
                    keys.append(await store.auth_authority_key())

    assert len(set(keys)) == 1
    assert keys[0]


async def test_a_replaced_oauth_snapshot_is_recognised_when_it_is_sent_again(store: Store) -> None:
    request_id = new_id()
    assert await store.persist_auth_oauth_flow_snapshot(b"first", request_id=request_id) == (1, False)
    assert await store.persist_auth_oauth_flow_snapshot(b"second") == (2, False)

    assert await store.persist_auth_oauth_flow_snapshot(b"first", request_id=request_id) == (1, True)
    assert await store.load_auth_oauth_flow_snapshot() == b"second"
    with pytest.raises(RequestIdReused):
        await store.persist_auth_oauth_flow_snapshot(b"third", request_id=request_id)
    assert await store.load_auth_oauth_flow_snapshot() == b"second"


async def test_an_updated_oauth_snapshot_is_recognised_when_it_is_sent_again(
    wire: runtime_store_pb2_grpc.RuntimeStoreAsyncStub, store: Store, realm: str
) -> None:
    request = pb.UpdateAuthOAuthFlowSnapshotRequest(
        realm=realm, request_id=new_id(), expected_version=0, snapshot_json=b"first"
    )
    first = await wire.UpdateAuthOAuthFlowSnapshot(request)
    await store.persist_auth_oauth_flow_snapshot(b"second")
    again = await wire.UpdateAuthOAuthFlowSnapshot(request)

    assert (first.version, first.replayed) == (1, False)
    assert (again.version, again.replayed) == (1, True)
    assert await store.load_auth_oauth_flow_snapshot() == b"second"


async def test_a_refused_update_of_the_oauth_snapshot_records_nothing(
    store: Store, wire: runtime_store_pb2_grpc.RuntimeStoreAsyncStub, realm: str
) -> None:
    request = pb.UpdateAuthOAuthFlowSnapshotRequest(
        realm=realm, request_id=new_id(), expected_version=7, snapshot_json=b"first"
    )
    for _ in range(2):
        refusal = await refused(wire.UpdateAuthOAuthFlowSnapshot(request))
        assert refusal.reason == OAuthFlowSnapshotChanged.reason
    request.expected_version = 0

    assert not (await wire.UpdateAuthOAuthFlowSnapshot(request)).replayed
    assert await store.load_auth_oauth_flow_snapshot() == b"first"


async def test_the_same_id_is_another_request_in_another_realm_for_oauth_too(app: Application, realm: str) -> None:
    request_id = new_id()
    async with Store(app.address, realm=realm) as one, Store(app.address, realm=f"{realm}-b") as other:
        assert await one.persist_auth_oauth_flow_snapshot(b"one", request_id=request_id) == (1, False)
        assert await other.persist_auth_oauth_flow_snapshot(b"other", request_id=request_id) == (1, False)
