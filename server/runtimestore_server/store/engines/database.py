"""Defines what the store asks of a database: statements over many rows, and answers that engines give differently."""

from __future__ import annotations

import contextlib
import time
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.exc import DisconnectionError, SQLAlchemyError

from runtimestore_server.store.engines.answers import Began, CommitState, Fault, KeyNotFree, Lacking, Sizes
from runtimestore_server.store.engines.direct import Answer, Row

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from sqlalchemy.engine import Connection, Engine, ExceptionContext
    from sqlalchemy.pool import ConnectionPoolEntry
    from sqlalchemy.sql.expression import FromClause

LARGE_BYTES = 8 * 1024 * 1024
"""A connection that carried this much at once keeps buffers of that size: it is closed, and the next one is new."""

_READ_ONLY = "runtimestore takes no writes"
_MADE = "runtimestore made at"


class Database(ABC):
    """A database and its capabilities."""

    name: str
    """What GetServerInfo calls the engine."""
    ephemeral = False
    """Whether everything is forgotten when the process ends."""
    creates_itself = False
    """Whether a missing database is created at start."""
    concurrent_writers: bool
    """Whether several transactions write at a time, so that rows need locks."""
    begins_reading = "BEGIN"
    """What begins a transaction that sees one moment and writes nothing."""
    writers: Engine
    readers: Engine
    committing: Callable[[], contextlib.AbstractContextManager[object]] = contextlib.nullcontext
    """Entered around each COMMIT; whoever watches the database sets it."""

    @abstractmethod
    def given(self, *columns: sa.Column[Any]) -> FromClause:
        """Return the keys of a statement as a table expression with these columns; `ask` binds the keys."""

    @abstractmethod
    def ask(
        self, tx: Connection, statement: sa.Executable, columns: tuple[sa.Column[Any], ...], keys: Sequence[Row]
    ) -> Answer[list[Any]]:
        """Run a statement that was made once over `given(*columns)`, for these keys."""

    def pipelined(self, tx: Connection, carried_bytes: int) -> contextlib.AbstractContextManager[None]:
        """Pipeline the statements inside: each is sent before the ones before it are answered; errors may come later.

        They may come as late as COMMIT, which is then sent behind what is not answered yet. `carried_bytes` is how much
        the statements inside carry altogether.
        """
        return contextlib.nullcontext()  # where the engine is in this process, nothing is waited for

    @abstractmethod
    def upsert(self, tx: Connection, table: sa.Table, rows: Sequence[Row]) -> None:
        """Insert rows of all columns, or replace what is there under the same primary key, in one statement.

        NULL leaves what is there.
        """

    @abstractmethod
    def insert_missing(self, tx: Connection, table: sa.Table, rows: Sequence[Row]) -> None:
        """Insert those of the rows whose primary key is free, in one statement."""

    def insert_new(self, tx: Connection, table: sa.Table, rows: Sequence[Row], *, taken: KeyNotFree) -> Answer[None]:
        """Insert rows whose primary keys are all free, in one statement.

        `taken` is raised if one is not: where the answer is asked for, or by COMMIT, which then commits nothing.
        """
        # Where one transaction writes at a time, nobody can have been first.
        self.insert_missing(tx, table, rows)
        return Answer.found(None)

    @abstractmethod
    def classify(self, error: Exception) -> Fault:
        """Return what an error means, told by the driver's code, never by its text."""

    def began(self, tx: Connection) -> Answer[Began]:
        """Return what is known of a transaction that writes; asked as its first statement."""
        return Answer.found(Began(None, self.now_ms(tx)))

    def now_ms(self, tx: Connection) -> int:
        """Return the time by the database's clock; of a database within this process that is the host's."""
        return time.time_ns() // 1_000_000

    def clocks_differ_ms(self, now_ms: int) -> int:
        """Tell how far the database's clock is ahead of the host's; 0 where they are one."""
        return 0

    def commit_is_ambiguous(self, error: Exception) -> bool:
        """Tell whether an error of COMMIT leaves open if the transaction is committed."""
        return False

    def commit_state(self, tx: Connection, token: str | None) -> CommitState:
        """Return what became of the transaction `token`; asked on a new connection."""
        return CommitState.UNKNOWN

    def problem(self, connection: Connection) -> str | None:
        """Say why this database cannot keep what the store puts into it, and the cure; None if it can."""
        return None

    def missing_rights(self, connection: Connection, needed: Mapping[str, Sequence[str]]) -> list[Lacking]:
        """Tell which of these rights, by table, the engine's role does not have; a table that is missing lacks none."""
        return []

    def sha256_of(self, column: sa.Column[Any]) -> sa.ColumnElement[Any]:
        """Return the SHA-256 of the bytes in a column; NULL of what is no bytes."""
        return sa.func.sha256(column)

    def limit_lock_wait(self, tx: Connection, seconds: float) -> None:
        """Wait for rows that another session holds no longer than this, until the transaction ends."""
        del tx, seconds  # where one transaction writes at a time, there are no such rows

    def durability_warnings(self, tx: Connection) -> list[str]:
        """Return what the engine's settings take from the promises, a sentence each that begins with the setting."""
        return []

    def pooler_warnings(self, connection: Connection) -> list[str]:
        """Return what cannot be had through a pooler that stands before the engine, and the cure: a sentence each."""
        return []

    def connection_warnings(self, connection: Connection) -> list[str]:
        """Tell where the engine takes fewer connections than this server may open: a sentence each."""
        return []

    def settle(self, tx: Connection) -> None:
        """Commit, so that all that was committed before is as durable as an answered COMMIT makes it."""
        tx.commit()

    def check_identity(self) -> None:  # noqa: B027  (most engines have nothing to look at)
        """See that what is open is what the settings name. Raises if it is not.

        Asked before and after each COMMIT, and whenever a write fails: what is wrong may be that alone.
        """

    def problem_of_writes(self) -> str | None:
        """Say why no write can be taken, and the cure, where that can be told without one; None if it cannot."""
        return None

    def after_commit(self, connection: Connection, *, writes: int, carried_bytes: int) -> None:  # noqa: B027  (as below)
        """Do what the engine needs once a transaction was committed. Never raises: the transaction stands."""

    @property
    def untidy(self) -> bool:
        """Whether `tidy` has work that could not be done after a commit."""
        return False

    def tidy(self) -> None:  # noqa: B027  (most engines have nothing to do)
        """Retry work that could not be done after a commit, on the thread that commits. May raise."""

    @property
    def log_bytes(self) -> int | None:
        """How long the engine's log is; None where that is not beside a file of this store."""
        return None

    @property
    def checkpoint_counts(self) -> Mapping[str, int]:
        """How often this process tried to bring the log into the file, by outcome."""
        return {}

    def sizes(self, tx: Connection, tables: Sequence[str]) -> Sizes:
        """Tell how much the store takes, and these tables."""
        return Sizes(None, {})

    @property
    def versions(self) -> dict[str, str]:
        """The versions of what the server brings along for this engine, by name."""
        return {}

    def defects(self) -> list[str]:
        """Return what is known to be wrong with these versions, a sentence each."""
        return []

    def discard(self, connection: Connection) -> None:
        """Close a connection, with whatever state it is in, instead of giving it back to the pool."""
        connection.invalidate()

    def release_after_failed_commit(self, connection: Connection, error: Exception) -> None:
        """Release a connection whose COMMIT failed with `error`: its transaction may still be open."""
        self.discard(connection)

    def release_buffers(self, connection: Connection, carried_bytes: int) -> None:
        """Let go of what a connection keeps of a large document: drivers never shrink their buffers."""
        if carried_bytes >= LARGE_BYTES:
            self.discard(connection)

    @abstractmethod
    def migration_lock(self, connection: Connection) -> None:
        """Wait until no other process migrates; held until the transaction ends."""

    @abstractmethod
    def snapshot(self) -> contextlib.AbstractContextManager[Connection]:
        """Open a transaction that reads and sees one moment throughout, and streams what a statement finds."""

    @contextlib.contextmanager
    def one_moment(self, connection: Connection) -> Iterator[None]:
        """Have all statements of a reader's connection see one moment: they are one transaction, which is none else."""
        connection.exec_driver_sql(self.begins_reading)
        try:
            yield
        except BaseException:
            with contextlib.suppress(SQLAlchemyError):  # it broke, or ended by itself: what ended it is to be told
                connection.exec_driver_sql("ROLLBACK")
            raise
        connection.exec_driver_sql("ROLLBACK")

    def integrity_problems(self, tx: Connection) -> Iterator[str]:
        """Yield what the engine finds wrong with its own file, if it can look."""
        yield from ()

    @abstractmethod
    def lacks_table(self, error: Exception) -> bool:
        """Tell whether an error of a read says that there is no such table or column."""

    def _reopen_when_read_only(self) -> None:
        """Close a connection for writes that takes none once it is given back: it would not take them later either.

        A file that was opened without the right to write, a session that began while the database was read-only or
        that leads to a server which is a standby now: all of them stay what they are. So may every connection be that
        was made before, though it met no error yet.
        """
        met = 0.0

        def look(context: ExceptionContext) -> None:
            nonlocal met
            error = context.sqlalchemy_exception
            if context.connection is not None and error is not None and self.classify(error) is Fault.READ_ONLY:
                met = time.monotonic()
                context.connection.info[_READ_ONLY] = True

        def made(_driver: object, record: ConnectionPoolEntry) -> None:
            record.info[_MADE] = time.monotonic()

        def given_back(_driver: object, record: ConnectionPoolEntry) -> None:
            if record.info.pop(_READ_ONLY, False):
                record.invalidate()

        def taken(_driver: object, record: ConnectionPoolEntry, _fairy: object) -> None:
            if record.info.get(_MADE, 0.0) <= met:
                raise DisconnectionError  # which makes the pool close it and make a new one

        event.listen(self.writers, "connect", made)
        event.listen(self.writers, "handle_error", look)
        event.listen(self.writers, "checkin", given_back)
        event.listen(self.writers, "checkout", taken)

    def dispose(self) -> None:
        """Close every connection."""
        self.writers.dispose()
        self.readers.dispose()
