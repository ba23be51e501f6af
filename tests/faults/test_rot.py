"""Rot: a flipped bit in any stored value is found by its own load alone, and by `verify` alone in its row."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from runtimestore import RuntimeState, StoredValueCorrupt
from runtimestore_server.store import tables
from support.checkers.verified import verified
from support.generators.documents import inputs, new_id, ops, receipt, session
from support.servers.database import change, rows

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    import sqlalchemy as sa

    from runtimestore_server.app import Application
    from support.checkers.torture import Trial
    from support.generators.calls import Store


@pytest.fixture
def known_bytes() -> int:
    """The clients remember nothing: what they have they would not read again."""
    return 0


DOCUMENTS = {
    tables.session_versions: "body",
    tables.inputs: "state_json",
    tables.receipts: "receipt",
    tables.ops_snapshots: "snapshot_json",
    tables.oauth_flow_snapshots: "snapshot_json",
}

# What says in a column what a document says as well: `verify` holds the two against each other.
COPIES = {
    tables.session_versions: ["session_id"],
    tables.inputs: ["input_id"],
    tables.receipts: ["run_id", "sequence"],
    tables.ops_snapshots: ["epoch_id"],
    tables.sessions: ["session_id", "runtime_id", "created_at_ms", "updated_at_ms", "message_count", "total_tokens"],
}


@dataclass
class Stored:
    """A realm's values as they were written, and a load for each; a load is named by the row that it reads."""

    loads: dict[tuple[str, ...], Callable[[], Awaitable[Any]]] = field(default_factory=dict)
    values: dict[tuple[str, ...], Any] = field(default_factory=dict)
    """What each load answers while nothing is damaged."""


async def _written(store: Store, runtimes: int) -> Stored:
    stored = Stored()
    await store.persist_auth_oauth_flow_snapshot(b"flow")
    stored.loads["oauth_flow_snapshots",] = store.load_auth_oauth_flow_snapshot
    for number in range(runtimes):
        name, session_id = f"rt:rot:{number}", new_id()
        states, proofs = inputs(3), [receipt(sequence=sequence) for sequence in range(2)]
        await store.commit_machine_lifecycle(name, RuntimeState.IDLE, states)
        # One version each: what rests on a damaged one is damaged too, which tests of versions look at.
        for proof, body in zip(proofs, (session("text " * 50, session_id=session_id), None), strict=True):
            await store.atomic_apply(name, body, proof)
        await store.persist_ops_lifecycle(name, ops())
        stored.loads["runtimes", name] = partial(store.load_runtime_state, name)
        stored.loads["session_versions", name, "2"] = partial(store.load_session_snapshot, name)
        stored.loads["ops_snapshots", name] = partial(store.load_ops_lifecycle, name)
        for state in states:
            stored.loads["inputs", name, state.input_id] = partial(store.load_input_state, name, state.input_id)
        for proof in proofs:
            row: tuple[str, ...] = ("receipts", name, proof.run_id, str(proof.sequence))
            stored.loads[row] = partial(store.load_boundary_receipt, name, proof.run_id, proof.sequence)
    for row, load in stored.loads.items():
        stored.values[row] = await load()
    return stored


def _key(table: sa.Table, row: dict[str, Any]) -> dict[str, Any]:
    return {column.name: row[column.name] for column in table.primary_key}


def _named(table: sa.Table, row: dict[str, Any]) -> tuple[str, ...]:
    return (table.name, *(str(value) for name, value in _key(table, row).items() if name != "realm"))


