"""Commits a batch in a transaction of its own and decides what is done when that fails.

What is transient is run again, a COMMIT that was not answered is looked up, and a bad write never harms its neighbours.
"""

from __future__ import annotations

import contextlib
import random
import time
from typing import TYPE_CHECKING

import structlog

from runtimestore.errors import (
    CommitOutcomeUnknown,
    InternalError,
    RuntimeStoreError,
    StoredValueCorrupt,
    StoreFull,
    StoreReadOnly,
    StoreUnavailable,
)
from runtimestore_server.logs import UNFORESEEN, frames
from runtimestore_server.store import rights
from runtimestore_server.store.commit import commit
from runtimestore_server.store.commit_gate import CommitAborted
from runtimestore_server.store.commit_outcome import Attempt, find_out
from runtimestore_server.store.engines import CommitState, Fault, KeyNotFree, RowTaken, error_name
from runtimestore_server.store.timeouts import BRIEF_LOCK_SECONDS, TRANSIENT_LIMIT_SECONDS
from runtimestore_server.store.values import DEFERRED, Deferred, Outcome

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from runtimestore_server.store.commit_gate import CommitGate
    from runtimestore_server.store.engines import Database
    from runtimestore_server.store.requests import Decision
    from runtimestore_server.store.writes import AnyWrite

REPLACED = (
    "the store's file was removed, moved or written over while it was open; nothing was committed: "
    "put it back, or restart the server to serve what is there now"
)

_log = structlog.get_logger(__name__)


class _CommitFailed(Exception):
    """COMMIT itself raised; the decisions of the attempt hold if it was committed all the same."""

    def __init__(self, cause: Exception, attempt: Attempt) -> None:
        super().__init__("COMMIT failed")
        self.cause = cause
        self.attempt = attempt


def commit_batch(
    database: Database,
    batch: Sequence[AnyWrite],
    gate: CommitGate,
    *,
    lock_wait_seconds: float | None = None,
    committed: Callable[[list[Decision | Deferred]], None] | None = None,
) -> tuple[list[Decision | Deferred], bool]:
    """Commit a batch; return the decision about each write, and whether a transaction was committed. Never raises.

    Where COMMIT was answered, `committed` is told the decisions before the engine does what it needs after it: nobody
    has to wait for a checkpoint who is in the batch before it.

    A write that waits in vain for a row that another session holds is deferred alone. Without `lock_wait_seconds` that
    is as long as the engine is set to; with it, rows that are held are passed over, and it is how long is waited for
    what cannot be. During a shutdown nothing is run again for a transient error: "unavailable" sooner is better.
    """
    started = time.monotonic()
    attempt = 0
    while True:
        attempt += 1
        try:
            return [*_attempt(database, batch, gate, lock_wait_seconds, committed)], True
        except _CommitFailed as failed:
            if database.commit_is_ambiguous(failed.cause):
                state = find_out(database, batch, failed.attempt, gate)
                if state is CommitState.COMMITTED:
                    return [*failed.attempt.decisions], True
                if state is CommitState.UNKNOWN:
                    _log.warning("commit outcome unknown", writes=len(batch), error=error_name(failed.cause))
                    return [one if one is DEFERRED else unknown() for one in failed.attempt.decisions], False
            gate.leave()
            error = failed.cause
        except Exception as raised:  # noqa: BLE001  (whatever it is, each writer must be answered)
            error = raised
        fault = _fault(database, error)
        waited = time.monotonic() - started
        if fault is Fault.TRANSIENT and waited < TRANSIENT_LIMIT_SECONDS and not gate.shutdown.draining:
            gate.shutdown.wait(random.uniform(0.001, min(0.2, 0.002 * 2**attempt)))  # noqa: S311  (jitter, no secret)
            continue
        if fault is Fault.UNAVAILABLE and attempt == 1 and not isinstance(error, CommitAborted):
            continue  # a connection that went stale in the pool; the next one is new
        if fault is Fault.LOCKED and len(batch) > 1 and lock_wait_seconds is None:
            lock_wait_seconds = BRIEF_LOCK_SECONDS
            continue  # at once, and without who needs the row
        return _give_up(database, batch, gate, fault, error)


def _give_up(
    database: Database, batch: Sequence[AnyWrite], gate: CommitGate, fault: Fault, error: Exception
) -> tuple[list[Decision | Deferred], bool]:
    """Return what becomes of a batch that is not run again as it is."""
    if fault in (Fault.LOCKED, Fault.OTHER, Fault.CORRUPT, Fault.FORBIDDEN) and len(batch) > 1:
        return _one_by_one(database, batch, gate)
    if fault is Fault.LOCKED:
        return [DEFERRED], False
    _log_failure(fault, error, writes=len(batch))
    refusal = refusal_by(database, fault, store_error="write_failed")
    return [refusal for _ in batch], False


