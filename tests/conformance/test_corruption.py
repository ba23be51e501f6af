"""What is damaged beneath the server is never handed out, and nothing else suffers."""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from runtimestore import RuntimeState, StoredValueCorrupt
from runtimestore.v1 import runtime_store_pb2 as pb
from runtimestore_server.store import tables
from support.checkers.refusals import refused
from support.generators.calls import RUNTIME_WRITES, Store, everything, id_of, input_of, session_of
from support.generators.documents import new_id, ops, receipt
from support.servers.database import change, flip_a_byte
from support.servers.engines import DURABLE, UNTYPED_COLUMNS

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from contextlib import AbstractAsyncContextManager

    import sqlalchemy as sa

    from runtimestore.v1 import runtime_store_pb2_grpc
    from runtimestore_server.app import Application

INPUT = input_of("").input_id

# Each column that is checked, the key of the row to damage, the load that must refuse it.
CASES: list[tuple[sa.Column[Any], dict[str, Any], Callable[[Store, str], Awaitable[Any]]]] = [
    (column, key, load)
    for columns, key, load in (
        (
            (tables.session_versions.c.body, tables.session_versions.c.sha256),
            {},
            lambda store, runtime_id: store.load_session_snapshot(runtime_id),
        ),
        (
            (tables.inputs.c.state_json, tables.inputs.c.sha256),
            {"input_id": INPUT},
            lambda store, runtime_id: store.load_input_state(runtime_id, INPUT),
        ),
        (
            (tables.inputs.c.state_json, tables.inputs.c.sha256),
            {"input_id": INPUT},
            lambda store, runtime_id: store.load_input_states(runtime_id),
        ),
        (
            (tables.receipts.c.receipt, tables.receipts.c.sha256),
            {"run_id": id_of("a"), "sequence": 0},
            lambda store, runtime_id: store.load_boundary_receipt(runtime_id, id_of("a"), 0),
        ),
        (
            (tables.ops_snapshots.c.snapshot_json, tables.ops_snapshots.c.sha256),
            {},
            lambda store, runtime_id: store.load_ops_lifecycle(runtime_id),
        ),
        (
            (tables.oauth_flow_snapshots.c.snapshot_json, tables.oauth_flow_snapshots.c.sha256),
            {},
            lambda store, _: store.load_auth_oauth_flow_snapshot(),
        ),
    )
    for column in columns
]


@pytest.fixture
def known_bytes() -> int:
    """The clients remember nothing: what they have they would not read again, nor write."""
    return 0


def _named(case: Any) -> str:
    return str(case).replace(".", " ") if hasattr(case, "table") else ""


@pytest.mark.parametrize(("column", "key", "load"), CASES, ids=_named)
async def test_a_flipped_bit_is_data_loss_that_names_the_row_and_every_other_row_stays_readable(
    app: Application,
    store: Store,
    realm: str,
    runtime_id: str,
    column: sa.Column[Any],
    key: dict[str, Any],
    load: Callable[[Store, str], Awaitable[Any]],
) -> None:
    neighbour = f"{runtime_id}/neighbour"
    for name in (runtime_id, neighbour):
        for write in RUNTIME_WRITES:
            await write(store, name, "a")
    await store.persist_auth_oauth_flow_snapshot(b"secret")
    whole = await everything(store, neighbour)
    row = {"realm": realm, **({"runtime_id": runtime_id} if "runtime_id" in column.table.c else {}), **key}

    await flip_a_byte(app, column, **row)

    with pytest.raises(StoredValueCorrupt) as found:
        await load(store, runtime_id)
    assert found.value.code is grpc.StatusCode.DATA_LOSS
    assert found.value.store_error == "read_failed"
    named = {name: str(value) for name, value in row.items() if name in found.value.metadata}
    assert found.value.metadata["table"] == column.table.name
    assert named == {name: found.value.metadata[name] for name in named}
    assert set(named) >= set(row) - {"realm"}

    assert await everything(store, neighbour) == whole
    readable = 0
    for other_column, _, other_load in CASES:
        if other_column.table is not column.table:
            await other_load(store, runtime_id)
            readable += 1
    assert readable >= 8
    assert await store.load_runtime_state(runtime_id) is RuntimeState.IDLE
    assert await store.load_input_state(runtime_id, id_of("another")) is not None