async def test_each_flipped_bit_is_found_by_the_load_of_its_row_and_everything_else_is_served(
    trial: Trial, app: Application, client: Store, realm: str
) -> None:
    stored = await _written(client, trial.rounds(short=2, long=3))
    ephemeral = app.store.database.ephemeral
    flipped = answers = 0
    assert ephemeral or (await verified(app)).findings == []
    for _ in range(trial.rounds(short=1, long=15)):
        for table, document in DOCUMENTS.items():
            for row in await rows(app, table, realm=realm):
                for column in (document, "sha256"):
                    value = bytearray(row[column])
                    value[trial.random.randrange(len(value))] ^= 1 << trial.random.randrange(8)
                    await change(app, table, {column: bytes(value)}, **_key(table, row))

                    damaged = _named(table, row)
                    for name, load in stored.loads.items():
                        if name == damaged:
                            found = await _refusal(load)
                            assert (found.metadata["table"], *_metadata_key(table, found)) == damaged
                        else:
                            assert await load() == stored.values[name]
                        answers += 1
                    await _check_lists(client, stored, damaged)
                    if not ephemeral:
                        (only,) = (await verified(app)).findings
                        assert (only.kind, only.table) == ("digest_mismatch", table.name)
                        assert only.key == _as_told(table, row)

                    await change(app, table, {column: row[column]}, **_key(table, row))
                    flipped += 1
    assert ephemeral or (await verified(app)).findings == []
    trial.record(flipped_bits=flipped, loads=answers, found_by_loads=flipped, verified=not ephemeral)


async def _refusal(load: Callable[[], Awaitable[Any]]) -> StoredValueCorrupt:
    try:
        answer = await load()
    except StoredValueCorrupt as refusal:
        return refusal
    raise AssertionError(f"a damaged value was handed out: {answer!r}")


def _metadata_key(table: sa.Table, found: StoredValueCorrupt) -> list[str]:
    return [found.metadata[column.name] for column in table.primary_key if column.name != "realm"]


async def _check_lists(client: Store, stored: Stored, damaged: tuple[str, ...]) -> None:
    """The list of a runtime's inputs is refused if one is damaged; skipping it, all others are there."""
    for name in {row[1] for row in stored.loads if row[0] == "inputs"}:
        sound = [stored.values[row] for row in stored.loads if row[:2] == ("inputs", name) and row != damaged]
        found = await client.load_readable_input_states(name)
        assert found.input_states == sound
        if damaged[:2] == ("inputs", name):
            assert [corrupt.input_id for corrupt in found.corrupt_inputs] == [damaged[2]]
            await _refusal(partial(client.load_input_states, name))
        else:
            assert found.corrupt_inputs == []
            assert await client.load_input_states(name) == sound


async def test_verify_finds_each_column_that_differs_from_its_document(
    trial: Trial, app: Application, client: Store, realm: str
) -> None:
    if app.store.database.ephemeral:
        return  # it is gone with its server: there is nothing that could be verified later
    await _written(client, trial.rounds(short=2, long=3))
    changed = 0
    for _ in range(trial.rounds(short=1, long=10)):
        for table, columns in COPIES.items():
            for row in await rows(app, table, realm=realm):
                for column in columns:
                    value = row[column]
                    if isinstance(value, int):
                        other: Any = value ^ (1 << trial.random.randrange(20))
                    else:
                        where = trial.random.randrange(len(value))
                        other = value[:where] + ("0" if value[where] != "0" else "1") + value[where + 1 :]
                    await change(app, table, {column: other}, **_key(table, row))

                    findings = (await verified(app)).findings

                    now = row | {column: other}
                    named = _as_told(table, now)
                    assert findings, (table.name, column)
                    # A session whose key changed is missed by its snapshot, and a runtime's session by its runtime.
                    assert any(found.key == named for found in findings) or column == "session_id"
                    assert {found.table for found in findings} <= {table.name, "session_versions"}
                    await change(app, table, {column: value}, **_key(table, now))
                    changed += 1
    assert (await verified(app)).findings == []
    trial.record(changed_columns=changed, found_by_verify=changed)


def _as_told(table: sa.Table, row: dict[str, Any]) -> dict[str, str]:
    wide = {column.name for column in table.columns if isinstance(column.type, tables.UInt64)}
    return {name: f"{value:020d}" if name in wide else str(value) for name, value in _key(table, row).items()}
