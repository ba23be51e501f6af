"""Writes made for tests of the store itself, and a look at what they left."""

from __future__ import annotations

import contextlib
import json
import uuid
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from runtimestore_server.store import tables
from runtimestore_server.store.commit_gate import CommitStop
from runtimestore_server.store.transaction import commit_batch
from runtimestore_server.store.values import (
    Deferred,
    InputDocument,
    OpsDocument,
    ReceiptDocument,
    RuntimeKey,
    SessionSnapshot,
)
from runtimestore_server.store.writes import AnyWrite, OAuthFlowWrite
from support.servers.listening import listening

if TYPE_CHECKING:
    from collections.abc import Iterator

    from runtimestore_server.store.engines import Database
    from runtimestore_server.store.requests import Decision

REALM = "test"
WRITTEN_TABLES = tuple(table for table in tables.metadata.sorted_tables if table is not tables.store_identity)


def new_id() -> str:
    """A fresh UUID as the store spells it."""
    return str(uuid.uuid4())


def runtime(runtime_id: str | None = None, realm: str = REALM) -> RuntimeKey:
    """A runtime; without an id, one that nobody else uses."""
    return RuntimeKey(realm, runtime_id or f"rt:session:{new_id()}")


def snapshot(
    text: str = "hello",
    *,
    session_id: str | None = None,
    created_at_ms: int = 1,
    updated_at_ms: int = 2,
    message_count: int = 3,
    total_tokens: int = 4,
) -> SessionSnapshot:
    """A session document that is all text."""
    body = json.dumps({"text": text}).encode()
    numbers = (created_at_ms, updated_at_ms, message_count, total_tokens)
    return SessionSnapshot(session_id or new_id(), body, sha256(body).digest(), *numbers)


def document(text: str = "queued", *, input_id: str | None = None) -> InputDocument:
    """An input's document."""
    body = json.dumps({"text": text}).encode()
    return InputDocument(input_id or new_id(), body, sha256(body).digest())


def boundary(run_id: str | None = None, sequence: int = 0, text: str = "receipt") -> ReceiptDocument:
    """A boundary receipt."""
    body = json.dumps({"text": text}).encode()
    return ReceiptDocument(run_id or new_id(), sequence, body, sha256(body).digest())


def ops(text: str = "ops") -> OpsDocument:
    """A registry of background operations."""
    body = json.dumps({"text": text}).encode()
    return OpsDocument(new_id(), body, sha256(body).digest())


def oauth(
    body: bytes, *, realm: str = REALM, request_id: str | None = None, expected_version: int | None = None
) -> OAuthFlowWrite:
    """A write to a realm's OAuth flow snapshot."""
    return OAuthFlowWrite(realm, request_id, body, sha256(body).digest(), expected_version)


def commit(database: Database, *batch: AnyWrite) -> list[Decision]:
    """What the store decides about a batch, committed."""
    decisions = commit_batch(database, batch, CommitStop().gate())[0]
    assert not any(isinstance(decision, Deferred) for decision in decisions)
    return [decision for decision in decisions if not isinstance(decision, Deferred)]


def rows(database: Database, table: sa.Table) -> list[dict[str, Any]]:
    """All rows of a table, by primary key."""
    with database.readers.connect() as connection:
        found = connection.execute(sa.select(table).order_by(*table.primary_key.columns))
        return [dict(row) for row in found.mappings()]


def everything(database: Database) -> dict[str, list[dict[str, Any]]]:
    """All that writes have left, by table; tables without rows are left out."""
    return {table.name: found for table in WRITTEN_TABLES if (found := rows(database, table))}


@contextlib.contextmanager
def statements(engine: sa.Engine) -> Iterator[list[tuple[str, Any]]]:
    """The statements that are sent meanwhile, with their parameters."""
    seen: list[tuple[str, Any]] = []

    def before(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        seen.append((" ".join(statement.split()), parameters))

    with listening(engine, before_cursor_execute=before):
        yield seen