async def test_a_state_that_is_none_of_the_seven_is_data_loss_that_names_the_runtime(
    app: Application, store: Store, realm: str, runtime_id: str
) -> None:
    await store.commit_machine_lifecycle(runtime_id, RuntimeState.IDLE)
    await change(app, tables.runtimes, {"runtime_state": "bogus"}, realm=realm, runtime_id=runtime_id)

    with pytest.raises(StoredValueCorrupt) as found:
        await store.load_runtime_state(runtime_id)

    assert found.value.metadata["table"] == "runtimes"
    assert found.value.metadata["runtime_id"] == runtime_id


OTHER_ID = "0190a1b2-0000-7000-8000-000000000000"


@pytest.mark.parametrize("damaged", [OTHER_ID, "no id", ""])
@pytest.mark.parametrize("table", ["session_versions", "inputs", "ops_snapshots"])
async def test_an_id_beside_a_document_that_is_not_the_documents_is_data_loss(
    app: Application, store: Store, realm: str, runtime_id: str, table: str, damaged: str
) -> None:
    loads: dict[str, tuple[str, Any]] = {
        "session_versions": ("session_id", store.load_session_snapshot),
        "inputs": ("input_id", store.load_input_states),
        "ops_snapshots": ("epoch_id", store.load_ops_lifecycle),
    }
    column, load = loads[table]
    await store.commit_session_snapshot(runtime_id, session_of("a"))
    await store.persist_input_state(runtime_id, input_of("a"))
    await store.persist_ops_lifecycle(runtime_id, ops("a", epoch_id=id_of("epoch")))
    await change(app, tables.metadata.tables[table], {column: damaged}, realm=realm, runtime_id=runtime_id)

    with pytest.raises(StoredValueCorrupt) as found:
        await load(runtime_id)

    assert found.value.metadata["table"] == table
    assert found.value.metadata["runtime_id"] == runtime_id


@pytest.mark.parametrize("column", ["run_id", "sequence"])
async def test_the_receipt_of_another_boundary_is_data_loss(
    app: Application, store: Store, realm: str, runtime_id: str, column: str
) -> None:
    proof = receipt()
    await store.atomic_apply(runtime_id, receipt=proof)
    moved: dict[str, Any] = {"run_id": proof.run_id, "sequence": proof.sequence}
    moved[column] = OTHER_ID if column == "run_id" else 17
    await change(app, tables.receipts, moved, realm=realm, runtime_id=runtime_id)

    with pytest.raises(StoredValueCorrupt) as found:
        await store.load_boundary_receipt(runtime_id, moved["run_id"], moved["sequence"])

    assert found.value.metadata["table"] == "receipts"


@pytest.mark.parametrize("revision", [0, -1])
async def test_a_revision_that_no_write_left_is_data_loss(
    app: Application, store: Store, realm: str, runtime_id: str, revision: int
) -> None:
    await store.commit_machine_lifecycle(runtime_id, RuntimeState.IDLE)
    await change(app, tables.runtimes, {"revision": revision}, realm=realm, runtime_id=runtime_id)

    with pytest.raises(StoredValueCorrupt) as found:
        await store.load_runtime_state(runtime_id)

    assert found.value.metadata["table"] == "runtimes"


# SQLite keeps whatever was put into a column.
UNTYPED: list[tuple[str, str, str]] = [
    ("runtimes", "runtime_state", "CAST(X'fffe' AS TEXT)"),
    ("runtimes", "runtime_state", "X'00'"),
    ("runtimes", "revision", "'many'"),
    ("session_versions", "session_id", "CAST(X'fffe' AS TEXT)"),
    ("session_versions", "session_id", "X'00'"),
    ("session_versions", "body", "'text'"),
    ("session_versions", "body", "7"),
    ("inputs", "input_id", "CAST(X'fffe' AS TEXT)"),
    ("inputs", "input_id", "X'00'"),
    ("inputs", "state_json", "'text'"),
    ("ops_snapshots", "epoch_id", "CAST(X'fffe' AS TEXT)"),
    ("ops_snapshots", "epoch_id", "X'00'"),
    ("ops_snapshots", "snapshot_json", "1.5"),
    ("oauth_flow_snapshots", "version", "'first'"),
    ("oauth_flow_snapshots", "snapshot_json", "'text'"),
]


