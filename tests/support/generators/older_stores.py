"""Fills a store at any revision, as the code of its time would have."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from runtimestore_migrations.carrying import FORMER
from runtimestore_server.store.values import Outcome
from runtimestore_server.store.writes import Acquisition, Write
from support.generators.store_writes import (
    boundary,
    commit,
    document,
    new_id,
    oauth,
    ops,
    runtime,
    snapshot,
)
from support.servers.schemas import plainly

if TYPE_CHECKING:
    from runtimestore_server.store.engines import Database


def write_everything(database: Database) -> None:
    """A row in each table, and whatever a column holds that is hard to keep; no fence."""
    key, other = runtime(), runtime("ä\n'\"")
    written = commit(
        database,
        Write(
            key,
            new_id(),
            snapshot=snapshot("\0 é", total_tokens=2**63 - 1),
            receipt=boundary(sequence=2**64 - 1),
            inputs=tuple(document(str(number)) for number in range(3)),
            runtime_state="running",
            ops=ops(),
        ),
        Write(other, runtime_state="idle"),
        oauth(bytes(range(256)), request_id=new_id()),
    )
    assert written == [Outcome(1)] * 3


def write_everything_and_acquire(database: Database) -> None:
    """The same, and a fence."""
    write_everything(database)
    assert commit(database, Acquisition(runtime(), "an owner")) == [Outcome(1)]


def write_before_versions(database: Database) -> None:
    """What the code wrote that knew one snapshot a runtime, and the newest alone."""
    key, body, digest = {"realm": "test", "runtime_id": "ä\n'\""}, b'{"text": "\0 \xc3\xa9"}', b"d" * 32
    row_of: dict[str, dict[str, Any]] = {
        "runtimes": {**key, "revision": 17, "runtime_state": "running"},
        "requests": {
            "realm": "test",
            "request_id": new_id(),
            "fingerprint": digest,
            "revision": 3,
            "recorded_at_ms": 5,
        },
        "session_snapshots": {**key, "session_id": new_id(), "sha256": digest, "body": body},
        "sessions": {
            "realm": "test",
            "session_id": new_id(),
            "runtime_id": key["runtime_id"],
            "created_at_ms": 1,
            "updated_at_ms": 2,
            "message_count": 3,
            "total_tokens": 2**63 - 1,
        },
        "inputs": {**key, "input_id": new_id(), "sha256": digest, "state_json": body},
        "receipts": {**key, "run_id": new_id(), "sequence": "18446744073709551615", "sha256": digest, "receipt": body},
        "ops_snapshots": {**key, "epoch_id": new_id(), "sha256": digest, "snapshot_json": body},
        "oauth_flow_snapshots": {"realm": "test", "version": 1, "sha256": digest, "snapshot_json": bytes(range(256))},
        "fences": {**key, "fence": 4, "owner": "an owner", "acquired_at_ms": 5},
    }
    found = sa.MetaData()
    with plainly(database) as connection:
        found.reflect(connection)
        for name, row in row_of.items():
            if name in found.tables:
                connection.execute(sa.insert(found.tables[name]).values(row))
        other = {"realm": "test", "runtime_id": "without a session", "revision": 1}
        connection.execute(sa.insert(found.tables["runtimes"]).values(other))
        connection.commit()


def write_while_carrying(database: Database) -> None:
    """What an upgrade left that was cut off: one session was carried over, one was not."""
    write_everything_and_acquire(database)
    with plainly(database) as connection:
        former = sa.Table(FORMER, sa.MetaData(), autoload_with=connection)
        row = {"realm": "test", "runtime_id": "ä\n'\"", "session_id": new_id(), "sha256": b"d" * 32, "body": b"{}"}
        connection.execute(sa.insert(former).values(row))
        connection.commit()
