"""What became of a COMMIT that was not answered: asked of the engine, and of the record that was written with it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, NamedTuple

import structlog

from runtimestore_server.store import requests
from runtimestore_server.store.engines import CommitState, Fault, error_name
from runtimestore_server.store.values import Acquisition, Outcome

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy.engine import Connection

    from runtimestore_server.store.ending import CommitGate
    from runtimestore_server.store.engines import Database
    from runtimestore_server.store.requests import Decision, Repeatable
    from runtimestore_server.store.values import OAuthFlowWrite, Write

UNKNOWN_LIMIT_SECONDS = 5.0
"""How long the truth about a COMMIT is sought before its writers are told that it is unknown."""

_log = structlog.get_logger(__name__)


class Attempt(NamedTuple):
    """What a transaction decided, and what identifies it if its COMMIT is not answered."""

    decisions: list[Decision]
    token: str | None
    now_ms: int


def found_out(
    database: Database, batch: Sequence[Write | OAuthFlowWrite | Acquisition], attempt: Attempt, gate: CommitGate
) -> CommitState:
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
                state = _asked(database, connection, attempt, identified)
                if state is CommitState.COMMITTED:
                    database.settle(connection)
        except Exception as error:  # noqa: BLE001  (as long as there is time, ask again)
            _log.info("asking what became of a commit", error=error_name(error))
            if database.classify(error) is Fault.READ_ONLY:
                break  # that lasts, and other writers must not wait for it
        else:
            if state is not CommitState.IN_PROGRESS:
                return state
        gate.ending.wait(0.05)
        time.sleep(0.01)  # `wait` returns at once while the server ends
    return CommitState.UNKNOWN


def _asked(database: Database, connection: Connection, attempt: Attempt, identified: Repeatable | None) -> CommitState:
    """What is known now. First the engine, then the record: a transaction that ends between is seen by the second."""
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