@pytest.mark.needs(UNTYPED_COLUMNS)
@pytest.mark.parametrize(("table", "column", "value"), UNTYPED)
async def test_a_value_of_another_type_is_data_loss_that_names_the_row(
    app: Application, store: Store, realm: str, runtime_id: str, table: str, column: str, value: str
) -> None:
    await store.commit_machine_lifecycle(runtime_id, RuntimeState.IDLE)
    await store.commit_session_snapshot(runtime_id, session_of("a"))
    await store.persist_input_state(runtime_id, input_of("a"))
    await store.persist_ops_lifecycle(runtime_id, ops("a", epoch_id=id_of("epoch")))
    await store.persist_auth_oauth_flow_snapshot(b"secret")
    with app.store.database.writers.begin() as connection:
        connection.exec_driver_sql(f"UPDATE {table} SET {column} = {value} WHERE realm = ?", (realm,))  # noqa: S608

    loads: dict[str, Callable[[], Awaitable[Any]]] = {
        "runtimes": lambda: store.load_runtime_state(runtime_id),
        "session_versions": lambda: store.load_session_snapshot(runtime_id),
        "inputs": lambda: store.load_input_states(runtime_id),
        "ops_snapshots": lambda: store.load_ops_lifecycle(runtime_id),
        "oauth_flow_snapshots": store.load_auth_oauth_flow_snapshot,
    }
    with pytest.raises(StoredValueCorrupt) as found:
        await loads[table]()

    assert found.value.metadata["table"] == table


NOWHERE = b'{"run_id":"x","boundary":"nowhere","contributing_input_ids":[],"message_count":0,"sequence":0}'


@pytest.mark.parametrize("damaged", [b"", b"no receipt", b"[]", b"{}", NOWHERE])
async def test_a_receipt_that_cannot_be_decoded_is_data_loss_though_its_digest_is_right(
    app: Application, store: Store, realm: str, runtime_id: str, damaged: bytes
) -> None:
    proof = receipt()
    await store.atomic_apply(runtime_id, receipt=proof)
    await change(
        app,
        tables.receipts,
        {"receipt": damaged, "sha256": sha256(damaged).digest()},
        realm=realm,
        runtime_id=runtime_id,
    )

    with pytest.raises(StoredValueCorrupt) as found:
        await store.load_boundary_receipt(runtime_id, proof.run_id, 0)

    assert found.value.metadata["table"] == "receipts"
    assert found.value.metadata["run_id"] == proof.run_id


async def test_the_refusal_of_a_damaged_value_shows_nothing_of_it(
    app: Application,
    store: Store,
    wire: runtime_store_pb2_grpc.RuntimeStoreAsyncStub,
    realm: str,
) -> None:
    await store.persist_auth_oauth_flow_snapshot(b"pkce-verifier-0123456789")
    await flip_a_byte(app, tables.oauth_flow_snapshots.c.snapshot_json, realm=realm)

    found = await refused(wire.LoadAuthOAuthFlowSnapshot(pb.LoadAuthOAuthFlowSnapshotRequest(realm=realm)))

    assert (found.code, found.reason) == (grpc.StatusCode.DATA_LOSS, "STORED_VALUE_CORRUPT")
    told = f"{found.message} {found.metadata}"
    assert "verifier" not in told
    assert "SELECT" not in told


@pytest.mark.needs(DURABLE)
@pytest.mark.parametrize("damaged", ["", "none", new_id().upper()], ids=["empty", "no UUID", "capitals"])
async def test_a_store_id_that_is_none_is_data_loss_and_names_no_authority(
    serve: Callable[..., AbstractAsyncContextManager[Application]], damaged: str
) -> None:
    async with serve() as app, Store(app.address) as store:
        await change(app, tables.store_identity, {"store_id": damaged})

        with pytest.raises(StoredValueCorrupt) as found:
            await store.auth_authority_key()

        assert found.value.metadata["table"] == "store_identity"
        assert found.value.store_error == "read_failed"
        assert (await store.persist_auth_oauth_flow_snapshot(b"flow")).version == 1
