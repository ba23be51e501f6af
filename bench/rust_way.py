"""The Rust store's way, in process and in Python: what a runtime does without a server.

A stand-in, not the Rust store: the steps that its SQLite store takes, in Python's sqlite3. A connection is opened for
each call, with WAL and `synchronous=FULL`; whole documents are written, and two copies of the session in one
transaction: the runtime's snapshot and the row of the sessions' table. It has those methods of the client that the
workloads call.
"""

from __future__ import annotations

import asyncio
import json
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

from runtimestore import InputState, RunBoundaryReceipt
from runtimestore_server.store.engines.sqlite_driver import sqlite3

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

T = TypeVar("T")

RUST_WAY = "rust-way"
"""Its name among what is measured."""
BUSY_SECONDS = 60

TABLES = """
CREATE TABLE IF NOT EXISTS runtime_sessions (runtime_id TEXT PRIMARY KEY, snapshot BLOB NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS sessions (
    session_id TEXT PRIMARY KEY, document BLOB NOT NULL, message_count INTEGER NOT NULL, total_tokens INTEGER NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS inputs (
    runtime_id TEXT, input_id TEXT, state BLOB NOT NULL, PRIMARY KEY (runtime_id, input_id)
) STRICT;
CREATE TABLE IF NOT EXISTS receipts (
    runtime_id TEXT, run_id TEXT, sequence INTEGER, receipt BLOB NOT NULL, PRIMARY KEY (runtime_id, run_id, sequence)
) STRICT;
CREATE TABLE IF NOT EXISTS states (runtime_id TEXT PRIMARY KEY, state TEXT NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS ops (runtime_id TEXT PRIMARY KEY, snapshot BLOB NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS oauth (realm TEXT PRIMARY KEY, document BLOB NOT NULL) STRICT;
"""


class RustWay:
    """One store file. Calls run on threads, as the Rust store's do on those for blocking work."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with self._connection() as connection:
            connection.execute("PRAGMA journal_mode=WAL")
            connection.executescript(TABLES)

    async def persist_input_state(self, runtime_id: str, state: InputState) -> None:
        """Write one input."""

        def run(connection: sqlite3.Connection) -> None:
            _write_inputs(connection, runtime_id, [state])

        await self._transaction(run)

    async def atomic_apply(
        self,
        runtime_id: str,
        session_delta: bytes | None,
        receipt: RunBoundaryReceipt,
        input_updates: Sequence[InputState] = (),
        session_store_key: str | None = None,
    ) -> None:
        """Write both copies of the session, the receipt and all inputs."""

        def run(connection: sqlite3.Connection) -> None:
            if session_delta is not None:
                _write_session(connection, runtime_id, session_delta, session_store_key)
            proof = json.dumps([receipt.boundary.name, receipt.contributing_input_ids, receipt.message_count])
            row = (runtime_id, receipt.run_id, receipt.sequence, proof.encode())
            connection.execute("INSERT INTO receipts VALUES (?, ?, ?, ?)", row)
            _write_inputs(connection, runtime_id, input_updates)

        await self._transaction(run)

    async def load_session_snapshot(self, runtime_id: str) -> bytes | None:
        """Read the session."""
        return await self._loaded("SELECT snapshot FROM runtime_sessions WHERE runtime_id = ?", runtime_id)

    async def load_input_states(self, runtime_id: str) -> list[InputState]:
        """Read all inputs."""

        def run(connection: sqlite3.Connection) -> list[InputState]:
            asked = "SELECT input_id, state FROM inputs WHERE runtime_id = ? ORDER BY input_id"
            return [InputState(name, state.decode()) for name, state in connection.execute(asked, (runtime_id,))]

        return await self._read(run)

    async def load_boundary_receipt(self, runtime_id: str, run_id: str, sequence: int) -> bytes | None:
        """Read one receipt."""
        asked = "SELECT receipt FROM receipts WHERE runtime_id = ? AND run_id = ? AND sequence = ?"
        return await self._loaded(asked, runtime_id, run_id, sequence)

    async def load_runtime_state(self, runtime_id: str) -> str | None:
        """Read the state."""
        return await self._loaded("SELECT state FROM states WHERE runtime_id = ?", runtime_id)

    async def commit_machine_lifecycle(self, runtime_id: str, commit: str, input_states: Sequence[InputState]) -> None:
        """Write the state and all inputs."""

        def run(connection: sqlite3.Connection) -> None:
            connection.execute("REPLACE INTO states VALUES (?, ?)", (runtime_id, commit))
            _write_inputs(connection, runtime_id, input_states)

        await self._transaction(run)

    async def persist_ops_lifecycle(self, runtime_id: str, snapshot: str) -> None:
        """Write the registry of background operations."""

        def run(connection: sqlite3.Connection) -> None:
            connection.execute("REPLACE INTO ops VALUES (?, ?)", (runtime_id, snapshot.encode()))

        await self._transaction(run)

    async def load_ops_lifecycle(self, runtime_id: str) -> bytes | None:
        """Read the registry of background operations."""
        return await self._loaded("SELECT snapshot FROM ops WHERE runtime_id = ?", runtime_id)

    async def update_auth_oauth_flow_snapshot(self, update: Callable[[bytes | None], bytes]) -> None:
        """Replace the OAuth flow snapshot by what `update` makes of it, within the transaction."""

        def run(connection: sqlite3.Connection) -> None:
            row = connection.execute("SELECT document FROM oauth WHERE realm = ''").fetchone()
            connection.execute("REPLACE INTO oauth VALUES ('', ?)", (update(row[0] if row else None),))

        await self._transaction(run)

    async def close(self) -> None:
        """Do nothing: no connection outlives its call."""

    async def _loaded(self, asked: str, *values: object) -> T | None:
        def run(connection: sqlite3.Connection) -> T | None:
            row = connection.execute(asked, values).fetchone()
            return row[0] if row else None

        return await self._read(run)

    async def _transaction(self, run: Callable[[sqlite3.Connection], None]) -> None:
        def whole() -> None:
            with self._connection() as connection:
                connection.execute("BEGIN IMMEDIATE")
                run(connection)
                connection.execute("COMMIT")

        await asyncio.to_thread(whole)

    async def _read(self, run: Callable[[sqlite3.Connection], T]) -> T:
        def whole() -> T:
            with self._connection() as connection:
                return run(connection)

        return await asyncio.to_thread(whole)

    @contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection]:
        connection = sqlite3.connect(self._path, timeout=BUSY_SECONDS, isolation_level=None)
        try:
            connection.execute("PRAGMA synchronous=FULL")
            yield connection
        finally:
            connection.close()


def _write_session(connection: sqlite3.Connection, runtime_id: str, document: bytes, session_id: str | None) -> None:
    parsed = json.loads(document)
    tokens = sum(parsed.get("usage", {}).values())
    connection.execute("REPLACE INTO runtime_sessions VALUES (?, ?)", (runtime_id, document))
    projection = (session_id or parsed["id"], document, len(parsed["messages"]), tokens)
    connection.execute("REPLACE INTO sessions VALUES (?, ?, ?, ?)", projection)


def _write_inputs(connection: sqlite3.Connection, runtime_id: str, states: Sequence[InputState]) -> None:
    rows = [(runtime_id, state.input_id, state.state_json.encode()) for state in states]
    connection.executemany("REPLACE INTO inputs VALUES (?, ?, ?)", rows)
