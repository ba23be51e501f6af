"""Tells what an error of SQLite, or of what stands around it, means for the store."""

from __future__ import annotations

import errno

from sqlalchemy.exc import DBAPIError, MultipleResultsFound
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from runtimestore_server.store.engines.answers import Fault
from runtimestore_server.store.engines.commit_lock import CheckpointUnderWay, NoLock
from runtimestore_server.store.engines.file_identity import FileReplaced
from runtimestore_server.store.engines.files import is_full
from runtimestore_server.store.engines.sqlite_driver import sqlite3
from runtimestore_server.store.engines.sqlite_log import LogInDoubt

_BY_CLASS: tuple[tuple[type[Exception], Fault], ...] = (
    (PoolTimeoutError, Fault.UNAVAILABLE),
    (MultipleResultsFound, Fault.CORRUPT),  # of a primary key
    (CheckpointUnderWay, Fault.TRANSIENT),
    (FileReplaced, Fault.REPLACED),
)

_FAULTS = {
    sqlite3.SQLITE_BUSY: Fault.TRANSIENT,
    sqlite3.SQLITE_LOCKED: Fault.TRANSIENT,
    sqlite3.SQLITE_FULL: Fault.FULL,
    sqlite3.SQLITE_READONLY: Fault.READ_ONLY,
    sqlite3.SQLITE_CANTOPEN: Fault.UNAVAILABLE,
    sqlite3.SQLITE_IOERR: Fault.UNAVAILABLE,
    sqlite3.SQLITE_PERM: Fault.UNAVAILABLE,
    sqlite3.SQLITE_PROTOCOL: Fault.UNAVAILABLE,
    sqlite3.SQLITE_CORRUPT: Fault.CORRUPT,
    sqlite3.SQLITE_NOTADB: Fault.CORRUPT,
}


_LOCK_FAULTS = {
    errno.ENOSPC: Fault.FULL,
    errno.EDQUOT: Fault.FULL,
    errno.EROFS: Fault.READ_ONLY,
    errno.EACCES: Fault.READ_ONLY,
    errno.EPERM: Fault.READ_ONLY,
}
"""What keeps the lock's file from being made, and the log from being written. Whatever else goes wrong with them, the
file cannot be reached."""


def fault_of(error: Exception, file: str) -> Fault:
    """Return what an error of a call on this file means."""
    for kind, fault in _BY_CLASS:
        if isinstance(error, kind):
            return fault
    if isinstance(error, (NoLock, LogInDoubt)):
        return _LOCK_FAULTS.get(error.number or 0, Fault.UNAVAILABLE)
    cause = error.orig if isinstance(error, DBAPIError) else error
    code = getattr(cause, "sqlite_errorcode", None)
    if not isinstance(cause, sqlite3.Error) or code is None:
        return Fault.OTHER
    return Fault.FULL if is_full(code, file) else _FAULTS.get(code & 0xFF, Fault.OTHER)
