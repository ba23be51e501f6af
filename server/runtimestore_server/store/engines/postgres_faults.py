"""Tells what an error of Postgres, or of the way to it, means for the store."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError, MultipleResultsFound
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from runtimestore_server.store.engines.answers import Fault
from runtimestore_server.store.engines.postgres_connections import CommitInDoubt
from runtimestore_server.store.engines.postgres_stale import is_stale

_FAULTS = {
    "40001": Fault.TRANSIENT,  # serialization_failure
    "40P01": Fault.TRANSIENT,  # deadlock_detected
    "55P03": Fault.LOCKED,  # lock_not_available
    "53100": Fault.FULL,  # disk_full
    "25P03": Fault.UNAVAILABLE,  # idle_in_transaction_session_timeout, of a server that stood still
    "25P04": Fault.UNAVAILABLE,  # transaction_timeout
    "25006": Fault.READ_ONLY,  # read_only_sql_transaction: a standby, or default_transaction_read_only
    "42501": Fault.FORBIDDEN,  # insufficient_privilege: a right that is missing, or a policy of row-level security
    "23502": Fault.CORRUPT,  # not_null_violation: of a row that is changed, no insert lacks a value
    "23505": Fault.CORRUPT,  # unique_violation: every insert says what to do on a conflict, so an index missed one
}
_FAULT_CLASSES = {
    "08": Fault.UNAVAILABLE,  # connection exceptions
    "28": Fault.UNAVAILABLE,  # invalid authorization: the operator's mistake, not the caller's
    "3D": Fault.UNAVAILABLE,  # the database is gone
    "53": Fault.UNAVAILABLE,  # insufficient resources
    "57": Fault.UNAVAILABLE,  # operator intervention: shutdown, crash, recovery
    "58": Fault.UNAVAILABLE,  # system errors: I/O
    "XX": Fault.CORRUPT,  # what cannot be: data_corrupted, index_corrupted, and under plain statements the rest too
}


def fault_of(error: Exception) -> Fault:
    """Return what an error means by its SQLSTATE; one without is the connection's."""
    if isinstance(error, (PoolTimeoutError, CommitInDoubt)):
        return Fault.UNAVAILABLE
    if isinstance(error, MultipleResultsFound):
        return Fault.CORRUPT  # of a primary key
    if not isinstance(error, DBAPIError):
        return Fault.OTHER
    if is_stale(error.orig):
        return Fault.TRANSIENT
    state = getattr(error.orig, "sqlstate", None)
    if state is None:
        # psycopg has no SQLSTATE where the connection broke or could not be made.
        return Fault.UNAVAILABLE if _is_operational(error) else Fault.OTHER
    return _FAULTS.get(state) or _FAULT_CLASSES.get(state[:2], Fault.OTHER)


def _is_operational(error: DBAPIError) -> bool:
    # InternalError: the last words of a process that was told to go came before, or instead of, the answer.
    connections = (sa.exc.OperationalError, sa.exc.InterfaceError, sa.exc.InternalError)
    return isinstance(error, connections) or error.connection_invalidated