def _attempt(
    database: Database,
    batch: Sequence[AnyWrite],
    gate: CommitGate,
    lock_wait_seconds: float | None,
    tell: Callable[[list[Decision | Deferred]], None] | None,
) -> list[Decision | Deferred]:
    decisions: list[Decision | Deferred] = []
    committed = False
    with _once_committed(lambda: committed), database.writers.connect() as connection:
        transaction = connection.begin()
        try:
            if lock_wait_seconds is not None:
                database.limit_lock_wait(connection, lock_wait_seconds)
            with database.pipelined(connection, sum(write.size_bytes for write in batch)):
                began = database.began(connection)
                decisions = commit(
                    database,
                    connection,
                    batch,
                    now_ms=lambda: began().now_ms,
                    skip_held=lock_wait_seconds is not None,
                )
            attempt = Attempt(decisions, *began())
            database.check_identity()
            gate.enter()
        except BaseException:
            transaction.rollback()
            raise
        try:
            with database.committing():
                transaction.commit()
            database.check_identity()  # else it may be committed into what nobody will read
        except KeyNotFree:  # told in place of a COMMIT
            gate.leave()
            raise
        except Exception as error:
            database.release_after_failed_commit(connection, error)
            raise _CommitFailed(error, attempt) from error
        committed = True
        if tell is not None:
            tell(decisions)
        carried_bytes = sum(write.stored_bytes for write in batch)
        database.after_commit(connection, writes=len(batch), carried_bytes=carried_bytes)
        database.release_buffers(connection, carried_bytes)
    return decisions


@contextlib.contextmanager
def _once_committed(committed: Callable[[], bool]) -> Iterator[None]:
    """Log what fails inside once it is committed, and no more: the transaction stands, and must not run again."""
    try:
        yield
    except Exception as error:
        if not committed():
            raise
        _log.error("failed after a commit, which stands", error=error_name(error), traceback=frames(error))


def _one_by_one(
    database: Database, batch: Sequence[AnyWrite], gate: CommitGate
) -> tuple[list[Decision | Deferred], bool]:
    """Commit each write in a transaction of its own, so that one that the engine refuses, or lets wait, is alone."""
    decisions: list[Decision | Deferred] = []
    waits: set[object] = set()
    for write in batch:
        if write.subject in waits:  # not before the one that came before it
            decisions.append(DEFERRED)
            continue
        (decided,), _ = commit_batch(database, [write], gate, lock_wait_seconds=BRIEF_LOCK_SECONDS)
        if decided is DEFERRED:
            waits.add(write.subject)
        decisions.append(decided)
    return decisions, any(isinstance(decision, Outcome) for decision in decisions)


def _fault(database: Database, error: Exception) -> Fault:
    if isinstance(error, RowTaken):
        return Fault.TRANSIENT
    if isinstance(error, CommitAborted):
        return Fault.UNAVAILABLE
    try:
        database.check_identity()  # else a file that was cut, or taken away, would pass for one that is damaged
    except Exception as replaced:  # noqa: BLE001  (it is all that is told)
        error = replaced
    return database.classify(error)


def _log_failure(fault: Fault, error: Exception, *, writes: int) -> None:
    if fault is Fault.OTHER:
        # Without the exception's text: drivers quote parameters in it, and those hold documents.
        _log.error("write failed", error=error_name(error), writes=writes, traceback=frames(error))
    else:
        _log.warning("write not committed", fault=fault.value, error=error_name(error), writes=writes)


def unknown() -> CommitOutcomeUnknown:
    """Return what a caller is told whose write may or may not be there."""
    return CommitOutcomeUnknown(
        "the connection to the store died during COMMIT: the write may or may not be there; "
        "repeat it with the same request_id"
    )


def refusal_by(database: Database, fault: Fault, *, store_error: str) -> RuntimeStoreError:
    """Return what a caller is told of a fault of this database: of a missing right after a look which one it is."""
    if fault is Fault.FORBIDDEN:
        return rights.refusal(rights.looked_up(database), store_error=store_error)
    return refusal_of(fault, store_error=store_error)


def refusal_of(fault: Fault, *, store_error: str) -> RuntimeStoreError:
    """Return what a caller is told of an engine's fault that says all by itself."""
    metadata = {"store_error": store_error}
    match fault:
        case Fault.LOCKED:
            return StoreUnavailable(
                "another session of the storage engine holds a row that this call needs, for longer than is waited "
                "for; nothing was committed, try again",
                metadata=metadata,
            )
        case Fault.TRANSIENT | Fault.UNAVAILABLE | Fault.REPLACED:
            told = "the storage engine cannot be reached; nothing was committed, try again"
            return StoreUnavailable(REPLACED if fault is Fault.REPLACED else told, metadata=metadata)
        case Fault.FULL:
            return StoreFull("the storage medium is full; nothing was committed, make room", metadata=metadata)
        case Fault.READ_ONLY:
            return StoreReadOnly(
                "the storage engine accepts no writes; nothing was committed, make it writable", metadata=metadata
            )
        case Fault.CORRUPT:
            return StoredValueCorrupt(
                "the storage engine reports that its own file is damaged, not in which table; "
                "run `runtimestore verify` to see what is left, and restore the file from a backup",
                metadata=metadata | {"table": "unknown"},
            )
        case _:
            return InternalError(UNFORESEEN)
