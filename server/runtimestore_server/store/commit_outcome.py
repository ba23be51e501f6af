"""Finds out what became of a COMMIT that was not answered: from the engine, and from the record written with it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, NamedTuple

import structlog

from runtimestore_server.store import requests
from runtimestore_server.store.engines import CommitState, Fault, error_name
from runtimestore_server.store.timeouts import UNKNOWN_LIMIT_SECONDS
from runtimestore_server.store.values import Outcome

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy.engine import Connection

    from runtimestore_server.store.commit_gate import CommitGate
    from runtimestore_server.store.engines import Database
    from runtimestore_server.store.requests import Decision
    from runtimestore_server.store.values import Deferred
    from runtimestore_server.store.writes import AnyWrite

_log = structlog.get_logger(__name__)


class Attempt(NamedTuple):
    """What a transaction decided, and what identifies it if its COMMIT is not answered."""

    decisions: list[Decision | Deferred]
    token: str | None
    now_ms: int


def find_out(database: Database, batch: Sequence[AnyWrite], attempt: Attempt, gate: CommitGate) -> CommitState:
    """Reconnect and find out, as long as there is time: COMMITTED, NOT_COMMITTED or UNKNOWN."""
    landed = [
        write
        for write, decision in zip(batch, attempt.decisions, strict=True)
        if isinstance(decision, Outcome) and not decision.replayed
    ]
    if not landed:
        # Nothing was to be committed. Refusals stand; a replay is told once a COMMIT is answered, for what it repeats
        # may not have reached a standby yet.
        replays = any(isinstance(decision, Outcome) for decision in attempt.decisions)
        return CommitState.NOT_COMMITTED if replays else CommitState.COMMITTED
    identified = next((write for write in landed if write.request_id), None)
    deadline = time.monotonic() + UNKNOWN_LIMIT_SECONDS
    while time.monotonic() < deadline:
        try:
            with database.writers.connect() as connection:
                database.check_identity()
                state = _asked(database, connection, attempt, identified)
                if state is CommitState.COMMITTED:
                    database.settle(connection)
        except Exception as error:  # noqa: BLE001  (as long as there is time, ask again)
            _log.info("asking what became of a commit", error=error_name(error))
            if database.classify(error) in (Fault.READ_ONLY, Fault.REPLACED):
                break  # that lasts, and other writers must not wait for it
        else:
            if state is not CommitState.IN_PROGRESS:
                return state
        gate.shutdown.wait(0.05)
        time.sleep(0.01)  # `wait` returns at once during a shutdown
    return CommitState.UNKNOWN


def _asked(database: Database, connection: Connection, attempt: Attempt, identified: AnyWrite | None) -> CommitState:
    """Ask first the engine, then the record: a transaction that ends between is seen by the second."""
    state = database.commit_state(connection, attempt.token)
    if state is CommitState.NOT_COMMITTED:
        return state
    if identified is None:
        return CommitState.UNKNOWN if state is CommitState.RECORD_DECIDES else state
    if requests.recorded(connection, identified, now_ms=attempt.now_ms):
        return CommitState.COMMITTED
    if state in (CommitState.COMMITTED, CommitState.RECORD_DECIDES):
        return CommitState.NOT_COMMITTED  # whatever the engine takes for it, its record is not there
    return state
